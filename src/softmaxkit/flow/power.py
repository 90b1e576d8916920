"""Energy and power of a netlist from its activity: wires and pins, cells' insides, clock, and leakage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from softmaxkit.flow.activity import Activity
from softmaxkit.flow.cells.library import Table
from softmaxkit.flow.netlist import Netlist
from softmaxkit.flow.timing import OUTPUT_LOAD, Timing
from softmaxkit.formats import Array


@dataclass(frozen=True)
class Energy:
    """Where energy goes, in pJ a cycle, and leakage in nW.

    Attributes:
        switching: charging nets other than clocks.
        internal: inside cells, when nets other than clocks change.
        clock: clock nets, and what their edges take inside cells.
        leakage: in nW.
    """

    switching: float
    internal: float
    clock: float
    leakage: float

    def cycle(self, period: float) -> float:
        """Return the energy of a cycle in pJ at a clock period in ns, leakage included."""
        return self.switching + self.internal + self.clock + self.leakage * period * 1e-6


def energies(
    netlist: Netlist, timing: Timing, activity: Activity, part_of: Callable[[str], str] = lambda name: ""
) -> dict[str, Energy]:
    """Return where energy goes, by the part that `part_of` says of an instance's name.

    A net's energy counts for the cell that drives it, half of C V^2 for each change; that of an input for what
    `part_of` says of "". Of what is inside a cell, an output's change takes the mean over the inputs that may have
    caused it, weighted by how often these change.

    Args:
        netlist: it.
        timing: its slews.
        activity: its changes.
        part_of: of a name.
    """
    loads = netlist.loads.copy()
    for nets in netlist.outputs.values():
        np.add.at(loads, nets, OUTPUT_LOAD)
    clocks = netlist.clock_nets
    rates = activity.toggles / activity.cycles
    slews = timing.slews.mean(axis=1)
    charging = loads * netlist.library.voltage**2 / 2 * rates
    sums: dict[str, dict[str, float]] = {}

    def add(part: str, kind: str, amount: float) -> None:
        found = sums.setdefault(part, dict.fromkeys(KINDS, 0.0))
        found[kind] += amount

    for group in netlist.groups:
        parts = np.asarray([part_of(netlist.names[each]) for each in group.instances])
        leakage = np.full(len(parts), group.cell.leakage)
        switching, internal, clock = (np.zeros(len(parts)) for _ in range(3))
        for pin in group.cell.outputs:
            nets = group.nets[pin]
            used = nets >= 0
            inside = _internal(group.cell.energy, pin, group.nets, loads, slews, rates)
            for into, amount in ((switching, np.where(used, charging[nets], 0)), (internal, np.where(used, inside, 0))):
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
            here = parts == part
            for kind, values in zip(KINDS, (switching, internal, clock, leakage), strict=True):
                add(str(part), kind, float(values[here].sum()))
    for nets in netlist.inputs.values():
        for net in nets:
            add(part_of(""), "clock" if clocks[net] else "switching", float(charging[net]))
    return {part: Energy(*(found[kind] for kind in KINDS)) for part, found in sorted(sums.items())}


KINDS = ("switching", "internal", "clock", "leakage")


def _internal(
    tables: dict[tuple[str, str], Table], pin: str, nets: dict[str, Array], loads: Array, slews: Array, rates: Array
) -> Array:
    """Return the energy inside each instance of a kind of cell that an output's changes take, in pJ a cycle."""
    out = nets[pin]
    total, weights = np.zeros(len(out)), np.zeros(len(out))
    for (output, related), table in tables.items():
        if output == pin and related in nets:
            causes = nets[related]
            weight = np.where(causes >= 0, rates[causes], 0) + 1e-12
            total += weight * table.at(slews[causes], loads[out])
            weights += weight
    return np.where(weights > 0, total / np.maximum(weights, 1e-12), 0) * rates[out]
