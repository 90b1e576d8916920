"""Activity, compared with an event-driven simulator in plain Python that follows the same rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from netlists import PREFIX, HandNetlist, hand_netlist

from softmaxkit.flow import activity as activity_module
from softmaxkit.flow.activity import STEPS, Activity, count_toggles, state_nets
from softmaxkit.flow.timing import Timing, analyse

LOGIC: dict[str, tuple[str, str, Callable[..., int]]] = {
    "inv_1": ("A", "Y", lambda a: 1 - a),
    "buf_4": ("A", "X", lambda a: a),
    "nand2_1": ("A B", "Y", lambda a, b: 1 - (a & b)),
    "nor2_4": ("A B", "Y", lambda a, b: 1 - (a | b)),
    "xor2_1": ("A B", "X", lambda a, b: a ^ b),
    "mux2_1": ("A0 A1 S", "X", lambda a, b, s: b if s else a),
    "maj3_1": ("A B C", "X", lambda a, b, c: int(a + b + c > 1)),
    "a21oi_1": ("A1 A2 B1", "Y", lambda a, b, c: 1 - ((a & b) | c)),
}
"""Cells of random netlists: input pins, output pin and function."""


class Reference:
    """A netlist of `LOGIC` and plain flip-flops, simulated event by event; cells swallow pulses if `inertial`."""

    def __init__(self, circuit: HandNetlist, delays: list[float], inertial: bool = True) -> None:
        self.inertial = inertial
        used = [delay for delay in delays if delay > 0]
        step = sum(used) / len(used) / STEPS
        self.ticks = [max(round(delay / step), 1) for delay in delays]
        self.sources = state_nets(circuit.netlist)
        inputs = {net for nets in circuit.netlist.inputs.values() for net in nets}
        self.starts = {net: 0 if net in inputs else self.ticks[net] for net in self.sources}
        self.cells: list[tuple[list[int], int, Callable[..., int]]] = []
        for group in circuit.netlist.groups:
            if group.cell.state is None:
                pins, out, function = LOGIC[group.cell.name.removeprefix(PREFIX)]
                for place in range(len(group.instances)):
                    ins = [int(group.nets[pin][place]) for pin in pins.split()]
                    self.cells.append((ins, int(group.nets[out][place]), function))

    def settled(self, states: list[int]) -> dict[int, int]:
        """Return the value of every net, from the states."""
        values = {0: 0, 1: 1} | dict(zip(self.sources, states, strict=True))
        while missing := [cell for cell in self.cells if cell[1] not in values]:
            for ins, out, function in missing:
                if all(net in values for net in ins):
                    values[out] = function(*(values[net] for net in ins))
        return values

    def moves(self, before: list[int], after: list[int]) -> dict[int, int]:
        """Return how often each net changes between two cycles."""
        values, aims = self.settled(before), self.settled(after)
        target = {out: values[out] for _, out, _ in self.cells}
        due: dict[int, int] = {}  # tick at which the output of a cell changes to its target
        coming: list[tuple[int, int, int]] = []  # or, if nothing is swallowed, all pending changes
        count = dict.fromkeys(values, 0)
        tick, last = 0, max(self.starts.values())
        while tick <= last or due or coming:
            new = {net: aims[net] for net, start in self.starts.items() if start == tick and values[net] != aims[net]}
            new |= {net: target[net] for net, when in due.items() if when == tick}
            new |= {net: value for when, net, value in coming if when == tick}
            due = {net: when for net, when in due.items() if when != tick}
            coming = [event for event in coming if event[0] != tick]
            for net in new:
                count[net] += 1
            values |= new
            for ins, out, function in self.cells:
                value = function(*(values[net] for net in ins))
                if value != target[out]:
                    target[out] = value
                    if not self.inertial:
                        coming.append((tick + self.ticks[out], out, value))
                        continue
                    due.pop(out, None)  # a pulse that is shorter than the delay is swallowed
                    if value != values[out]:
                        due[out] = tick + self.ticks[out]
            tick += 1
        assert values == aims
        return count

    def run(self, states: np.ndarray, first: int = 1) -> Activity:
        rows = states.astype(int).tolist()
        nets = len(self.ticks)
        toggles, settled, ones = (np.zeros(nets, np.int64) for _ in range(3))
        for before, after in pairwise(rows[first - 1 :]):
            for net, times in self.moves(before, after).items():
                toggles[net] += times
            old, new = self.settled(before), self.settled(after)
            for net in new:
                settled[net] += old[net] != new[net]
                ones[net] += new[net]
        return Activity(len(rows) - first, toggles, settled, ones)


def agrees(circuit: HandNetlist, timing: Timing, states: np.ndarray, first: int = 1, inertial: bool = True) -> Activity:
    """Check that both simulators count the same on all nets except the clock."""
    ours = count_toggles(circuit.netlist, timing, states, first, inertial)
    theirs = Reference(circuit, timing.delays.tolist(), inertial).run(states, first)
    data = ~circuit.netlist.clock_nets
    for name in ("toggles", "settled", "ones"):
        different = np.nonzero(data & (getattr(ours, name) != getattr(theirs, name)))[0]
        assert not len(different), f"{name} of nets {different}: {getattr(ours, name)} and {getattr(theirs, name)}"
    assert ours.cycles == theirs.cycles == len(states) - first
    return ours


def random_netlist(random: np.random.Generator, cells: int = 30) -> HandNetlist:
    """Return random logic between three inputs and four registers."""
    nets, lines = [*"abc", *(f"q{i}" for i in range(4))], []
    for at in range(cells):
        kind = random.choice(list(LOGIC))
        pins, out, _ = LOGIC[kind]
        given = " ".join(f"{pin}={random.choice([*nets[-12:], '0'])}" for pin in pins.split())
        lines.append(f"c{at} {kind} {given} {out}=n{at}")
        nets.append(f"n{at}")
    lines += [f"r{i} dfxtp_1 CLK=clk D=n{cells - 1 - i} Q=q{i}" for i in range(4)]
    return hand_netlist("clk a b c", f"n{cells - 1}", lines)


def random_states(circuit: HandNetlist, cycles: int, random: np.random.Generator) -> np.ndarray:
    return random.random((cycles, len(state_nets(circuit.netlist)))) < 0.5


SEEDS = [0, 3, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 4, 5))]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_netlists(seed: int) -> None:
    random = np.random.default_rng(seed)
    circuit = random_netlist(random)
    timing, states = analyse(circuit.netlist), random_states(circuit, 100, random)
    activity = agrees(circuit, timing, states, first=1 + seed)
    assert 0.05 < activity.glitches < 0.8
    assert (activity.toggles >= activity.settled).all()
    bound = agrees(circuit, timing, states, first=1 + seed, inertial=False)
    assert bound.toggles.sum() > activity.toggles.sum() > activity.without_glitches.toggles.sum()
    assert (activity.without_glitches.toggles == activity.settled).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_random_delays(seed: int) -> None:
    # Delays vary much more than those of real cells, from less than a step to many steps.
    random = np.random.default_rng(100 + seed)
    circuit = random_netlist(random)
    timing = analyse(circuit.netlist)
    delays = np.where(timing.delays > 0, random.exponential(1.0, timing.delays.shape), 0)
    for inertial in (True, False):
        agrees(circuit, replace(timing, delays=delays), random_states(circuit, 100, random), inertial=inertial)


def with_ticks(circuit: HandNetlist, **ticks: int) -> Timing:
    """Return a timing in which the outputs of cells have delays of a given number of steps."""
    delays = np.zeros(circuit.netlist.nets)
    for net, count in ticks.items():
        delays[circuit.net[net]] = count
    assert delays[delays > 0].mean() == STEPS, "only then is a step 1"
    return replace(analyse(circuit.netlist), delays=delays)


@pytest.mark.parametrize(
    ("late", "slow", "pulses"),
    [(4, 4, 1), (5, 3, 1), (3, 5, 0), (1, 7, 0), (6, 2, 1)],
    ids=lambda given: str(given),
)
def test_a_glitch_passes_if_it_is_long_enough(late: int, slow: int, pulses: int) -> None:
    # x & ~x is 0, except for the delay of the inverter after x rises; the AND swallows a pulse shorter than its delay.
    circuit = hand_netlist("x", "y", ["i inv_1 A=x Y=n", "a and2_1 A=x B=n X=y"])
    timing = with_ticks(circuit, n=late, y=slow)
    states = np.asarray([0, 1, 1, 0, 0, 1], np.bool_)[:, None]
    ours = count_toggles(circuit.netlist, timing, states)
    y, n, x = (circuit.net[name] for name in "ynx")
    assert ours.toggles[y] == 2 * 2 * pulses  # x rises twice
    assert ours.settled[y] == 0  # without delays, nothing changes
    assert ours.toggles[n] == ours.toggles[x] == 3
    assert ours.ones[x] == 3
    assert ours.glitches == pytest.approx(4 * pulses / (6 + 4 * pulses), rel=1e-12)
    assert count_toggles(circuit.netlist, timing, states, inertial=False).toggles[y] == 2 * 2  # nothing is swallowed


def test_delays_add_up_along_a_chain() -> None:
    # Two paths from x to an XOR, one of 3 + 3 + 3 steps and one of 9, arrive together, so there is no glitch.
    chain = [
        "a buf_4 A=x X=p",
        "b buf_4 A=p X=q",
        "c buf_4 A=q X=r",
        "d buf_4 A=x X=s",
        "e xor2_1 A=r B=s X=y",
        "f inv_1 A=x Y=z",
    ]
    circuit = hand_netlist("x", "y", chain)
    states = np.asarray([0, 1, 0, 1, 1], np.bool_)[:, None]
    even = count_toggles(circuit.netlist, with_ticks(circuit, p=3, q=3, r=3, s=9, y=1, z=5), states)
    assert even.toggles[circuit.net["y"]] == 0
    uneven = count_toggles(circuit.netlist, with_ticks(circuit, p=3, q=3, r=4, s=8, y=1, z=5), states)
    assert uneven.toggles[circuit.net["y"]] == 2 * 3


def test_clocks_are_counted_on_both_edges() -> None:
    cells = [
        "g dlclkp_1 CLK=clk GATE=en GCLK=c",
        "f dfxtp_1 CLK=c D=d Q=q",
        "h and2_1 A=clk B=en X=w",
        "l dlxtp_1 GATE=w D=d Q=m",
        "i inv_1 A=clk Y=nc",
        "m dlxtn_1 GATE_N=nc D=d Q=k",
        "r dfxtp_1 CLK=clk D=d Q=z",
    ]
    circuit = hand_netlist("clk en d", "", cells)
    nets = state_nets(circuit.netlist)
    states = np.zeros((40, len(nets)), np.bool_)
    first, enable = 3, np.random.default_rng(0).random(40) < 0.4
    enable[[first - 1, -1]] = True, False  # so that an off-by-one in cycles is detected
    states[:, nets.index(circuit.net["en"])] = enable
    ours = count_toggles(circuit.netlist, analyse(circuit.netlist), states, first)
    for net in ("clk", "nc"):
        assert ours.toggles[circuit.net[net]] == ours.settled[circuit.net[net]] == 2 * (40 - first)
    # The clock gate samples its enable before the edge; the plain AND follows later changes too.
    assert ours.toggles[circuit.net["c"]] == 2 * enable[first - 1 : -1].sum()
    assert ours.toggles[circuit.net["w"]] == 2 * enable[first:].sum()
    assert ours.toggles[circuit.net["en"]] == np.count_nonzero(enable[first:] != enable[first - 1 : -1])
    assert ours.ones[circuit.net["en"]] == enable[first:].sum()
    for net in ("d", "q", "m", "k", "z"):
        assert ours.toggles[circuit.net[net]] == 0


def test_long_runs_are_the_sum_of_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity_module, "CACHED", 0)
    random = np.random.default_rng(0)
    circuit = random_netlist(random)
    timing = analyse(circuit.netlist)
    chunk = 64 * activity_module.LEAST_WORDS
    states = random_states(circuit, 2 * chunk + 77, random)
    whole = count_toggles(circuit.netlist, timing, states, 5)
    cuts = [5, 63, 64, 65, chunk - 1, chunk + 3, len(states)]
    parts = [count_toggles(circuit.netlist, timing, states[a - 1 : b]) for a, b in pairwise(cuts)]
    assert whole.cycles == sum(part.cycles for part in parts) == len(states) - 5
    for name in ("toggles", "settled", "ones"):
        assert (getattr(whole, name) == sum(getattr(part, name) for part in parts)).all()


def test_nets_that_do_not_settle_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    circuit = random_netlist(random)
    states = random_states(circuit, 70, random)
    right = activity_module._settle

    def wrong(order: list[activity_module.Slice], values: np.ndarray) -> None:
        right(order, values)
        values[circuit.net["n29"]] ^= np.uint64(1) << np.uint64(40)

    monkeypatch.setattr(activity_module, "_settle", wrong)
    with pytest.raises(RuntimeError, match="does not settle"):
        count_toggles(circuit.netlist, analyse(circuit.netlist), states)
