"""Synthesis: from a unit to area, clock, power and energy, with every output of the netlist compared with golden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxkit.flow.activity import Activity, count_toggles
from softmaxkit.flow.cells.library import Library
from softmaxkit.flow.cells.processes import PROCESSES, library_of
from softmaxkit.flow.cells.reading import library_from_liberty
from softmaxkit.flow.gates import simulate_netlist
from softmaxkit.flow.mapping import Mapped, Source, map_design
from softmaxkit.flow.power import Energy, energies
from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.scores import sampled_rows
from softmaxkit.flow.timing import Timing, analyse
from softmaxkit.flow.vectors import Rows, stream
from softmaxkit.flow.verilog import to_rtlil

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.methods.base.constants import Constants

ROW = 256
"""Scores of the rows that energy is measured with, unless a unit's rows are shorter."""

CYCLES = 2048
"""Cycles that activity is counted over, about."""

PARTS = {"row buffer": "buffer", "tables": "*_table"}
"""Parts that only hold words, by the names of the components that they are. All else is the datapath."""

CHECKED = 2000
"""Outputs that are compared under stalls with each set of constants, about: rows of all lengths, with masks."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Synthesis:
    """What a design costs.

    Attributes:
        cells: name of the process, or of the library.
        clock: period in ns at which power is given.
        met: is the netlist that fast?
        mapped: the netlist: the smallest that meets the clock, or the fastest where none does.
        timing: of the netlist.
        area: in um2, by part: "datapath", "tables", "row buffer".
        fastest: in MHz, what the fastest netlist of all that were tried reaches.
        fastest_area: in um2, that one's area.
        energy: by part; nothing where there was no activity.
        activity: changes of nets.
        elements: scores taken in each cycle, on average.
        row: scores of a row.
        compared, mismatches: outputs of the netlist against golden.
        faults: what is wrong with them, in words.
        corners: timing of the netlist at other corners, by the names of their libraries.
    """

    cells: str
    clock: float
    met: bool
    mapped: Mapped
    timing: Timing
    area: dict[str, float]
    fastest: float
    fastest_area: float
    energy: dict[str, Energy] = field(default_factory=dict)
    activity: Activity | None = None
    elements: float = 0.0
    row: int = ROW
    compared: int = 0
    mismatches: int = 0
    faults: tuple[str, ...] = ()
    corners: dict[str, Timing] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """Return the figures of the record; their names carry units."""
        found: dict[str, Any] = {
            "cells": self.cells,
            "clock_ns": self.clock,
            "clock_met": self.met,
            "recipe": self.mapped.recipe,
            "area_um2": round(sum(self.area.values()), 3),
            "area_without_row_buffer_um2": round(sum(self.area.values()) - self.area.get("row buffer", 0.0), 3),
            **{f"area_{part.replace(' ', '_')}_um2": round(area, 3) for part, area in self.area.items()},
            "instances": sum(self.mapped.netlist.counts().values()),
            "fmax_mhz": round(self.timing.fmax_mhz, 3),
            "fastest_mhz": round(self.fastest, 3),
            "area_of_fastest_um2": round(self.fastest_area, 3),
            "instances_by_cell": self.mapped.netlist.counts(),
            "longest_path": [step._asdict() for step in self.timing.path],
            "fmax_at_corners_mhz": {name: round(timing.fmax_mhz, 3) for name, timing in self.corners.items()},
        }
        if self.activity is None:
            return found
        total = {part: each.cycle(self.clock) for part, each in self.energy.items()}
        kinds = {kind: sum(getattr(each, kind) for each in self.energy.values()) for kind in KINDS}
        outside = sum(amount for part, amount in total.items() if part != "row buffer")
        return found | {
            "energy_pj_per_element": sum(total.values()) / self.elements,
            "energy_without_row_buffer_pj_per_element": outside / self.elements,
            "energy_row_buffer_pj_per_element": total.get("row buffer", 0.0) / self.elements,
            f"energy_pj_per_row_of_{self.row}": sum(total.values()) / self.elements * self.row,
            "clock_energy_pj_per_element": kinds["clock"] / self.elements,
            **{f"power_{kind}_mw": kinds[kind] / self.clock for kind in ("switching", "internal", "clock")},
            "power_leakage_mw": kinds["leakage"] * 1e-6,
            "power_mw": sum(total.values()) / self.clock,
            "activity_cycles": self.activity.cycles,
            "glitches_percent": 100 * self.activity.glitches,
            "compared": self.compared,
            "mismatches": self.mismatches,
        }


KINDS = ("switching", "internal", "clock", "leakage")


def part_of(name: str, parts: Mapping[str, str] = MappingProxyType(PARTS)) -> str:
    """Return the part that an instance belongs to: the first whose component it is in."""
    components = name.removeprefix("$flatten\\").split(".")[:-1]
    inside = (part for part, pattern in parts.items() if any(fnmatchcase(each, pattern) for each in components))
    return next(inside, "datapath")


def chosen_library(cells: str = "sky130", liberty: Sequence[Path] = (), wires: bool = True) -> Library:
    """Return the cells to map to.

    Args:
        cells: a process that comes with the package, in `softmaxkit.flow.cells.processes.PROCESSES`; its rules, which
            cells to leave out and what wires are like, hold for `liberty` too.
        liberty: files of a library to be taken whole, plain or gzip, in place of the package's tables.
        wires: estimate wires, by how many pins each net drives.

    Raises:
        ValueError: there is no such process.
        LibertyError: a file is damaged.
        OSError: it cannot be read.
    """
    library = library_of(cells)
    process = PROCESSES[cells]
    if liberty:
        library = library_from_liberty(liberty, process.wire).without(process.left_out)
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
) -> Synthesis:
    """Map a unit to cells, time it, run the netlist on real scores, compare every output, and count its energy.

    Args:
        unit: baked or loadable; memories that it has ports for are not counted.
        cells: process, see `chosen_library`.
        clock: period in ns to be met, and for power; left out: the process's own.
        wires: estimate them.
        liberty: files in place of the package's tables.
        constants: to load; left out: those baked in, or the spec's first example.
        rows: of equal length, to run; left out: the package's sample of real scores.
        progress: called with steps done and all.
        parts: what to count apart: patterns of components' names, by what to call it.

    Raises:
        ToolError: a tool is missing or failed.
        LibertyError: the library is damaged or lacks what is needed.
        ValueError: there is no such process.
    """
    library = chosen_library(cells, liberty, wires)
    period = clock if clock is not None else PROCESSES[cells].clock
    tick = _ticker(progress, 4)
    apart = tuple(f"*_{pattern}" for pattern in parts.values())
    source = Source("unit", {"design.il": to_rtlil(unit, "unit")}, apart)
    found = fit(map_design(source, library, period), period, library.name if liberty else cells, parts)
    tick()
    if constants is None:
        constants = unit.constants if unit.constants is not None else unit.spec.examples()[0]
    length = min(ROW, unit.max_row) if rows is None else int(rows.lengths[0])
    interval = unit.interval(length)
    window = max(1, round(CYCLES / interval)) * interval
    warm_up = unit.latency(length) + interval + 64 + (0 if unit.registers is None else 2 * unit.registers.words)
    count = -(-(warm_up + window) // interval) + 2
    if rows is None:
        rows = sampled_rows(unit.spec, constants, count, length)
    steady = stream(unit, [(constants, rows.taken(np.arange(count) % len(rows.lengths)))])
    # Loadable constants change several times, so that their way in is seen to work.
    given = [constants] if unit.registers is None else [*unit.spec.examples(), constants]
    random = np.random.default_rng(0)
    stalled = stream(unit, [(each, random_rows(unit, each, CHECKED, random)) for each in given])
    outcomes, states = simulate_netlist(unit, found.mapped.netlist, steady, stalled, warm_up + window)
    tick()
    activity = count_toggles(found.mapped.netlist, found.timing, states, warm_up)
    tick()
    energy = energies(found.mapped.netlist, found.timing, activity, lambda name: part_of(name, parts))
    tick()
    runs = list(zip(outcomes, (steady, stalled), strict=True))
    return replace(
        found,
        energy=energy,
        activity=activity,
        elements=length / interval,
        row=length,
        compared=sum(int(run.positions[: each.compared].sum()) for each, run in runs),
        mismatches=sum(each.wrong_results for each in outcomes),
        faults=tuple(fault for each, run in runs for fault in each.faults(run)),
    )


def fit(
    mapped: Sequence[Mapped], clock: float, cells: str, parts: Mapping[str, str] = MappingProxyType(PARTS)
) -> Synthesis:
    """Return the smallest netlist that meets a clock in ns, or the fastest; without activity."""
    timings = [analyse(each.netlist) for each in mapped]
    areas = [sum(each.netlist.areas().values()) for each in mapped]
    fastest = min(range(len(mapped)), key=lambda i: timings[i].period)
    meeting = [i for i in range(len(mapped)) if timings[i].period <= clock]
    best = min(meeting, key=lambda i: areas[i]) if meeting else fastest
    area = mapped[best].netlist.areas(lambda name: part_of(name, parts))
    return Synthesis(
        cells,
        clock,
        bool(meeting),
        mapped[best],
        timings[best],
        {part: area[part] for part in ("datapath", *parts) if part in area},
        timings[fastest].fmax_mhz,
        areas[fastest],
    )


def at_corners(found: Synthesis, corners: Sequence[Path]) -> Synthesis:
    """Return a synthesis with its netlist timed at other corners, each a Liberty file of the same cells.

    Raises:
        LibertyError: a file is damaged, or lacks a cell.
        OSError: it cannot be read.
    """
    netlist = found.mapped.netlist
    libraries = [library_from_liberty([path], netlist.library.wire) for path in corners]
    timings = {library.name: analyse(netlist.with_library(library)) for library in libraries}
    return replace(found, corners=timings)


def _ticker(progress: Progress | None, steps: int) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, steps)

    return tick
