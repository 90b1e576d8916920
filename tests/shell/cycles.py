"""Cycle-by-cycle simulation in Amaranth with resets at any time, and drivers for streams and AXI4-Lite."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from amaranth.hdl import ResetInserter, Signal, Value
from amaranth.sim import Simulator, SimulatorContext


def clocked(component: Any, cycle: Callable[[int, Any], bool | None], cycles: int) -> None:
    """Call `cycle` before each clock edge, to set and get; it returns whether to reset at the edge, or None to stop."""
    reset = Signal()

    async def testbench(context: SimulatorContext) -> None:
        for at in range(cycles):
            resets = cycle(at, context)
            if resets is None:
                return
            context.set(reset, resets)
            await context.tick()

    simulator = Simulator(ResetInserter(reset)(component))
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


class Source:
    """Offers words on a stream with random pauses; a word stays offered until it transfers."""

    def __init__(self, stream: Any, words: Sequence[int], pause: float, rng: random.Random) -> None:
        self.stream, self.words, self.pause, self.rng = stream, words, pause, rng
        self.sent, self.offered = 0, False

    def drive(self, context: Any, allowed: bool = True) -> None:
        if not self.offered and allowed and self.sent < len(self.words):
            self.offered = self.rng.random() >= self.pause
        context.set(self.stream.valid, self.offered)
        if self.offered:
            context.set(Value.cast(self.stream.payload), self.words[self.sent])

    def taken(self, context: Any) -> bool:
        """Return whether the offered word transfers at this edge."""
        goes = self.offered and bool(context.get(self.stream.ready))
        if goes:
            self.sent, self.offered = self.sent + 1, False
        return goes


class Sink:
    """Accepts words with random pauses, and checks that an offered word does not change."""

    def __init__(self, stream: Any, pause: float, rng: random.Random) -> None:
        self.stream, self.pause, self.rng = stream, pause, rng
        self.ready, self.held, self.words = False, None, list[int]()

    def drive(self, context: Any) -> None:
        self.ready = self.rng.random() >= self.pause
        context.set(self.stream.ready, self.ready)

    def given(self, context: Any) -> int | None:
        """Return the word that transfers at this edge, if any."""
        word = context.get(Value.cast(self.stream.payload)) if context.get(self.stream.valid) else None
        assert self.held is None or word == self.held, "an offered word changed"
        goes = word is not None and self.ready
        self.held = None if goes else word
        if goes:
            self.words.append(word)
        return word if goes else None

    def reset(self) -> None:
        self.held = None


class Manager:
    """Drives AXI4-Lite: address and data of writes in any order, reads at the same time, pauses on every channel.

    Attributes:
        responses: of writes, in order.
        answers: `(response, data)` of reads, in order.
    """

    def __init__(self, bus: Any, pause: float, rng: random.Random) -> None:
        self.bus, self.pause, self.rng = bus, pause, rng
        self.writes: list[tuple[int, int, int]] = []
        self.reads: list[int] = []
        self.sent = {"aw": 0, "w": 0, "ar": 0}
        self.offered = {"aw": False, "w": False, "ar": False}
        self.ready = {"b": False, "r": False}
        self.held: dict[str, Any] = {"b": None, "r": None}
        self.responses: list[int] = []
        self.answers: list[tuple[int, int]] = []

    @property
    def idle(self) -> bool:
        return len(self.responses) == len(self.writes) and len(self.answers) == len(self.reads)

    def drive(self, context: Any) -> None:
        bus = self.bus
        for channel, queue in (("aw", self.writes), ("w", self.writes), ("ar", self.reads)):
            if not self.offered[channel] and self.sent[channel] < len(queue):
                self.offered[channel] = self.rng.random() >= self.pause
            context.set(getattr(bus, f"{channel}valid"), self.offered[channel])
        if self.offered["aw"]:
            context.set(bus.awaddr, self.writes[self.sent["aw"]][0])
        if self.offered["w"]:
            _, word, strobe = self.writes[self.sent["w"]]
            context.set(bus.wdata, word)
            context.set(bus.wstrb, strobe)
        if self.offered["ar"]:
            context.set(bus.araddr, self.reads[self.sent["ar"]])
        for channel in ("b", "r"):
            self.ready[channel] = self.rng.random() >= self.pause
            context.set(getattr(bus, f"{channel}ready"), self.ready[channel])

    def step(self, context: Any) -> list[str]:
        """Return the channels that transfer at this edge."""
        bus, passed = self.bus, []
        for channel in ("aw", "w", "ar"):
            if self.offered[channel] and context.get(getattr(bus, f"{channel}ready")):
                self.sent[channel] += 1
                self.offered[channel] = False
                passed.append(channel)
        for channel in ("b", "r"):
            answer = None
            if context.get(getattr(bus, f"{channel}valid")):
                answer = (context.get(getattr(bus, f"{channel}resp")), context.get(bus.rdata) if channel == "r" else 0)
            assert self.held[channel] is None or answer == self.held[channel], f"{channel} changed while it waited"
            goes = answer is not None and self.ready[channel]
            self.held[channel] = None if goes else answer
            if goes and channel == "b":
                self.responses.append(answer[0])
            elif goes:
                self.answers.append(answer)
            if goes:
                passed.append(channel)
        return passed
