"""The pinned scripts by which Yosys and ABC map a design to standard cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softmaxkit.flow.cells.functions import expression
from softmaxkit.flow.cells.liberty import LibertyError
from softmaxkit.flow.cells.library import Cell, Library

if TYPE_CHECKING:
    from softmaxkit.flow.sources import Source

FRONT = """
{read}
{contents}
proc
{initial}
setattr -unset init
delete t:$print t:$check
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
memory -nomap -nordff
opt_clean
opt -fast -full
memory_map
{initial_words}
setattr -unset init
opt -undriven -fine
techmap
opt -fast
opt_dff -simple-dffe
write_rtlil registers.il
{registers_too}
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
"""From a design to Yosys's generic gates and registers of the library. Modules that are mapped separately are mapped to
cells here, once for all recipes. Four or more registers with a common enable get a gated clock. Cells have no initial
values, but in a user's Verilog a memory that is never written keeps its contents, since it is a table.
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
"""From generic gates to cells of the library."""

FEWER = ";".join(
    f"resub -K {inputs} -l;rewrite -l;resub -K {inputs} -N 2 -l;refactor {zero} -l;balance -l"
    for inputs, zero in ((6, ""), (8, ""), (10, "-z"), (12, "-z"))
)
"""Restructuring for area, in windows of increasing size."""

BEGIN = "strash;ifraig;scorr"
DEEP = "&get -n;&st;&if -g -K 6;&put"
END = "topo;buffer -c;topo;upsize {D};dnsize {D};stime -p"
RECIPES = {
    "smallest": f"{BEGIN};{FEWER};{FEWER};strash;dch;dch;amap -m;{END}",
    "thorough": f"{BEGIN};dc2;dc2;dc2;dc2;{FEWER};strash;dch;dch;amap -m -F 50 -A 50;{END}",
    "smaller": f"{BEGIN};{FEWER};{FEWER};strash;{DEEP};dch;dch;amap -m;{END}",
    "small": f"{BEGIN};dc2;dc2;strash;{DEEP};dch;amap;{END}",
    "balanced": f"{BEGIN};dc2;strash;{DEEP};dch;map -a;{END}",
    "fast": f"{BEGIN};dc2;strash;&get -n;&st;&syn2;&if -g -K 6;&put;dch;map;{END}",
    "fastest": f"{BEGIN};dc2;strash;&get -n;&st;&syn2;&if -g -K 6;&put;dch;map;{END.replace('{D}', '')}",
}
"""ABC's recipes: restructure for area or depth, map for area or delay, then buffer and size with the library tables."""

SHARE = 0.92
"""Fraction of the clock period that ABC sizes for. It does not see the registers, whose delay is the rest."""

REGISTERS = ("$_DFF_P_", "$_DFF_PN0_", "$_DFF_PN1_", "$_DFF_PP0_", "$_DFF_PP1_")
"""Yosys's rising-edge flip-flops: plain, and with active-low or active-high clear or preset."""

UNIT = {"contents": "delete t:$meminit t:$meminit_v2", "initial": "", "initial_words": "", "registers_too": ""}
"""Fields of `FRONT` for units, whose memories start with any contents."""

VERILOG = {
    "contents": "",
    "initial": "tee -q -o initial.txt select -list a:init\nsetattr -mod -unset keep_hierarchy *\n"
    "setattr -unset keep_hierarchy\ntribuf",
    "initial_words": "tee -q -a initial.txt select -list a:init",
    "registers_too": "write_json registers.json",
}
"""Fields of `FRONT` for a user's Verilog: signals with initial values are listed, and registers written for checks."""


