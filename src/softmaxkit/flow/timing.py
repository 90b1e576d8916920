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
"""Default slew in ns of inputs other than the clock."""

OUTPUT_LOAD = 0.01
"""Default load of outputs in pF."""


class Step(NamedTuple):
    """One step of a path.

    Attributes:
        instance: the instance that drives the net; at the start and the end of the path, it can be a port.
        cell: library cell of the instance; "input" or "output" for a port.
        edge: "rise" or "fall" of the output.
        time: arrival in ns after the clock edge.
    """

    instance: str
    cell: str
    edge: str
    time: float


class Path(NamedTuple):
    """A path.

    Attributes:
        steps: from its start to its end, whose time is the clock period that the path requires.
        factor: 2 if only half a period is available, else 1.
    """

    steps: tuple[Step, ...]
    factor: int


@dataclass(frozen=True)
class Timing:
    """Result of a timing analysis.

    Attributes:
        period: shortest clock period in ns.
        paths: the longest paths, one to each transition of a net; the first is critical.
        required: clock period in ns that each transition at an endpoint requires; float64, (transitions,).
        arrivals: latest arrivals of rising and falling edges in ns, -inf if nothing arrives; float64, (nets, 2).
        slews: slews of these edges in ns; float64, (nets, 2).
        delays: mean delay in ns of the cell that drives each net; float64, (nets,).
        whole, half: time in ns that the slowest path with a whole and with half a period requires; -inf without such a
            path.
        hold: smallest hold slack in ns, which is the clock skew that the netlist tolerates; inf if no path begins at a
            register.
        shortest: the path with that slack; its last step has the hold time subtracted.
    """

    period: float
    paths: tuple[Path, ...]
    required: Array
    arrivals: Array
    slews: Array
    delays: Array
    whole: float
    half: float
    hold: float
    shortest: tuple[Step, ...]

    @property
    def path(self) -> tuple[Step, ...]:
        """The steps of the critical path; empty if there is none."""
        return self.paths[0].steps if self.paths else ()

    @property
    def fmax_mhz(self) -> float:
        """The highest clock frequency in MHz."""
        return 1e3 / self.period

    def slack(self, period: float) -> float:
        """Return the smallest setup slack at a clock period, both in ns; inf without a path."""
        return min(period - self.whole, period / 2 - self.half)


def analyse(
    netlist: Netlist,
    slew: float = INPUT_SLEW,
    load: float = OUTPUT_LOAD,
    input_delay: float = 0.0,
    output_delay: float = 0.0,
    paths: int = 1,
) -> Timing:
    """Find the critical path of a netlist, the path with the least hold slack, and all arrival times.

    The clock is ideal. Inputs arrive at its rising edge, and outputs are due at the next one. Latches are open, and
    clocks gated, while the clock is low: the data of latches and the enables of gated clocks are due half a period
    earlier. A latch counts as stable from the clock edge after it was written.

    Hold is checked at registers, latches and clock gates, on paths that begin at registers only, since the logic that
    drives the inputs determines when they change.

    Args:
        netlist: the cells and nets.
        slew: slew of inputs in ns.
        load: load of outputs in pF.
        input_delay: from the clock edge to the arrival of inputs, in ns.
        output_delay: from the outputs to the next clock edge, in ns.
        paths: number of paths to return.

    Raises:
        ToolError: there is a combinational loop.
    """
    loads = netlist.loads_with(load)
    graph = timing_graph(netlist)
    late = _propagate(netlist, graph, loads, slew, input_delay)
    early = _propagate(netlist, graph, loads, slew, None)
    needs = _reached(graph.ends, late, output_delay)
    slacks = _reached(graph.holds, early, None)
    required = needs.times * needs.factors
    longest = _first_by_place(needs.places, np.lexsort((-needs.places, -required)), paths)
    closest = np.lexsort((slacks.places, slacks.times))[:1]
    whole, half = (float(needs.times[needs.factors == factor].max(initial=-np.inf)) for factor in (1, 2))
    return Timing(
        max(float(required.max(initial=0.0)), 1e-3),
        tuple(
            map(Path, _traces(netlist, graph.edges, late, graph.ends, needs, longest), needs.factors[longest].tolist())
        ),
        required,
        late.times.reshape(-1, 2),
        late.slews.reshape(-1, 2),
        late.delays / np.maximum(late.counts, 1),
        whole,
        half,
        float(slacks.times.min(initial=np.inf)),
        next(_traces(netlist, graph.edges, early, graph.holds, slacks, closest), ()),
    )


class _Arrivals(NamedTuple):
    """Arrivals of all transitions: index 2 * n for the rising and 2 * n + 1 for the falling transition of net n.

    Attributes:
        times, slews: in ns; a transition that never occurs has an infinite time.
        cause: the edge of the timing graph that determines the time; -1 if there is none.
        delays, counts: sum of the delays of the graph edges that end at each net, and their number.
    """

    times: Array
    slews: Array
    cause: Array
    delays: Array
    counts: Array


