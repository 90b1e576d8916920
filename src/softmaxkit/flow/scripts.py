"""The pinned scripts by which Yosys and ABC map a design to standard cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softmaxkit.flow.cells.functions import expression
from softmaxkit.flow.cells.liberty import LibertyError
from softmaxkit.flow.cells.library import Cell, Library

if TYPE_CHECKING:
    from softmaxkit.flow.mapping import Source

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
"""From a design to Yosys's generic gates and registers of the library. Modules that are kept apart are mapped to cells
here, once for all recipes. Four or more registers with a common enable get a gated clock.
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
    "smaller": f"{BEGIN};{FEWER};{FEWER};strash;{DEEP};dch;dch;amap -m;{END}",
    "small": f"{BEGIN};dc2;dc2;strash;{DEEP};dch;amap;{END}",
    "balanced": f"{BEGIN};dc2;strash;{DEEP};dch;map -a;{END}",
    "fast": f"{BEGIN};dc2;strash;&get -n;&st;&syn2;&if -g -K 6;&put;dch;map;{END}",
    "fastest": f"{BEGIN};dc2;strash;&get -n;&st;&syn2;&if -g -K 6;&put;dch;map;{END.replace('{D}', '')}",
}
"""ABC's recipes: restructure for area or depth, map for area or delay, then buffer and size with the real tables."""

SHARE = 0.92
"""Fraction of the clock period that ABC sizes for. It does not see the registers, whose delay takes the rest."""

REGISTERS = {(False, False): "$_DFF_P_", (True, False): "$_DFF_PN0_", (False, True): "$_DFF_PN1_"}
"""Yosys's flip-flops, by whether they have an asynchronous clear and an asynchronous preset."""


def mapping_scripts(source: Source, library: Library, clock: float) -> dict[str, str]:
    """Return the files that Yosys and ABC need besides the design and the cells, by name.

    Raises:
        LibertyError: the library has no plain flip-flop or no inverter.
    """
    states = [(cell, cell.state) for cell in library.cells.values() if cell.state is not None]
    flip_flops = [state for _, state in states if state.kind == "flip-flop" and len(expression(state.data).names) == 1]
    available = {(bool(state.clear), bool(state.preset)) for state in flip_flops}
    kinds = [name for resets, name in REGISTERS.items() if resets in available]
    if "$_DFF_P_" not in kinds:
        raise LibertyError(f"{library.name} has no plain flip-flop; a design cannot be mapped to it")
    inverter = _inverter(library)
    registers = " ".join(f"-cell {kind} x" for kind in [*kinds, "$_DLATCH_P_", "$_DLATCH_N_"])
    read = "\n".join(
        f"read_rtlil {name}" if name.endswith(".il") else f"read_verilog -sv -defer {name}" for name in source.files
    )
    apart = "\n".join(f"setattr -mod -set keep_hierarchy 1 {pattern}" for pattern in source.apart)
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
    """Return the inverter that is assumed to drive inputs of a design: the second smallest, if there are several."""
    inverters = library.computing(lambda pin: 1 - pin, 1)
    if not inverters:
        raise LibertyError(f"{library.name} has no inverter; a design cannot be mapped to it")
    return inverters[min(1, len(inverters) - 1)]


def _latch(positive: bool, library: Library, inverter: Cell) -> str:
    """Return a techmap rule from a latch to a cell, with an inverter if the library only has the other polarity."""
    cell = library.latches.get(positive) or library.latches.get(not positive)
    if cell is None:
        return ""
    same = positive in library.latches
    enable = cell.clock_pin
    data, output = next(name for name in cell.inputs if name != enable), cell.outputs[0]
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