def mapping_scripts(source: Source, library: Library, clock: float) -> dict[str, str]:
    """Return the files that Yosys and ABC require in addition to the design and the cells, by name.

    Raises:
        LibertyError: the library has no plain flip-flop or no inverter.
    """
    flip_flops = [cell for cell in library.cells.values() if cell.state is not None and cell.state.kind == "flip-flop"]
    available = {_register(cell) for cell in flip_flops}
    kinds = [kind for kind in REGISTERS if kind in available]
    if REGISTERS[0] not in kinds:
        raise LibertyError(f"{library.name} has no plain flip-flop; no design can be mapped to it")
    inverter = _inverter(library)
    registers = " ".join(f"-cell {kind} x" for kind in [*kinds, "$_DLATCH_P_", "$_DLATCH_N_"])
    steps = VERILOG if source.is_verilog else UNIT
    apart = "\n".join(f"setattr -mod -set keep_hierarchy 1 {pattern}" for pattern in source.apart)
    gate = "clockgate -liberty cells.lib -min_net_size 4" if library.clock_gates else ""
    scripts = {
        "front.ys": FRONT.format(read=source.commands(), apart=apart, gate=gate, registers=registers, **steps),
        "latches.v": "".join(_latch(positive, library, inverter) for positive in (True, False)),
        "constraints": f"set_driving_cell {inverter.name}\nset_load 10\n",
    }
    for recipe, text in RECIPES.items():
        scripts[f"{recipe}.abc"] = text.replace("{D}", f"-D {SHARE * clock * 1e3:.0f}")
        scripts[f"{recipe}.ys"] = BACK.format(recipe=recipe, ties=_ties(library))
    return scripts


def _register(cell: Cell) -> str:
    """Return the one of `REGISTERS` that a cell implements; empty if it is none of them."""
    state = cell.state
    assert state is not None
    forced = [(text, value) for text, value in ((state.clear, 0), (state.preset, 1)) if text]
    if state.clock != cell.clock_pin or expression(state.data).source not in cell.inputs or len(forced) > 1:
        return ""
    if not forced:
        return "$_DFF_P_"
    ((text, value),) = forced
    levels = expression(text).truth(expression(text).names)
    return f"$_DFF_P{'P' if levels == (0, 1) else 'N'}{value}_" if len(levels) == 2 else ""


def _inverter(library: Library) -> Cell:
    """Return the inverter that is assumed to drive a design's inputs: the second smallest, if there are several."""
    inverters = library.computing(lambda pin: 1 - pin, 1)
    if not inverters:
        raise LibertyError(f"{library.name} has no inverter; no design can be mapped to it")
    return inverters[min(1, len(inverters) - 1)]


def _latch(positive: bool, library: Library, inverter: Cell) -> str:
    """Return a techmap rule from a latch to a cell, with an inverter if the library has only the other polarity."""
    cell = library.latches.get(positive) or library.latches.get(not positive)
    if cell is None:
        return ""
    same = positive in library.latches
    enable = cell.clock_pin
    data, output = next(name for name in cell.inputs if name != enable), cell.state_output
    (inverter_input,), (inverter_output,) = inverter.inputs, inverter.outputs
    lines = [f"module \\$_DLATCH_{'P' if positive else 'N'}_ (input E, D, output Q);"]
    if not same:
        lines += ["wire e;", f"{inverter.name} inverter (.{inverter_input}(E), .{inverter_output}(e));"]
    lines.append(f"{cell.name} _TECHMAP_REPLACE_ (.{enable}({'E' if same else 'e'}), .{data}(D), .{output}(Q));")
    return "\n".join([*lines, "endmodule\n"])


def _ties(library: Library) -> str:
    """Return the command that maps constants to tie cells; empty if the library has none."""
    ties: dict[int, tuple[str, str]] = {}
    for cell in library.cells.values():
        if cell.is_tie:
            for name in cell.outputs:
                ties.setdefault(expression(cell.pins[name].function).truth([])[0], (cell.name, name))
    if set(ties) != {0, 1}:
        return ""
    return f"hilomap -hicell {' '.join(ties[1])} -locell {' '.join(ties[0])} -singleton"
