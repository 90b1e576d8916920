"""Designs mapped to standard cells, with Yosys and ABC, by pinned scripts."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from softmaxkit.files import cache_folder, content_key, whole_folder
from softmaxkit.flow.buffering import buffer_registers
from softmaxkit.flow.cells.functions import expression
from softmaxkit.flow.cells.liberty import LibertyError
from softmaxkit.flow.cells.library import Cell, Library
from softmaxkit.flow.cells.writing import to_liberty
from softmaxkit.flow.netlist import Netlist, read_netlist
from softmaxkit.flow.tools import ToolError, call, need
from softmaxkit.flow.verilog import without_header

FRONT = """
{read}
hierarchy -check -top {top}
proc -norom
setattr -unset init
delete t:$print t:$check t:$meminit t:$meminit_v2
{apart}
flatten
opt_expr
opt_clean
check -assert
opt -nodffe -nosdff
wreduce
peepopt
opt_clean
alumacc
opt
memory -nomap
opt_clean
opt -fast -full
memory_map
opt -undriven -fine
techmap
opt -fast
opt_dff -simple-dffe
write_rtlil registers.il
{gate}
dfflegalize {registers}
opt_expr
opt_merge
opt_clean -purge
select -set apart A:keep_hierarchy=1
techmap -map latches.v
dfflibmap -liberty cells.lib
abc -liberty cells.lib -constr constraints -script small.abc @apart
opt_clean -purge
write_rtlil generic.il
"""
"""From a design to gates of Yosys's own and registers of the library; what is mapped apart, to its cells, once for all.

