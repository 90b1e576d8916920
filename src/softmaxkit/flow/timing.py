"""Static timing: how long signals take through a netlist, from tables against slew and load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from softmaxkit.flow.cells.library import Table
from softmaxkit.flow.netlist import Netlist
from softmaxkit.formats import Array

RISE, FALL = 0, 1
INPUT_SLEW = 0.05
"""Slew of inputs in ns, of which the clock's is 0."""

OUTPUT_LOAD = 0.01
"""Load of outputs in pF."""


class Step(NamedTuple):
    """One step of a path.

    Attributes:
        instance: whose output it is; a port's name at the beginning and the end.
        cell: its kind.
        edge: "rise" or "fall" of the output.
        time: in ns after the clock's edge.
    """

    instance: str
    cell: str
    edge: str
    time: float


@dataclass(frozen=True)
class Timing:
    """What timing found.

    Attributes:
        period: the shortest clock in ns.
        path: the longest path, from its beginning to its end.
        arrivals: in ns, float64, (nets, 2), for rising and falling edges; -inf where nothing arrives.
        slews: in ns, the same.
        delays: in ns, the mean of each net's cell from input to output; float64, (nets,).
    """

    period: float
    path: tuple[Step, ...]
    arrivals: Array
    slews: Array
    delays: Array

    @property
    def fmax_mhz(self) -> float:
        """The fastest clock in MHz."""
        return 1e3 / self.period


class Tables:
    """Tables of all shapes in one array, so that many can be looked up at once."""

    def __init__(self, tables: Sequence[Table]) -> None:
        rows = max(2, *(len(table.slews) for table in tables))
        columns = max(2, *(len(table.loads) for table in tables))
        filled = [_filled(table, rows, columns) for table in tables]
        self.slews, self.loads, self.values = (np.stack([each[axis] for each in filled]) for axis in range(3))

    def at(self, which: Array, slew: Array, load: Array) -> Array:
        """Return the figures of tables `which` at slews and loads, all (n,)."""
        below, part = _place(self.slews[which], slew)
        left, side = _place(self.loads[which], load)
        low = self.values[which, below, left] * (1 - side) + self.values[which, below, left + 1] * side
        high = self.values[which, below + 1, left] * (1 - side) + self.values[which, below + 1, left + 1] * side
        found: Array = low * (1 - part) + high * part
        return found


def _filled(table: Table, rows: int, columns: int) -> Table:
    """Return a table with points added beyond its ends, on the same planes."""
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
    """Ways from an edge of one net to an edge of another, through one arc each; int64, (n,).

    Attributes:
        source, target: nets, times 2, plus 1 for falling edges.
        delay, slew: which tables.
        instance: whose arc it is.
        level: of the instance.
    """

    source: Array
    target: Array
    delay: Array
    slew: Array
    instance: Array
    level: Array


