"""Static timing analysis of a netlist, with delays and slews from the tables of its library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from softmaxkit.flow.arcs import FALL, RISE, Edges, End, timing_graph
from softmaxkit.flow.netlist import Netlist
from softmaxkit.formats import Array

INPUT_SLEW = 0.05
"""Slew of inputs other than the clock in ns."""

OUTPUT_LOAD = 0.01
"""Load of outputs in pF."""


class Step(NamedTuple):
    """One step of a path.

    Attributes:
        instance: the instance that drives it; a port at the beginning and the end.
        cell: its library cell.
        edge: "rise" or "fall" of the output.
        time: in ns after the clock edge.
    """

    instance: str
    cell: str
    edge: str
    time: float


@dataclass(frozen=True)
class Timing:
    """Result of a timing analysis.

    Attributes:
        period: shortest clock period in ns.
        path: the critical path, from its start to its end.
        arrivals: in ns, float64, (nets, 2), of rising and falling edges; -inf where nothing arrives.
        slews: in ns, the same shape.
        delays: in ns, mean delay of the cell that drives each net; float64, (nets,).
    """

    period: float
    path: tuple[Step, ...]
    arrivals: Array
    slews: Array
    delays: Array

    @property
    def fmax_mhz(self) -> float:
        """The highest clock frequency in MHz."""
        return 1e3 / self.period


def analyse(netlist: Netlist, slew: float = INPUT_SLEW, load: float = OUTPUT_LOAD) -> Timing:
    """Find the critical path of a netlist and all arrival times.

    The clock is ideal. Inputs arrive at its rising edge, and outputs are due at the next one. Enables of gated clocks
    are due half a period earlier. A latch counts as stable from the clock edge after it was written.

    Args:
        netlist: the cells and nets.
        slew: of inputs, in ns.
        load: of outputs, in pF.

    Raises:
        ToolError: there is a combinational loop.
    """
    loads = netlist.loads.copy()
    for nets in netlist.outputs.values():
        np.add.at(loads, nets, load)
    tables, edges, ends = timing_graph(netlist)
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
        driven = loads[target // 2]
        delay = tables.at(edges.delay[here], slews[source], driven)
        arrival = arrivals[source] + delay
        np.maximum.at(arrivals, target, arrival)
        np.maximum.at(slews, target, np.where(arrival > -np.inf, tables.at(edges.slew[here], slews[source], driven), 0))
        worst = arrival >= arrivals[target]
        cause[target[worst]] = here[worst]
        np.add.at(delays, target // 2, delay)
        np.add.at(counts, target // 2, 1)
    required = [
        (float(arrivals[net * 2 + edge] + time) * factor, net * 2 + edge, name, cell)
        for net, edge, time, factor, name, cell in _times(ends, slews)
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


def _times(ends: Sequence[End], slews: Array) -> Iterator[tuple[int, int, float, int, str, str]]:
    """Yield `(net, edge, setup time, factor, name, cell)` of every endpoint."""
    for end in ends:
        for edge, table in ((RISE, end.rise), (FALL, end.fall)):
            connected = end.nets >= 0
            data_slews = slews[end.nets[connected] * 2 + edge]
            zeros = np.zeros(len(data_slews))  # the clock is ideal, so its slew is 0
            setup = zeros if table is None else table.at(data_slews, zeros)
            names = [name for name, used in zip(end.names, connected, strict=True) if used]
            for net, time, name in zip(end.nets[connected], setup, names, strict=True):
                yield int(net), edge, float(time), end.factor, name, end.cell


def _trace(netlist: Netlist, edges: Edges, cause: Array, arrivals: Array, place: int) -> list[Step]:
    """Return the path that ends at a transition of a net."""
    if place < 0:
        return []
    cells = {int(instance): group.cell.name for group in netlist.groups for instance in group.instances}
    ports = {net: f"{name}[{bit}]" for name, nets in netlist.inputs.items() for bit, net in enumerate(nets)}
    path: list[Step] = []
    while place >= 0:
        by, edge = int(cause[place]), ("rise", "fall")[place % 2]
        if by < 0:
            path.append(Step(ports.get(place // 2, "constant"), "input", edge, float(arrivals[place])))
            break
        instance = int(edges.instance[by])
        path.append(Step(netlist.names[instance], cells[instance], edge, float(arrivals[place])))
        place = int(edges.source[by])
    return path[::-1]