Registers with an enable get a gated clock, four at least.
"""

BACK = """
read_rtlil generic.il
abc -liberty cells.lib -constr constraints -script {recipe}.abc A:keep_hierarchy=1 %n
opt_clean -purge
{ties}
setattr -mod -unset keep_hierarchy *
flatten
opt_clean -purge
check -mapped
write_json {recipe}.json
"""
"""From gates to cells."""

LAST = """
read_json design.json
write_verilog -noattr -simple-lhs -nohex design.v
"""
"""From cells to Verilog."""

FEWER = ";".join(
    f"resub -K {inputs} -l;rewrite -l;resub -K {inputs} -N 2 -l;refactor {zero} -l;balance -l"
    for inputs, zero in ((6, ""), (8, ""), (10, "-z"), (12, "-z"))
)
"""Restructuring for few gates, in windows of more and more inputs."""

BEGIN = "strash;ifraig;scorr"
DEEP = "&get -n;&st;&if -g -K 6;&put"
END = "topo;buffer -c;topo;upsize {D};dnsize {D};stime -p"
RECIPES = {
    "smallest": f"{BEGIN};{FEWER};{FEWER};strash;dch;dch;amap -m;{END}",
    "smaller": f"{BEGIN};{FEWER};{FEWER};strash;{DEEP};dch;dch;amap -m;{END}",
    "small": f"{BEGIN};dc2;dc2;strash;{DEEP};dch;amap;{END}",
    "balanced": f"{BEGIN};dc2;strash;{DEEP};dch;map -a;{END}",
    "fast": f"{BEGIN};dc2;strash;&get -n;&st;&syn2;&if -g -K 6;&put;dch;map;{END}",
    "fastest": f"{BEGIN};dc2;strash;&get -n;&st;&syn2;&if -g -K 6;&put;dch;map;{END.replace('{D}', '')}",
}
"""What ABC does: restructure for area or depth, map for area or delay, then buffer and size with the real tables."""

SHARE = 0.92
"""Part of the clock that ABC sizes for: it knows nothing of the registers around, whose time is the rest."""

REGISTERS = {(False, False): "$_DFF_P_", (True, False): "$_DFF_PN0_", (False, True): "$_DFF_PN1_"}
"""Flip-flops of Yosys, by whether they have an asynchronous clear, and preset."""


class Mapped(NamedTuple):
    """A design in cells.

    Attributes:
        recipe: which of `RECIPES` made it.
        netlist: the cells.
        design: the same, as Yosys writes it in JSON.
    """

    recipe: str
    netlist: Netlist
    design: dict[str, Any]

    def to_verilog(self) -> str:
        """Return it as Verilog.

        Raises:
            ToolError: Yosys is missing or failed.
        """
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            (work / "design.json").write_text(json.dumps(self.design), encoding="utf-8")
            (work / "script.ys").write_text(LAST, encoding="utf-8")
            _yosys(need("yosys"), "script.ys", work, "writing a netlist as Verilog")
            verilog = without_header((work / "design.v").read_text(encoding="utf-8"))
        return re.sub(r"^(\s*(?:input|output|wire)) signed\b", r"\1", verilog, flags=re.MULTILINE)


class Source(NamedTuple):
    """A design to be mapped.

    Attributes:
        top: name of its top module.
        files: text by file name: RTLIL (.il) or Verilog.
        apart: patterns of the names of modules that are mapped by themselves, so that their cells can be told apart.
    """

    top: str
    files: dict[str, str]
    apart: tuple[str, ...] = ()


def map_design(source: Source, library: Library, clock: float, recipes: Sequence[str] = tuple(RECIPES)) -> list[Mapped]:
    """Map a design by several recipes, kept in the cache by their content.

    Args:
        source: the design.
        library: the cells.
        clock: in ns, what sizing aims at.
        recipes: names in `RECIPES`.

    Raises:
        ToolError: Yosys is missing or failed, or the design has what these cells cannot do.
        LibertyError: the library lacks cells without which nothing can be mapped.
    """
    scripts = {**_scripts(source, library, clock), "cells.lib": to_liberty(library)}
    key = content_key(source, scripts, _version())
    generic = cache_folder() / "mapped" / key
    yosys = need("yosys")
    if not generic.is_dir():
        with whole_folder(generic) as work:
            for name, text in {**source.files, **scripts}.items():
                (work / name).write_text(text, encoding="utf-8")
            try:
                _yosys(yosys, "front.ys", work, f"reading {source.top}")
            finally:  # what cannot be mapped is said before what Yosys says of it
                if (work / "registers.il").is_file():
                    _check_registers((work / "registers.il").read_text(encoding="utf-8"), library)

    def mapped(recipe: str) -> Mapped:
        folder = cache_folder() / "mapped" / f"{key}-{recipe}"
        if not folder.is_dir():
            with whole_folder(folder) as work:
                for name in ("generic.il", "cells.lib", "constraints", f"{recipe}.ys", f"{recipe}.abc"):
                    shutil.copy(generic / name, work)
                _yosys(yosys, f"{recipe}.ys", work, f"mapping {source.top} ({recipe})")
                (work / "cells.lib").unlink()
        design = json.loads((folder / f"{recipe}.json").read_text(encoding="utf-8"))
        buffer_registers(design["modules"][source.top], library)
        return Mapped(recipe, read_netlist(design, source.top, library), design)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(mapped, recipes))


def read_verilog(files: Sequence[Path], top: str | None) -> Source:
    """Return anybody's Verilog as a design.

    Args:
        files: Verilog or SystemVerilog.
        top: name of the top module; may be left out where there is one module alone.

    Raises:
        ValueError: there is no such module, or it is not said which.
        OSError: a file cannot be read.
    """
    texts: dict[str, str] = {}
    for path in files:
        name = path.name if path.name not in texts else f"{len(texts)}_{path.name}"
        texts[name] = path.read_text(encoding="utf-8", errors="replace")
    comment = re.compile(r"//.*?$|/\*.*?\*/", re.MULTILINE | re.DOTALL)
    head = re.compile(r"^\s*(?:\(\*.*?\*\)\s*)*module\s+(\w+)", re.MULTILINE)
    modules = [name for text in texts.values() for name in head.findall(comment.sub(" ", text))]
    if top is None and len(modules) == 1:
        top = modules[0]
    if top is None or top not in modules:
        asked = "say which module is the top, with --top" if top is None else f"there is no module {top}"
        raise ValueError(f"{asked}; there {'are' if len(modules) > 1 else 'is'} {', '.join(modules) or 'none'}")
    return Source(top, texts)


def _version() -> str:
    return call([need("yosys"), "-V"], Path.cwd(), "asking for its version").strip()


def _yosys(yosys: str, script: str, work: Path, doing: str) -> None:
    """Run a script; what Yosys calls an error counts as one, and so does what ABC does."""
    printed = call([yosys, "-q", "-s", script], work, doing)
    wrong = [line for line in printed.splitlines() if re.search(r"\bERROR\b|\*\* cmd error|Error:", line)]
    if wrong:
        raise ToolError(f"Yosys went on after an error while {doing}:\n" + "\n".join(f"  {line}" for line in wrong[:5]))


def _scripts(source: Source, library: Library, clock: float) -> dict[str, str]:
    """Return all the files that Yosys and ABC need besides the design and the cells."""
    states = [(cell, cell.state) for cell in library.cells.values() if cell.state is not None]
    flip_flops = [state for _, state in states if state.kind == "flip-flop" and len(expression(state.data).names) == 1]
    there = {(bool(state.clear), bool(state.preset)) for state in flip_flops}
    kinds = [name for has, name in REGISTERS.items() if has in there]
    if "$_DFF_P_" not in kinds:
        raise LibertyError(f"{library.name} has no plain flip-flop; a design cannot be mapped to it")
    inverter = _inverter(library)
    registers = " ".join(f"-cell {kind} x" for kind in [*kinds, "$_DLATCH_P_", "$_DLATCH_N_"])
    read = "\n".join(
        f"read_rtlil {name}" if name.endswith(".il") else f"read_verilog -sv -defer {name}" for name in source.files
    )
    apart = "\n".join(f"setattr -mod -set keep_hierarchy 1 {each}" for each in source.apart)
    gate = "clockgate -liberty cells.lib -min_net_size 4" if library.clock_gates else ""
    scripts = {
        "front.ys": FRONT.format(read=read, top=source.top, apart=apart, gate=gate, registers=registers),
        "latches.v": "".join(_latch(positive, library, inverter) for positive in (True, False)),
        "constraints": f"set_driving_cell {inverter.name}\nset_load 10\n",
    }
    for recipe, text in RECIPES.items():
        scripts[f"{recipe}.abc"] = text.replace("{D}", f"-D {SHARE * clock * 1e3:.0f}")
        scripts[f"{recipe}.ys"] = BACK.format(recipe=recipe, ties=_ties(library))
    return scripts


def _inverter(library: Library) -> Cell:
    """Return an inverter to stand for what drives a design's inputs: not the weakest there is."""
    found = library.computing(lambda pin: 1 - pin, 1)
    if not found:
        raise LibertyError(f"{library.name} has no inverter; a design cannot be mapped to it")
    return found[min(1, len(found) - 1)]