def analyse(netlist: Netlist, slew: float = INPUT_SLEW, load: float = OUTPUT_LOAD) -> Timing:
    """Find the longest path of a netlist, and all arrivals.

    The clock is ideal. Inputs come at its rising edge; outputs have to be there at the next. What gates a clock has to
    be there half a period before. A latch is taken to be read from the edge on that follows its writing.

    Args:
        netlist: it.
        slew: of inputs, in ns.
        load: of outputs, in pF.

    Raises:
        ToolError: there is a combinational loop.
    """
    loads = netlist.loads.copy()
    for nets in netlist.outputs.values():
        np.add.at(loads, nets, load)
    tables, edges, ends = _graph(netlist)
    arrivals = np.full(netlist.nets * 2, -np.inf)
    slews = np.full(netlist.nets * 2, 0.0)
    cause = np.full(netlist.nets * 2, -1, np.int64)
    for nets in netlist.inputs.values():
        for edge in (RISE, FALL):
            places = np.asarray(nets, np.int64) * 2 + edge
            arrivals[places], slews[places] = 0.0, slew
    clocks = np.nonzero(netlist.clock_nets)[0]
    for edge in (RISE, FALL):
        arrivals[clocks * 2 + edge] = slews[clocks * 2 + edge] = 0.0
    delays, counts = np.zeros(netlist.nets), np.zeros(netlist.nets)
    order = np.argsort(edges.level, kind="stable")
    bounds = np.searchsorted(edges.level[order], np.arange(edges.level.max(initial=0) + 2))
    for start, end in pairwise(bounds):
        here = order[start:end]
        if not len(here):
            continue
        source, target = edges.source[here], edges.target[here]
        reached = loads[target // 2]
        took = tables.at(edges.delay[here], slews[source], reached)
        late = arrivals[source] + took
        np.maximum.at(arrivals, target, late)
        np.maximum.at(slews, target, np.where(late > -np.inf, tables.at(edges.slew[here], slews[source], reached), 0))
        worst = late >= arrivals[target]
        cause[target[worst]] = here[worst]
        np.add.at(delays, target // 2, took)
        np.add.at(counts, target // 2, 1)
    required = [
        (float(arrivals[net * 2 + edge] + time) * factor, net * 2 + edge, name, cell)
        for net, edge, time, factor, name, cell in _times(netlist, ends, slews)
        if arrivals[net * 2 + edge] > -np.inf
    ]
    period, place, name, cell = max(required, default=(0.0, -1, "", ""))
    path = _trace(netlist, edges, cause, arrivals, place)
    if place >= 0:
        path.append(Step(name, cell, ("rise", "fall")[place % 2], period))
    return Timing(
        max(period, 1e-3),
        tuple(path),
        arrivals.reshape(-1, 2),
        slews.reshape(-1, 2),
        delays / np.maximum(counts, 1),
    )


class End(NamedTuple):
    """Where paths end: pins of all cells of a kind, or outputs.

    Attributes:
        nets: int64, (n,).
        rise, fall: setup tables; None where none is needed.
        factor: 2 where half a period is left, else 1.
        names, cell: whose they are.
    """

    nets: Array
    rise: Table | None
    fall: Table | None
    factor: int
    names: list[str]
    cell: str


def _graph(netlist: Netlist) -> tuple[Tables, Edges, list[End]]:
    """Return the tables, the ways through cells, and where paths end."""
    tables: list[Table] = []
    parts: list[tuple[Array, ...]] = []
    ends: list[End] = []
    clock_nets = netlist.clock_nets
    for group in netlist.groups:
        cell = group.cell
        gating = np.zeros(len(group.instances), np.bool_)
        if cell.state is None:
            for pin in cell.inputs:
                gating |= (group.nets[pin] >= 0) & clock_nets[group.nets[pin]]
            if gating.any():
                for pin in cell.inputs:
                    asked = gating & (group.nets[pin] > 1) & ~clock_nets[group.nets[pin]]
                    names = [netlist.names[each] for each in group.instances[asked]]
                    ends.append(End(group.nets[pin][asked], None, None, 2, names, cell.name))
        for setup in cell.setups:
            nets = group.nets[setup.pin]
            names = [netlist.names[each] for each in group.instances]
            ends.append(End(nets, setup.rise, setup.fall, 1, names, cell.name))
        for arc in cell.arcs:
            if cell.state is not None and (cell.state.kind == "gate" or not arc.edge):
                continue
            used = (group.nets[arc.output] >= 0) & (group.nets[arc.related] >= 0) & ~gating
            instances = group.instances[used]
            level = netlist.levels[instances]
            for edge_in, edge_out in _senses(arc.sense, arc.edge):
                first = len(tables)
                tables += [(arc.rise, arc.fall)[edge_out], (arc.rise_slew, arc.fall_slew)[edge_out]]
                source, target = (
                    group.nets[arc.related][used] * 2 + edge_in,
                    group.nets[arc.output][used] * 2 + edge_out,
                )
                fill = np.full(len(instances), first)
                parts.append((source, target, fill, fill + 1, instances, level))
    for name, nets in netlist.outputs.items():
        ends.append(End(np.asarray(nets, np.int64), None, None, 1, [name] * len(nets), "output"))
    columns = [np.concatenate([np.zeros(0, np.int64), *column]) for column in zip(*parts, strict=True)] or [
        np.zeros(0, np.int64)
    ] * 6
    empty = Table(np.zeros(1), np.zeros(1), np.zeros((1, 1)))
    return Tables(tables or [empty, empty]), Edges(*columns), ends


def _senses(sense: str, edge: str) -> Sequence[tuple[int, int]]:
    """Return which edges follow which."""
    if edge:
        return [(RISE if edge == "rise" else FALL, out) for out in (RISE, FALL)]
    return {
        "positive_unate": [(RISE, RISE), (FALL, FALL)],
        "negative_unate": [(RISE, FALL), (FALL, RISE)],
        "non_unate": [(RISE, RISE), (RISE, FALL), (FALL, RISE), (FALL, FALL)],
    }[sense]


def _times(netlist: Netlist, ends: Sequence[End], slews: Array) -> Iterator[tuple[int, int, float, int, str, str]]:
    """Yield `(net, edge, setup time, factor, name, cell)` of every end."""
    for end in ends:
        for edge, table in ((RISE, end.rise), (FALL, end.fall)):
            connected = end.nets >= 0
            given = slews[end.nets[connected] * 2 + edge]
            setup = np.zeros(len(given)) if table is None else table.at(given, np.zeros(len(given)))
            names = [name for name, has in zip(end.names, connected, strict=True) if has]
            for net, time, name in zip(end.nets[connected], setup, names, strict=True):
                yield int(net), edge, float(time), end.factor, name, end.cell


def _trace(netlist: Netlist, edges: Edges, cause: Array, arrivals: Array, place: int) -> list[Step]:
    """Return the path to an edge of a net."""
    if place < 0:
        return []
    kinds = {int(each): group.cell.name for group in netlist.groups for each in group.instances}
    ports = {net: f"{name}[{bit}]" for name, nets in netlist.inputs.items() for bit, net in enumerate(nets)}
    path: list[Step] = []
    while place >= 0:
        by, edge = int(cause[place]), ("rise", "fall")[place % 2]
        if by < 0:
            path.append(Step(ports.get(place // 2, "constant"), "input", edge, float(arrivals[place])))
            break
        instance = int(edges.instance[by])
        path.append(Step(netlist.names[instance], kinds[instance], edge, float(arrivals[place])))
        place = int(edges.source[by])
    return path[::-1]
