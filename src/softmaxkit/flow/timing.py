"""Static timing analysis of a netlist, with delays and slews from the tables of its library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from softmaxkit.flow.arcs import FALL, RISE, Edges, End, Graph, timing_graph
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
        whole, half: in ns, what paths need that have a whole and half a period.
        hold: smallest hold slack in ns, and so the clock skew that the netlist bears; inf where no path begins at a
            register.
        shortest: the path of that slack, whose last step has the hold time taken off.
    """

    period: float
    path: tuple[Step, ...]
    arrivals: Array
    slews: Array
    delays: Array
    whole: float
    half: float
    hold: float
    shortest: tuple[Step, ...]

    @property
    def fmax_mhz(self) -> float:
        """The highest clock frequency in MHz."""
        return 1e3 / self.period

    def slack(self, period: float) -> float:
        """Return the smallest setup slack at a clock period, both in ns."""
        return min(period - self.whole, period / 2 - self.half)


def analyse(
    netlist: Netlist,
    slew: float = INPUT_SLEW,
    load: float = OUTPUT_LOAD,
    input_delay: float = 0.0,
    output_delay: float = 0.0,
) -> Timing:
    """Find the critical path of a netlist, the shortest one, and all arrival times.

    The clock is ideal. Inputs arrive at its rising edge, and outputs are due at the next one. Latches are open, and
    clocks gated, while the clock is low: the data of latches and the enables of gated clocks are due half a period
    earlier. A latch counts as stable from the clock edge after it was written.

    Hold is checked at registers, latches and gates of the clock, from registers on: when inputs change is up to what
    drives them.

    Args:
        netlist: the cells and nets.
        slew: of inputs, in ns.
        load: of outputs, in pF.
        input_delay: from the clock edge to the arrival of inputs, in ns.
        output_delay: from the outputs to the next clock edge, in ns.

    Raises:
        ToolError: there is a combinational loop.
    """
    loads = netlist.loads.copy()
    for nets in netlist.outputs.values():
        np.add.at(loads, nets, load)
    graph = timing_graph(netlist)
    late = _propagate(netlist, graph, loads, slew, input_delay)
    early = _propagate(netlist, graph, loads, slew, None)
    needs = [
        _End(need + (output_delay if end.cell == "output" else 0.0), end.factor, place, name, end.cell)
        for end, place, need, name in _reached(graph.ends, late, 1)
    ]
    slacks = [_End(slack, 1, place, name, end.cell) for end, place, slack, name in _reached(graph.holds, early, -1)]
    critical = max(needs, key=lambda end: (end.time * end.factor, *end[2:]), default=None)
    closest = min(slacks, default=None)
    period = critical.time * critical.factor if critical else 0.0
    whole, half = (max((end.time for end in needs if end.factor == factor), default=0.0) for factor in (1, 2))
    return Timing(
        max(period, 1e-3),
        _trace(netlist, graph.edges, late, critical, period) if critical else (),
        late.times.reshape(-1, 2),
        late.slews.reshape(-1, 2),
        late.delays / np.maximum(late.counts, 1),
        whole,
        half,
        closest.time if closest else np.inf,
        _trace(netlist, graph.edges, early, closest, closest.time) if closest else (),
    )


class _Arrivals(NamedTuple):
    """Arrivals of all transitions; those of net n are at 2 * n for rising and at 2 * n + 1 for falling ones.

    Attributes:
        times, slews: in ns; a transition that never comes has an infinite time.
        cause: the edge of the graph that brings it; -1 for none.
        delays, counts: of each net, the sum of the delays of the edges that end there, and their number.
    """

    times: Array
    slews: Array
    cause: Array
    delays: Array
    counts: Array


class _End(NamedTuple):
    """What a path needs at its end, or is left with there.

    Attributes:
        time: in ns.
        factor: 2 if only half a period is available, else 1.
        place: index of the transition in `_Arrivals`.
        name, cell: of the instance or port.
    """

    time: float
    factor: int
    place: int
    name: str
    cell: str


