"""Synthesis: area, clock, power and energy of a unit, with every output of the netlist compared with golden."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from softmaxkit.flow.activity import count_toggles
from softmaxkit.flow.cells.library import Library
from softmaxkit.flow.cells.macros import Macro
from softmaxkit.flow.cells.processes import PROCESSES, library_of
from softmaxkit.flow.cells.reading import library_from_liberty
from softmaxkit.flow.corners import at_corners, read_corners
from softmaxkit.flow.figures import ROW, Synthesis
from softmaxkit.flow.gates import simulate_netlist
from softmaxkit.flow.mapping import Mapped, map_design
from softmaxkit.flow.power import energies
from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.scores import sampled_rows
from softmaxkit.flow.sizing import REACH, resized
from softmaxkit.flow.sources import Source
from softmaxkit.flow.sram import MACROS, memories_in_use
from softmaxkit.flow.timing import Timing, analyse
from softmaxkit.flow.vectors import Rows, Stream, stream
from softmaxkit.flow.verilog import to_rtlil
from softmaxkit.methods.base.constants import Constants, Sets
from softmaxkit.methods.base.spec import check_unit
from softmaxkit.warning import warn

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit

CYCLES = 2048
"""Approximate number of cycles to count activity over at one lane; with more lanes, fewer cycles for as many scores."""

LEAST_CYCLES = 512
"""Approximate number of cycles at many lanes."""

PARTS = {"row buffer": "buffer", "tables": "*_table"}
"""Parts that contain storage only, with the patterns of their component names. The rest is the datapath."""

CHECKED = 2000
"""Approximate number of outputs to compare under stalls, per set of constants, in rows of all lengths with masks."""

Progress = Callable[[int, int], None]


def part_of(name: str, parts: Mapping[str, str] = MappingProxyType(PARTS)) -> str:
    """Return the part that an instance belongs to: the first whose pattern matches a component that contains it."""
    components = name.removeprefix("$flatten\\").split(".")[:-1]
    for part, pattern in parts.items():
        if any(fnmatchcase(component, pattern) for component in components):
            return part
    return "datapath"


def chosen_library(cells: str = "sky130", liberty: Sequence[Path] = (), wires: bool = True) -> Library:
    """Return the cells to map to; warns, in one line, of cells of `liberty` that are left out.

    Args:
        cells: a bundled process, in `softmaxkit.flow.cells.processes.PROCESSES`. Its choice of cells and its estimate
            of wires also apply to `liberty`.
        liberty: Liberty files of one library, plain or gzip, to use instead of the bundled tables.
        wires: estimate wire capacitance from the number of pins that a net drives.

    Raises:
        ValueError: there is no such process.
        LibertyError: a file is damaged.
        OSError: a file cannot be read.
    """
    library = library_of(cells)
    process = PROCESSES[cells]
    if liberty:
        whole = library_from_liberty(liberty, process.wire)
        library = whole.without(process.left_out)
        unused = tuple(name for name in whole.cells if name not in library.cells)
        library = replace(library, remarks=library.remarks | {f"left out as --cells {cells} chooses": unused})
        if library.remark:
            warn(f"{', '.join(map(str, liberty))}: {library.remark}")
    return library if wires else replace(library, wire=0.0)


def synthesize(
    unit: SoftmaxUnit,
    cells: str = "sky130",
    clock: float | None = None,
    wires: bool = True,
    liberty: Sequence[Path] = (),
    constants: Constants | None = None,
    rows: Rows | None = None,
    progress: Progress | None = None,
    parts: Mapping[str, str] = MappingProxyType(PARTS),
    macros: Sequence[Macro] = (),
    corners: Sequence[Sequence[Path]] = (),
) -> Synthesis:
    """Map a unit to cells, time it, run the netlist on real scores, compare every output, and measure its energy.

    Args:
        unit: baked or loadable. External memories have separate figures, from `macros` and the number of accesses.
        cells: process, see `chosen_library`.
        clock: target clock period in ns, also used for power; default: that of the process.
        wires: estimate wire capacitance.
        liberty: Liberty files to use instead of the bundled tables.
        constants: constants to load; default: those baked in, or the first example of the spec.
        rows: rows to run, all of the same length; default: the bundled sample of real scores.
        progress: called with the number of steps done and the total.
        parts: parts to report separately, with patterns of component names.
        macros: macros to build external memories from; default: those published for the process.
        corners: the Liberty files of each other corner, at which to time the netlist as well.

    Raises:
        ToolError: a tool is missing or failed.
        LibertyError: the library or a corner is damaged or lacks a required cell.
        ValueError: there is no such process, the clock is not positive, or the rows differ in length or are too long.
        TypeError: the unit is not one, but a spec for instance.
    """
    check_unit(unit)
    _check_input(unit, clock, rows)
    library = chosen_library(cells, liberty, wires)
    others = read_corners(corners, library)
    period = clock if clock is not None else PROCESSES[cells].clock
    tick = _ticker(progress, 4)
    apart = tuple(f"*_{pattern}" for pattern in parts.values())
    source = Source("unit", {"design.il": to_rtlil(unit, "unit")}, apart)
    fitted = fit(map_design(source, library, period), period, library.name if liberty else cells, parts, others)
    tick()
    if constants is None:
        constants = unit.constants if unit.constants is not None else unit.spec.examples()[0]
    length = min(ROW, unit.max_row) if rows is None else int(rows.lengths[0])
    interval = unit.interval(length)
    window = max(1, round(max(CYCLES // unit.lanes, LEAST_CYCLES) / interval)) * interval
    loaded_words = 0 if unit.registers is None else unit.sets * unit.registers.words
    warm_up = unit.latency(length) + interval + 64 + 2 * loaded_words
    count = -(-(warm_up + window) // interval) + 2
    if rows is None:
        rows = sampled_rows(unit.spec, constants, count, length)
    steadily = rows.taken(np.arange(count) % len(rows.lengths))
    own: Constants | Sets = constants
    if unit.sets > 1:  # rows use the sets in turn, all with the same constants
        steadily = replace(steadily, sets=np.arange(count) % unit.sets)
        own = Sets((constants,) * unit.sets)
    steady = stream(unit, [(own, steadily)])
    # Load constants several times, to test the configuration port as well.
    loads = [own] if unit.registers is None else [*unit.loads(unit.spec.examples()), own]
    random = np.random.default_rng(0)
    stalled = stream(unit, [(load, random_rows(unit, load, CHECKED, random)) for load in loads])
    run = measured(fitted, unit, steady, stalled, (warm_up, window), parts, macros or MACROS[cells], tick)
    return replace(run, elements=length / interval, row=length)


def check_clock(clock: float | None) -> None:
    """Raise ValueError if a clock period in ns is neither positive and finite nor None, for that of the process."""
    if clock is not None and not 0 < clock < math.inf:
        raise ValueError(f"clock must be a positive number of ns, got {clock}")


def _check_input(unit: SoftmaxUnit, clock: float | None, rows: Rows | None) -> None:
    check_clock(clock)
    lengths = np.ones(1, np.int64) if rows is None else rows.lengths
    if len(lengths) == 0 or lengths.min() != lengths.max():
        extent = f"lengths of {lengths.min()} to {lengths.max()}" if len(lengths) else "none"
        raise ValueError(f"rows must be one or more of the same length, got {extent}")
    if lengths.max() > unit.max_row:
        raise ValueError(f"the unit accepts rows of up to {unit.max_row} scores, got rows of {lengths.max()}")


def measured(
    fitted: Synthesis,
    unit: SoftmaxUnit,
    steady: Stream,
    stalled: Stream,
    cycles: tuple[int, int],
    parts: Mapping[str, str],
    macros: Sequence[Macro],
    tick: Callable[[], None],
) -> Synthesis:
    """Return a synthesis with the energy of its netlist and the comparison of its outputs with golden.

    Args:
        fitted: the synthesis without activity.
        unit: the unit that was synthesised.
        steady: stimulus at full rate, for the energy, with the results of golden.
        stalled: the same for the run with gaps and stalls.
        cycles: number of cycles to warm up, and to measure.
        parts: as for `synthesize`.
        macros: macros to build external memories from.
        tick: called after each of three steps.
    """
    warm_up, window = cycles
    netlist = fitted.mapped.netlist
    outcomes, states = simulate_netlist(unit, netlist, steady, stalled, warm_up + window)
    tick()
    activity = count_toggles(netlist, fitted.timing, states, warm_up)
    tick()
    all_glitches = count_toggles(netlist, fitted.timing, states, warm_up, inertial=False)
    energy, settled, unswallowed = (
        energies(netlist, fitted.timing, changes, lambda name: part_of(name, parts))
        for changes in (activity, activity.without_glitches, all_glitches)
    )
    tick()
    runs = list(zip(outcomes, (steady, stalled), strict=True))
    return replace(
        fitted,
        energy=energy,
        settled=settled,
        unswallowed=unswallowed,
        memories=memories_in_use(unit, netlist, activity, macros),
        activity=activity,
        compared=sum(int(run.positions[: outcome.compared].sum()) for outcome, run in runs),
        mismatches=sum(outcome.wrong_results for outcome in outcomes),
        faults=tuple(fault for outcome, run in runs for fault in outcome.faults(run)),
    )


def fit(
    mapped: Sequence[Mapped],
    clock: float,
    cells: str,
    parts: Mapping[str, str] = MappingProxyType(PARTS),
    corners: Mapping[str, Library] = MappingProxyType({}),
) -> Synthesis:
    """Return the smallest netlist that meets a clock period in ns, or else the fastest one; without activity.

    Netlists that miss the clock by little are resized, if they are smaller than the smallest that meets it; so is the
    fastest if none does.

    It is also timed at `corners`, other corners of its library by name, where it need not meet the clock.
    """
    tried = [_timed(design) for design in mapped]
    smallest = min((run.area for run in tried if run.timing.period <= clock), default=math.inf)
    quickest = min(tried, key=_period)
    for run in sorted(tried, key=lambda run: run.area):
        within_reach = run.timing.period <= REACH * clock or run is quickest
        if run.timing.period > clock and within_reach and run.area < smallest:
            tried.append(_timed(resized(run.mapped, max(clock, run.timing.period / REACH))))
            if tried[-1].timing.period <= clock:
                smallest = min(smallest, tried[-1].area)
    fastest = min(tried, key=_period)
    best = min((run for run in tried if run.timing.period <= clock), key=lambda run: run.area, default=fastest)
    area = best.mapped.netlist.areas(lambda name: part_of(name, parts))
    return Synthesis(
        cells,
        clock,
        best.timing.period <= clock,
        best.mapped,
        best.timing,
        {part: area[part] for part in ("datapath", *parts) if part in area},
        fastest.timing.fmax_mhz,
        fastest.area,
        corners=at_corners(best.mapped.netlist, corners),
    )


class _Timed(NamedTuple):
    """A mapped design, its timing, and its area in um2."""

    mapped: Mapped
    timing: Timing
    area: float


def _period(run: _Timed) -> float:
    return run.timing.period


def _timed(mapped: Mapped) -> _Timed:
    return _Timed(mapped, analyse(mapped.netlist), sum(mapped.netlist.areas().values()))


def _ticker(progress: Progress | None, steps: int) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, steps)

    return tick
