"""The timing graph of a netlist: an edge for each transition through a timing arc, and the endpoints of paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from softmaxkit.flow.cells.table import Table
from softmaxkit.flow.netlist import Netlist
from softmaxkit.formats import Array

RISE, FALL = 0, 1


class Tables:
    """Look-up tables of different shapes padded into one array, so that many are looked up at once."""

    def __init__(self, tables: Sequence[Table]) -> None:
        rows = max(2, *(len(table.slews) for table in tables))
        columns = max(2, *(len(table.loads) for table in tables))
        filled = [_filled(table, rows, columns) for table in tables]
        self.slews, self.loads, self.values = (np.stack([table[axis] for table in filled]) for axis in range(3))

    def at(self, which: Array, slew: Array, load: Array) -> Array:
        """Return the values of the tables with indices `which` at slews and loads; all (n,)."""
        below, part = _place(self.slews[which], slew)
        left, side = _place(self.loads[which], load)
        low = self.values[which, below, left] * (1 - side) + self.values[which, below, left + 1] * side
        high = self.values[which, below + 1, left] * (1 - side) + self.values[which, below + 1, left + 1] * side
        values: Array = low * (1 - part) + high * part
        return values


def _filled(table: Table, rows: int, columns: int) -> Table:
    """Return a table extended to a given size by linear extrapolation."""
    if table.values.shape == (rows, columns):
        return table
    slews, loads = _longer(table.slews, rows), _longer(table.loads, columns)
    return Table(slews, loads, table.at(slews[:, None], loads[None, :]))


def _longer(axis: Array, length: int) -> Array:
    step = axis[-1] - axis[-2] if len(axis) > 1 else 1.0
    return np.concatenate((axis, axis[-1] + step * np.arange(1, length - len(axis) + 1)))


def _place(axes: Array, at: Array) -> tuple[Array, Array]:
    below = (axes[:, 1:-1] <= at[:, None]).sum(axis=1)
    row = np.arange(len(axes))
    return below, (at - axes[row, below]) / (axes[row, below + 1] - axes[row, below])


class Edges(NamedTuple):
    """Edges of the timing graph, from a transition of one net to a transition of another; int64, (n,).

    Attributes:
        source, target: 2 * net for rising transitions, 2 * net + 1 for falling ones.
        delay, slew: indices of the tables.
        instance: the instance that the arc belongs to.
        level: logic level of the instance.
        latch: 1 if the arc begins at the enable of a latch, which opens half a period after the clock edge, else 0.
    """

    source: Array
    target: Array
    delay: Array
    slew: Array
    instance: Array
    level: Array
    latch: Array


class End(NamedTuple):
    """Endpoints of paths: one pin of all instances of a library cell, or one output port.

    Attributes:
        nets: int64, (n,).
        rise, fall: tables of setup or hold times for rising and falling transitions; None if there is none.
        factor: 2 if only half a period is available, else 1.
        cell: name of the library cell, or "output".
        instances: int64, (n,), the instances; empty for a port.
        port: name of the port; empty for a pin.
    """

    nets: Array
    rise: Table | None
    fall: Table | None
    factor: int
    cell: str
    instances: Array
    port: str = ""


class Graph(NamedTuple):
    """The timing graph of a netlist.

    Attributes:
        tables: delays and slews of the edges.
        edges: transitions through arcs.
        ends: endpoints to check for setup, with setup times.
        holds: endpoints to check for hold, with hold times.
    """

    tables: Tables
    edges: Edges
    ends: list[End]
    holds: list[End]


def timing_graph(netlist: Netlist) -> Graph:
    """Return the timing graph of a netlist."""
    tables: list[Table] = []
    parts: list[tuple[Array, ...]] = []
    ends: list[End] = []
    holds: list[End] = []
    clock_nets = netlist.clock_nets
    for group in netlist.groups:
        cell = group.cell
        gating = np.zeros(len(group.instances), np.bool_)
        if cell.state is None:
            for pin in cell.inputs:
                gating |= (group.nets[pin] >= 0) & clock_nets[group.nets[pin]]
            if gating.any():
                for pin in cell.inputs:
                    enables = gating & (group.nets[pin] > 1) & ~clock_nets[group.nets[pin]]
                    ends.append(End(group.nets[pin][enables], None, None, 2, cell.name, group.instances[enables]))
                    holds.append(ends[-1])
        latch = cell.state is not None and cell.state.kind == "latch"
        for pin, _, _, rise, fall in cell.setups:
            whole = End(group.nets[pin], rise, fall, 1, cell.name, group.instances)
            ends.append(whole._replace(rise=None, fall=None, factor=2) if latch else whole)
        holds += [End(group.nets[hold.pin], hold.rise, hold.fall, 1, cell.name, group.instances) for hold in cell.holds]
        for pin in {setup.pin for setup in cell.setups} - {hold.pin for hold in cell.holds}:
            holds.append(End(group.nets[pin], None, None, 1, cell.name, group.instances))
        for arc in cell.arcs:
            if cell.state is not None and (cell.state.kind == "gate" or not arc.edge):
                continue
            used = (group.nets[arc.output] >= 0) & (group.nets[arc.related] >= 0) & ~gating
            instances = group.instances[used]
            level = netlist.levels[instances]
            for edge_in, edge_out in senses(arc.sense, arc.edge):
                first = len(tables)
                tables += [(arc.rise, arc.fall)[edge_out], (arc.rise_slew, arc.fall_slew)[edge_out]]
                source, target = (
                    group.nets[arc.related][used] * 2 + edge_in,
                    group.nets[arc.output][used] * 2 + edge_out,
                )
                fill = np.full(len(instances), first)
                parts.append((source, target, fill, fill + 1, instances, level, np.full(len(instances), latch)))
    for name, nets in netlist.outputs.items():
        ends.append(End(np.asarray(nets, np.int64), None, None, 1, "output", np.zeros(0, np.int64), name))
    columns = [np.concatenate([np.zeros(0, np.int64), *column]) for column in zip(*parts, strict=True)] or [
        np.zeros(0, np.int64)
    ] * 7
    empty = Table(np.zeros(1), np.zeros(1), np.zeros((1, 1)))
    return Graph(Tables(tables or [empty, empty]), Edges(*columns), ends, holds)


def senses(sense: str, edge: str) -> Sequence[tuple[int, int]]:
    """Return the pairs `(input edge, output edge)` that an arc connects."""
    if edge:
        return [(RISE if edge == "rise" else FALL, out) for out in (RISE, FALL)]
    return {
        "positive_unate": [(RISE, RISE), (FALL, FALL)],
        "negative_unate": [(RISE, FALL), (FALL, RISE)],
        "non_unate": [(RISE, RISE), (RISE, FALL), (FALL, RISE), (FALL, FALL)],
    }[sense]