def _propagate(netlist: Netlist, graph: Graph, loads: Array, slew: float, input_delay: float | None) -> _Arrivals:
    """Return the latest arrivals and slews; the earliest where inputs have no delay, since they do not count then."""
    edges, tables, latest = graph.edges, graph.tables, input_delay is not None
    worst, never = (np.maximum, -np.inf) if latest else (np.minimum, np.inf)
    times = np.full(netlist.nets * 2, never)
    slews = np.full(netlist.nets * 2, 0.0 if latest else np.inf)
    comes = np.zeros(netlist.nets * 2, np.bool_)
    cause = np.full(netlist.nets * 2, -1, np.int64)
    inputs = [net for nets in netlist.inputs.values() for net in nets]
    for nets, time, width in ((inputs, input_delay, slew), (np.nonzero(netlist.clock_nets)[0], 0.0, 0.0)):
        for edge in (RISE, FALL):
            places = np.asarray(nets, np.int64) * 2 + edge
            times[places], slews[places], comes[places] = never if time is None else time, width, True
    delays, counts = np.zeros(netlist.nets), np.zeros(netlist.nets)
    order = np.argsort(edges.level, kind="stable")
    bounds = np.searchsorted(edges.level[order], np.arange(edges.level.max(initial=0) + 2))
    for start, end in pairwise(bounds):
        here = order[start:end]
        if not len(here):
            continue
        source, target = edges.source[here], edges.target[here]
        known, driven = comes[source], loads[target // 2]
        slopes = np.where(known, slews[source], 0.0)
        delay = tables.at(edges.delay[here], slopes, driven)
        arrival = times[source] + delay
        if not latest:  # a latch opens half a period after the edges that hold is checked at
            arrival[edges.latch[here].astype(np.bool_)] = never
        worst.at(times, target, arrival)
        worst.at(slews, target[known], tables.at(edges.slew[here], slopes, driven)[known])
        comes[target[known]] = True
        causing = arrival == times[target]
        cause[target[causing]] = here[causing]
        np.add.at(delays, target // 2, delay)
        np.add.at(counts, target // 2, 1)
    return _Arrivals(times, slews, cause, delays, counts)


def _reached(ends: Sequence[End], arrivals: _Arrivals, sign: int) -> Iterator[tuple[End, int, float, str]]:
    """Yield endpoints at which something arrives: `(end, place, arrival plus sign times its constraint, name)`."""
    for end in ends:
        for edge, table in ((RISE, end.rise), (FALL, end.fall)):
            connected = end.nets >= 0
            places = end.nets[connected] * 2 + edge
            times = arrivals.times[places]
            if table is not None:
                slews = np.where(np.isfinite(times), arrivals.slews[places], 0.0)
                times = times + sign * table.at(slews, np.zeros(len(places)))  # the clock is ideal, so its slew is 0
            names = [name for name, used in zip(end.names, connected, strict=True) if used]
            for place, time, name in zip(places, times, names, strict=True):
                if np.isfinite(time):
                    yield end, int(place), float(time), name


def _trace(netlist: Netlist, edges: Edges, arrivals: _Arrivals, end: _End, time: float) -> tuple[Step, ...]:
    """Return the path to an endpoint, whose own step is at `time`."""
    cells = {int(instance): group.cell.name for group in netlist.groups for instance in group.instances}
    ports = {net: f"{name}[{bit}]" for name, nets in netlist.inputs.items() for bit, net in enumerate(nets)}
    path = [Step(end.name, end.cell, ("rise", "fall")[end.place % 2], time)]
    place = end.place
    while place >= 0:
        by, edge, come = int(arrivals.cause[place]), ("rise", "fall")[place % 2], float(arrivals.times[place])
        if by < 0:
            path.append(Step(ports.get(place // 2, "constant"), "input", edge, come))
            break
        instance = int(edges.instance[by])
        path.append(Step(netlist.names[instance], cells[instance], edge, come))
        place = int(edges.source[by])
    return tuple(path[::-1])
