"""Switching activity: how often each net of a netlist changes during operation, glitches included.

Gate-level simulation provides the state of the registers in every cycle. The logic between registers only depends on
one cycle and the one before, so 64 cycles are simulated in parallel, one per bit, in small time steps: the output of a
cell follows its inputs after the delay of the cell and swallows shorter pulses (inertial delay).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from softmaxkit.flow.cells.functions import expression
from softmaxkit.flow.netlist import Group, Netlist
from softmaxkit.flow.timing import Timing
from softmaxkit.formats import Array

STEPS = 4
"""Time steps per mean cell delay."""

ALL = ~np.uint64(0)


class Activity(NamedTuple):
    """Changes of all nets over a number of cycles.

    Attributes:
        cycles: number of cycles.
        toggles: changes of each net, glitches included; int64, (nets,).
        settled: changes of each net from the end of one cycle to the end of the next; for clocks, all changes; int64,
            (nets,).
        ones: number of cycles at the end of which the net is 1; int64, (nets,).
    """

    cycles: int
    toggles: Array
    settled: Array
    ones: Array

    @property
    def without_glitches(self) -> Activity:
        """The same activity with the settled changes only, as if gates had no delay."""
        return self._replace(toggles=self.settled)

    @property
    def glitches(self) -> float:
        """The fraction of changes that are glitches."""
        return float(1 - self.settled.sum() / max(self.toggles.sum(), 1))


def state_nets(netlist: Netlist) -> list[int]:
    """Return the nets that determine all others within a cycle: inputs except the clock, and register outputs."""
    states = [net for name, nets in sorted(netlist.inputs.items()) if name != netlist.clock for net in nets]
    for group in netlist.groups:
        if group.cell.state is not None and group.cell.state.kind != "gate":
            states += [int(net) for pin in group.cell.outputs for net in group.nets[pin] if net >= 0]
    return list(dict.fromkeys(states))


def count_toggles(
    netlist: Netlist, timing: Timing, states: Array, count_from: int = 1, inertial: bool = True
) -> Activity:
    """Count the changes of every net.

    Args:
        netlist: the cells and nets.
        timing: provides the delays.
        states: boolean, (cycles, state nets): values of `state_nets` at the end of each cycle.
        count_from: the first cycle to count, 1 or later.
        inertial: whether a cell swallows pulses shorter than its delay. If not, it passes all of them, which gives an
            upper bound on the changes.

    Raises:
        RuntimeError: the nets do not settle at the values implied by the registers.
    """
    cycles = len(states)
    values = np.zeros((netlist.nets, -(-cycles // 64)), np.uint64)
    values[1] = ALL
    values[np.asarray(state_nets(netlist), np.int64)] = _packed(states)
    order = _in_order(netlist)
    counted = np.zeros((1, cycles), np.bool_)
    counted[0, count_from:] = True
    mask = _packed(counted.T)[0]
    _settle(order, values)
    before = _before(values)
    clocks = np.nonzero(netlist.clock_nets)[0]
    high = _clock_high(netlist, order, values, before)
    settled = _count((values ^ before) & mask)
    settled[clocks] = _count((high[clocks] ^ before[clocks]) & mask) + _count((high[clocks] ^ values[clocks]) & mask)
    toggles = settled.copy()
    data = np.ones(netlist.nets, np.bool_)
    data[clocks] = False
    # Process few enough words at a time for the arrays to stay in the cache.
    moved = np.zeros(netlist.nets, np.int64)
    words = max(LEAST_WORDS, CACHED // netlist.nets)
    for start in range(0, values.shape[1], words):
        part = slice(start, start + words)
        moved += _count_moves(netlist, timing, before[:, part], values[:, part], mask[part], inertial)
    toggles[data] = moved[data]
    return Activity(cycles - count_from, toggles, settled, _count(values & mask))


LEAST_WORDS = 8
"""Minimum number of words, of 64 cycles each, to simulate at a time."""

CACHED = 1 << 16
"""Number of words, summed over all nets, that fit in a cache."""


def _packed(states: Array) -> Array:
    """Pack bits into words: boolean, (cycles, n), to uint64, (n, words)."""
    cycles, count = states.shape
    padded = np.zeros((count, -(-cycles // 64) * 64), np.uint8)
    padded[:, :cycles] = states.T
    packed: Array = np.packbits(padded, axis=1, bitorder="little").view(np.uint64)
    return packed


def _count(words: Array) -> Array:
    """Return the number of ones in each row; int64."""
    ones: Array = np.bitwise_count(words).sum(axis=1, dtype=np.int64)
    return ones


def _before(values: Array) -> Array:
    """Return the values of the previous cycle; the first cycle keeps its own."""
    earlier = values << np.uint64(1)
    earlier[:, 1:] |= values[:, :-1] >> np.uint64(63)
    earlier[:, 0] |= values[:, 0] & np.uint64(1)
    return earlier


class Slice(NamedTuple):
    """Instances of one library cell that can be evaluated together.

    Attributes:
        group: the instances of the library cell.
        members: indices into the group.
    """

    group: Group
    members: Array

    def run(self, values: Array) -> Iterator[tuple[Array, Array]]:
        """Evaluate the instances and yield `(nets, values)` of each connected output."""
        pins = {name: values[np.maximum(self.group.nets[name][self.members], 0)] for name in self.group.cell.inputs}
        for name in self.group.cell.outputs:
            nets = self.group.nets[name][self.members]
            used = nets >= 0
            if used.any():
                output = expression(self.group.cell.pins[name].function)(ALL, pins)
                yield nets[used], np.broadcast_to(output, (len(nets), values.shape[1]))[used]


def _in_order(netlist: Netlist) -> list[Slice]:
    """Return the combinational cells in topological order."""
    slices = []
    for group in netlist.groups:
        if group.cell.state is None:
            levels = netlist.levels[group.instances]
            slices += [(int(level), Slice(group, np.nonzero(levels == level)[0])) for level in np.unique(levels)]
    return [cells for _, cells in sorted(slices, key=lambda pair: pair[0])]


def _settle(order: list[Slice], values: Array) -> None:
    """Evaluate all nets from the states, with the clocks low."""
    for cells in order:
        for nets, outputs in cells.run(values):
            values[nets] = outputs


def _clock_high(netlist: Netlist, order: list[Slice], values: Array, before: Array) -> Array:
    """Return the values in the high phase of the clock; only those of clock nets can differ."""
    high = values.copy()
    high[netlist.inputs.get(netlist.clock, [])] = ALL
    clocks = netlist.clock_nets
    for group in netlist.groups:
        state = group.cell.state
        if state is not None and state.kind == "gate":
            # The enable at the end of a cycle opens the gate for the next cycle.
            pins = {name: before[np.maximum(group.nets[name], 0)] for name in group.cell.inputs}
            enabled = expression(state.data)(ALL, pins)
            for pin in group.cell.outputs:
                high[group.nets[pin]] = enabled & high[group.nets[group.cell.clock_pin]]
    for cells in order:
        for nets, outputs in cells.run(high):
            high[nets] = np.where(clocks[nets][:, None], outputs, high[nets])
    return high


def _count_moves(netlist: Netlist, timing: Timing, before: Array, after: Array, mask: Array, inertial: bool) -> Array:
    """Return how often each net changes on the way from the values of one cycle to those of the next."""
    step, clocks = _step(netlist, timing), netlist.clock_nets
    ticks = np.maximum(np.rint(timing.delays / step).astype(np.int64), 1)
    slices = [Slice(group, np.arange(len(group.instances))) for group in netlist.groups if group.cell.state is None]
    # Sort driven nets by delay, so that all nets with at least a given delay form one slice.
    outputs = (nets for cells in slices for nets, _ in cells.run(before[:, :1]))
    driven = np.concatenate([np.zeros(0, np.int64), *outputs])
    driven = driven[~clocks[driven]]
    driven = driven[np.argsort(ticks[driven], kind="stable")]
    place = np.full(len(before), -1)
    place[driven] = np.arange(len(driven))
    delays = ticks[driven]
    longest = int(delays.max(initial=1))
    since = np.searchsorted(delays, np.arange(longest + 1), side="right")
    sources = np.asarray(state_nets(netlist), np.int64)
    registers = ~np.isin(sources, [net for nets in netlist.inputs.values() for net in nets])
    start = np.where(registers, ticks[sources], 0)
    values, moves = before.copy(), np.zeros(len(before), np.int64)
    target, changed = values[driven], np.zeros((longest, *values[driven].shape), np.uint64)
    last_start, tick, quiet = int(start.max(initial=0)), 0, 0
    while tick <= last_start or quiet <= longest:
        now = sources[start == tick]
        moves[now] += _count((values[now] ^ after[now]) & mask)
        values[now] = after[now]
        wanted = target.copy()
        for cells in slices:
            for nets, evaluated in cells.run(values):
                tracked = place[nets] >= 0
                wanted[place[nets][tracked]] = evaluated[tracked]
        changed[tick % longest] = wanted ^ target
        target = wanted
        if inertial:  # an output changes once its new value has been stable for the delay of its cell
            unsettled = np.zeros_like(target)
            for age in range(longest):
                unsettled[since[age + 1] :] |= changed[(tick - age) % longest, since[age + 1] :]
            moved = (values[driven] ^ target) & ~unsettled
        else:  # an output repeats every change after the delay of its cell
            moved = np.zeros_like(target)
            for age in range(longest):
                late = slice(since[age], since[age + 1])
                moved[late] = changed[(tick - age) % longest, late]
        values[driven] ^= moved
        moves[driven] += _count(moved & mask)
        quiet = 0 if moved.any() or changed[tick % longest].any() else quiet + 1
        tick += 1
    if not np.array_equal(values[driven] & mask, after[driven] & mask):
        raise RuntimeError("the netlist does not settle at the values implied by its registers; please report this")
    return moves


def _step(netlist: Netlist, timing: Timing) -> float:
    """Return the time step in ns."""
    used = timing.delays[timing.delays > 0]
    return float(used.mean()) / STEPS if len(used) else 1.0