def _latch(positive: bool, library: Library, inverter: Cell) -> str:
    """Return a rule that maps a latch to a cell; one of the other polarity takes an inverter."""
    cell = library.latches.get(positive) or library.latches.get(not positive)
    if cell is None:
        return ""
    same = positive in library.latches
    enable = cell.clock_pin
    data, output = next(name for name in cell.inputs if name != enable), cell.outputs[0]
    (given,), (taken,) = inverter.inputs, inverter.outputs
    lines = [f"module \\$_DLATCH_{'P' if positive else 'N'}_ (input E, D, output Q);"]
    if not same:
        lines += ["wire e;", f"{inverter.name} inverter (.{given}(E), .{taken}(e));"]
    lines.append(f"{cell.name} _TECHMAP_REPLACE_ (.{enable}({'E' if same else 'e'}), .{data}(D), .{output}(Q));")
    return "\n".join([*lines, "endmodule\n"])


def _ties(library: Library) -> str:
    """Return the command that gives constants a cell, where the library has one."""
    found: dict[int, tuple[str, str]] = {}
    for cell in library.cells.values():
        if cell.is_tie:
            for name in cell.outputs:
                found.setdefault(expression(cell.pins[name].function).truth([])[0], (cell.name, name))
    if set(found) != {0, 1}:
        return ""
    return f"hilomap -hicell {' '.join(found[1])} -locell {' '.join(found[0])} -singleton"


def _check_registers(generic: str, library: Library) -> None:
    """Refuse registers that cells cannot do, or that timing here does not know."""
    kinds = set(re.findall(r"cell (\$_\w+)", generic))
    if any(re.match(r"\$_(?:S?DFFE?|SDFFCE|ALDFFE?|DFFSRE?)_N", kind) for kind in kinds):
        raise ToolError(
            "the design has flip-flops of the clock's falling edge; units are timed from rising edge to edge"
        )
    if any("DLATCH" in kind for kind in kinds) and not library.latches:
        raise ToolError(f"the design has latches, and {library.name} has none; build the unit with flip-flops")
