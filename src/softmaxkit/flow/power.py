"""Energy of a netlist from its activity: switching of nets, internal energy of cells, clock, and leakage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from softmaxkit.flow.activity import Activity
from softmaxkit.flow.cells.table import Table
from softmaxkit.flow.netlist import Netlist
from softmaxkit.flow.timing import OUTPUT_LOAD, Timing
from softmaxkit.formats import Array


@dataclass(frozen=True)
class Energy:
    """Energy by cause in pJ per cycle, and leakage power in nW.

    Attributes:
        switching: charging of nets other than clocks.
        internal: internal energy of cells when nets other than clocks change.
        clock: charging of clock nets, and internal energy of cells at clock edges.
        leakage: leakage power in nW.
    """

    switching: float
    internal: float
    clock: float
    leakage: float

    def cycle(self, period: float) -> float:
        """Return the energy per cycle in pJ at a clock period in ns, leakage included."""
        return self.switching + self.internal + self.clock + self.leakage * period * 1e-6


def energies(
    netlist: Netlist, timing: Timing, activity: Activity, part_of: Callable[[str], str] = lambda name: ""
) -> dict[str, Energy]:
    """Return the energy of each part of a netlist.

    Each change of a net costs C V^2 / 2, attributed to the part of the cell that drives the net; input nets are
    attributed to the part of the name "". The internal energy of an output change is the mean over the inputs that may
    have caused it, weighted by how often they change.

    Args:
        netlist: the cells and nets.
        timing: provides the slews.
        activity: provides the changes of nets.
        part_of: maps the name of an instance to its part.
    """
    loads = netlist.loads_with(OUTPUT_LOAD)
    clocks = netlist.clock_nets
    rates = activity.toggles / activity.cycles
    slews = timing.slews.mean(axis=1)
    charging = loads * netlist.library.voltage**2 / 2 * rates
    sums: dict[str, dict[str, float]] = {}

    def add(part: str, kind: str, amount: float) -> None:
        sums.setdefault(part, dict.fromkeys(KINDS, 0.0))[kind] += amount

    for group in netlist.groups:
        parts = np.asarray([part_of(netlist.names[instance]) for instance in group.instances])
        leakage = np.full(len(parts), group.cell.leakage)
        switching, internal, clock = (np.zeros(len(parts)) for _ in range(3))
        for pin in group.cell.outputs:
            nets = group.nets[pin]
            used = nets >= 0
            within = _internal(group.cell.energy, pin, group.nets, loads, slews, rates)
            for into, amount in ((switching, np.where(used, charging[nets], 0)), (internal, np.where(used, within, 0))):
                is_clock = used & clocks[nets]
                into += np.where(is_clock, 0, amount)
                clock += np.where(is_clock, amount, 0)
        for pin, table in group.cell.input_energy.items():
            if pin in group.nets and not group.cell.pins[pin].output:
                nets = group.nets[pin]
                amount = np.where(nets >= 0, table.at(slews[nets], np.zeros(len(nets))) * rates[nets], 0)
                is_clock = (nets >= 0) & clocks[nets]
                clock += np.where(is_clock, amount, 0)
                internal += np.where(is_clock, 0, amount)
        for part in np.unique(parts):
            members = parts == part
            for kind, values in zip(KINDS, (switching, internal, clock, leakage), strict=True):
                add(str(part), kind, float(values[members].sum()))
    for nets in netlist.inputs.values():
        for net in nets:
            add(part_of(""), "clock" if clocks[net] else "switching", float(charging[net]))
    return {part: Energy(*(amounts[kind] for kind in KINDS)) for part, amounts in sorted(sums.items())}


KINDS = ("switching", "internal", "clock", "leakage")
"""The fields of `Energy`."""


def _internal(
    tables: dict[tuple[str, str], Table], pin: str, nets: dict[str, Array], loads: Array, slews: Array, rates: Array
) -> Array:
    """Return the internal energy of the changes of an output in pJ per cycle, for all instances of a library cell."""
    out = nets[pin]
    total, weights = np.zeros(len(out)), np.zeros(len(out))
    for (output, related), table in tables.items():
        if output == pin and related in nets:
            causes = nets[related]
            weight = np.where(causes >= 0, rates[causes], 0) + 1e-12
            total += weight * table.at(slews[causes], loads[out])
            weights += weight
    return np.where(weights > 0, total / np.maximum(weights, 1e-12), 0) * rates[out]
