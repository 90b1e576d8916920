"""The result of a synthesis and its figures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from softmaxkit.flow.activity import Activity
from softmaxkit.flow.mapping import Mapped
from softmaxkit.flow.power import KINDS, Energy
from softmaxkit.flow.sram import Use, memory_figures
from softmaxkit.flow.timing import Timing

ROW = 256
"""Row length at which energy is measured, unless a unit's rows are shorter."""


@dataclass(frozen=True)
class Synthesis:
    """Result of a synthesis.

    Attributes:
        cells: name of the process or library.
        clock: target clock period in ns, at which power is given.
        met: whether the netlist meets the clock.
        mapped: the smallest netlist that meets the clock, or the fastest one if none does.
        timing: timing of the netlist.
        area: in um2, by part: "datapath", "tables", "row buffer".
        fastest: clock frequency in MHz of the fastest netlist that was tried.
        fastest_area: area of that netlist in um2.
        energy: energy by part; empty if there was no activity.
        settled: the same without glitches, from the changes that remain at the end of a cycle.
        unswallowed: the same with all glitches: no gate swallows a pulse, however short.
        memories: external memories, by the name of their port.
        activity: changes of nets; None if none were counted.
        elements: scores per cycle, on average.
        row: scores per row.
        compared, mismatches: number of netlist outputs that were compared with golden, and of those that differ.
        faults: descriptions of everything that was wrong in simulation.
        corners: timing of the netlist at other corners, by library name.
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
    settled: dict[str, Energy] = field(default_factory=dict)
    unswallowed: dict[str, Energy] = field(default_factory=dict)
    memories: dict[str, Use] = field(default_factory=dict)
    activity: Activity | None = None
    elements: float = 0.0
    row: int = ROW
    compared: int = 0
    mismatches: int = 0
    faults: tuple[str, ...] = ()
    corners: dict[str, Timing] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """Return the figures for the record; their names include the units."""
        figures: dict[str, Any] = {
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
            "hold_slack_ns": round(self.timing.hold, 6) if math.isfinite(self.timing.hold) else None,
            "longest_path": [step._asdict() for step in self.timing.path],
            "fmax_at_corners_mhz": {name: round(timing.fmax_mhz, 3) for name, timing in self.corners.items()},
        }
        if self.activity is None:
            return figures
        total = {part: energy.cycle(self.clock) for part, energy in self.energy.items()}
        kinds = {kind: sum(getattr(energy, kind) for energy in self.energy.values()) for kind in KINDS}
        outside = sum(amount for part, amount in total.items() if part != "row buffer")
        return figures | {
            "energy_pj_per_element": sum(total.values()) / self.elements,
            "energy_without_row_buffer_pj_per_element": outside / self.elements,
            "energy_row_buffer_pj_per_element": total.get("row buffer", 0.0) / self.elements,
            "energy_without_glitches_pj_per_element": self._all(self.settled) / self.elements,
            "energy_with_all_glitches_pj_per_element": self._all(self.unswallowed) / self.elements,
            **memory_figures(self.memories, self.clock, self.elements),
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

    def _all(self, energy: dict[str, Energy]) -> float:
        """Return the energy of all parts in pJ per cycle."""
        return sum(part.cycle(self.clock) for part in energy.values())
