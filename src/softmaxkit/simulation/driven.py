"""Netlist simulation of any design with chosen inputs: area, clock and energy per cycle, and its outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from amaranth.lib.wiring import Component

from softmaxkit.flow.activity import count_toggles, state_nets
from softmaxkit.flow.cells.processes import PROCESSES
from softmaxkit.flow.gates import FILE, read_states, simulation_model
from softmaxkit.flow.mapping import map_design
from softmaxkit.flow.netlist import Netlist
from softmaxkit.flow.power import energies
from softmaxkit.flow.simulate import compile_model
from softmaxkit.flow.sources import Source
from softmaxkit.flow.synthesize import check_clock, chosen_library, fit
from softmaxkit.flow.tools import call, need
from softmaxkit.flow.verilog import to_rtlil
from softmaxkit.formats import Array

OUTPUTS = "outputs"
"""File name of the outputs of a run."""


class NetlistRun(NamedTuple):
    """A synthesised design, with its energy and outputs for some inputs.

    Attributes:
        area_um2: area of all cells.
        fmax_mhz: maximum clock of the chosen netlist: the smallest that meets the clock, else the fastest.
        clock_ns: the target clock period, over which leakage is counted.
        energy_pj_per_cycle: mean energy per cycle, including glitches, clock and leakage.
        outputs: for each output port, its value in each cycle, sampled after the rising edge.
    """

    area_um2: float
    fmax_mhz: float
    clock_ns: float
    energy_pj_per_cycle: float
    outputs: dict[str, list[int]]

    def figures(self) -> dict[str, Any]:
        """Return the figures for a record, rounded to 4 digits; their names end in their unit."""
        return {key: round(value, 4) for key, value in self._asdict().items() if key != "outputs"}


def drive(
    component: Component,
    inputs: Mapping[str, Sequence[int]],
    cells: str,
    clock: float | None = None,
    warm_up: int = 16,
) -> NetlistRun:
    """Map a design to cells, simulate the netlist with the inputs, and measure it.

    Args:
        component: the design, with one clock, and a reset that is asserted in the first cycle only.
        inputs: for each Verilog input port except clock and reset, a non-negative integer per cycle.
        cells: the process, see `softmaxkit.flow.cells.processes`.
        clock: the target clock period in ns; None for that of the process.
        warm_up: initial cycles that are excluded from the energy.

    Raises:
        ToolError: a tool is missing or failed.
        ValueError: the process is unknown, or the clock is not positive.
    """
    check_clock(clock)
    library, period = chosen_library(cells), clock or PROCESSES[cells].clock
    source = Source("unit", {"design.il": to_rtlil(component, "unit")})
    fitted = fit(map_design(source, library, period), period, cells)
    netlist = fitted.mapped.netlist
    states, outputs = _run(netlist, inputs)
    activity = count_toggles(netlist, fitted.timing, states, warm_up)
    cycle = sum(energy.cycle(period) for energy in energies(netlist, fitted.timing, activity).values())
    return NetlistRun(sum(fitted.area.values()), fitted.timing.fmax_mhz, period, cycle, outputs)


def _run(netlist: Netlist, inputs: Mapping[str, Sequence[int]]) -> tuple[Array, dict[str, list[int]]]:
    """Return the states of `state_nets`, (cycles, nets), and the outputs of each cycle."""
    cycles = len(next(iter(inputs.values())))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, values in inputs.items():
            # Verilator 5.006 drops a last word without a line end.
            (work / f"{name}.hex").write_text("".join(f"{value:x}\n" for value in values), encoding="ascii")
        lines = [*simulation_model(netlist, "netlist", cycles), *_bench(netlist, inputs, cycles)]
        (work / "bench.sv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [need("verilator"), "--cc", "--exe", "--main", "--timing", "-O3", "-Wno-fatal", "-Wno-lint"]
        command += ["--output-split", "0", "--top-module", "bench", "-CFLAGS", "-std=c++20", "bench.sv"]  # coroutines
        call(command, work, "reading a netlist")
        compile_model(work / "obj_dir", "Vbench", "-O0", "timing")
        call([str(work / "obj_dir" / "Vbench")], work, "simulating a netlist")
        states = read_states((work / FILE).read_text(encoding="ascii"), len(state_nets(netlist)))
        words = [line.split() for line in (work / OUTPUTS).read_text(encoding="ascii").splitlines()]
    columns = zip(*words, strict=True)
    return states, {
        name: [int(word, 16) for word in column] for name, column in zip(netlist.outputs, columns, strict=True)
    }


def _bench(netlist: Netlist, inputs: Mapping[str, Sequence[int]], cycles: int) -> Iterator[str]:
    """Yield the lines of a test bench that, at each falling edge, writes the outputs and applies the next inputs."""
    yield "module bench;"
    yield f"reg {netlist.clock} = 0; integer cycle = 0, out;"
    for name, nets in (netlist.inputs | netlist.outputs).items():
        if name != netlist.clock:
            yield f"{'reg' if name in netlist.inputs else 'wire'} [{len(nets) - 1}:0] {name};"
    for name in inputs:
        yield f"reg [{len(netlist.inputs[name]) - 1}:0] {name}_of [0:{cycles - 1}];"
    yield "initial begin"
    yield from (f'$readmemh("{name}.hex", {name}_of); {name} = {name}_of[0];' for name in inputs)
    yield "".join(f"{name} = 1;" for name in netlist.inputs if name not in inputs and name != netlist.clock)
    yield f'out = $fopen("{OUTPUTS}", "w"); end'
    yield f"always #5 {netlist.clock} = ~{netlist.clock};"
    words = ", ".join(netlist.outputs)
    yield f"always @(negedge {netlist.clock}) begin"
    yield f'$fwrite(out, "{" ".join("%h" for _ in netlist.outputs)}\\n", {words});'
    yield f"cycle = cycle + 1; if (cycle == {cycles}) $finish;"
    yield from (f"{name} = {name}_of[cycle];" for name in inputs)
    yield "".join(f"{name} = 0;" for name in netlist.inputs if name not in inputs and name != netlist.clock)
    yield "end"
    yield f"netlist netlist ({', '.join(f'.{name}({name})' for name in netlist.inputs | netlist.outputs)});"
    yield "endmodule"