class _Reached(NamedTuple):
    """The endpoints at which something arrives.

    Attributes:
        times: time in ns that the longest path requires, or the hold slack; float64, (n,).
        factors: 2 where only half a period is available, else 1; int64, (n,).
        places: index of the transition in `_Arrivals`; int64, (n,).
        end, row: the endpoint: index in the graph's ends or holds, and row in that; int64, (n,).
    """

    times: Array
    factors: Array
    places: Array
    end: Array
    row: Array


def _propagate(netlist: Netlist, graph: Graph, loads: Array, slew: float, input_delay: float | None) -> _Arrivals:
    """Return the latest arrivals and slews or, if `input_delay` is None, the earliest on paths from registers."""
    edges, tables, latest = graph.edges, graph.tables, input_delay is not None
    worst, never = (np.maximum, -np.inf) if latest else (np.minimum, np.inf)
    times = np.full(netlist.nets * 2, never)
    slews = np.full(netlist.nets * 2, 0.0 if latest else np.inf)
    occurs = np.zeros(netlist.nets * 2, np.bool_)
    cause = np.full(netlist.nets * 2, -1, np.int64)
    inputs = [net for nets in netlist.inputs.values() for net in nets]
    for nets, time, width in ((inputs, input_delay, slew), (np.nonzero(netlist.clock_nets)[0], 0.0, 0.0)):
        for edge in (RISE, FALL):
            places = np.asarray(nets, np.int64) * 2 + edge
            times[places], slews[places], occurs[places] = never if time is None else time, width, True
    delays, counts = np.zeros(netlist.nets), np.zeros(netlist.nets)
    order = np.argsort(edges.level, kind="stable")
    bounds = np.searchsorted(edges.level[order], np.arange(edges.level.max(initial=0) + 2))
    for start, end in pairwise(bounds):
        level = order[start:end]
        if not len(level):
            continue
        source, target = edges.source[level], edges.target[level]
        known, driven = occurs[source], loads[target // 2]
        slopes = np.where(known, slews[source], 0.0)
        delay = tables.at(edges.delay[level], slopes, driven)
        arrival = times[source] + delay
        if not latest:  # a latch opens half a period after the clock edge at which hold is checked
            arrival[edges.latch[level].astype(np.bool_)] = never
        worst.at(times, target, arrival)
        worst.at(slews, target[known], tables.at(edges.slew[level], slopes, driven)[known])
        occurs[target[known]] = True
        causing = arrival == times[target]
        cause[target[causing]] = level[causing]
        np.add.at(delays, target // 2, delay)
        np.add.at(counts, target // 2, 1)
    return _Arrivals(times, slews, cause, delays, counts)


def _reached(ends: Sequence[End], arrivals: _Arrivals, output_delay: float | None) -> _Reached:
    """Return the endpoints at which something arrives, for setup or, if `output_delay` is None, for hold."""
    times, others = [np.zeros(0)], [np.zeros((4, 0), np.int64)]
    for number, end in enumerate(ends):
        for edge, table in ((RISE, end.rise), (FALL, end.fall)):
            rows = np.flatnonzero((end.nets >= 0) & np.isfinite(arrivals.times[end.nets * 2 + edge]))
            places = end.nets[rows] * 2 + edge
            time, factor = arrivals.times[places], 1 if output_delay is None else end.factor
            if table is not None:
                check = table.at(arrivals.slews[places], np.zeros(len(places)))  # the clock is ideal, so its slew is 0
                time = time - check if output_delay is None else time + check
            times.append(time + output_delay if output_delay is not None and end.port else time)
            others.append(np.stack(np.broadcast_arrays(factor, places, number, rows)))
    return _Reached(np.concatenate(times), *np.concatenate(others, axis=1))


def _first_by_place(places: Array, order: Array, count: int) -> Array:
    """Return the first `count` indices of `order` that are at different places."""
    taken: dict[int, int] = {}
    for index in order:
        if len(taken) == count:
            break
        taken.setdefault(int(places[index]), int(index))
    return np.asarray([*taken.values()], np.int64)


def _traces(
    netlist: Netlist, edges: Edges, arrivals: _Arrivals, ends: Sequence[End], reached: _Reached, chosen: Array
) -> Iterator[tuple[Step, ...]]:
    """Yield the path to each of the chosen endpoints."""
    ports = dict.fromkeys(np.flatnonzero(netlist.clock_nets).tolist(), f"{netlist.clock}, gated")
    ports |= {net: f"{name}[{bit}]" for name, nets in netlist.inputs.items() for bit, net in enumerate(nets)}
    for index in chosen:
        end, place = ends[int(reached.end[index])], int(reached.places[index])
        name = end.port or netlist.names[end.instances[reached.row[index]]]
        time = float(reached.times[index] * reached.factors[index])
        path = [Step(name, end.cell, ("rise", "fall")[place % 2], time)]
        while place >= 0:
            cause, edge, arrival = int(arrivals.cause[place]), ("rise", "fall")[place % 2], float(arrivals.times[place])
            if cause < 0:
                path.append(Step(ports.get(place // 2, "constant"), "input", edge, arrival))
                break
            instance = int(edges.instance[cause])
            path.append(Step(netlist.names[instance], netlist.cell(instance).name, edge, arrival))
            place = int(edges.source[cause])
        yield tuple(path[::-1])
