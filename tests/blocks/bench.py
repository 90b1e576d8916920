"""A bench for blocks: runs values through a block in Verilator, with and without stalls, and compares the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator, SimulatorContext

from softmaxkit.blocks.pipeline import Pipeline
from softmaxkit.flow.simulate import Outcome, Traffic, Verilated
from softmaxkit.flow.tools import find
from softmaxkit.flow.vectors import Stream, pack, unpack

Field = tuple[Any, int]
"""Integers, one per beat, and their width in bits; negative ones in two's complement."""

verilator = pytest.mark.skipif(
    not all(find(tool) for tool in ("yosys", "verilator", "perl", "make", "g++")),
    reason="needs Yosys, Verilator and a C++ compiler",
)

STALLS = Traffic(gap=90, longest_gap=3, stall=90, longest_stall=3)
LONG = 1 << 18
"""Number of beats from which an optimised simulator is worth its longer compilation."""


class Streamed(wiring.Component):
    """A combinational block between two streams, with one register behind it.

    Args:
        inputs: width of each input.
        outputs: width of each output.
        build: builds the outputs, none wider than that.
    """

    def __init__(
        self, inputs: Sequence[int], outputs: Sequence[int], build: Callable[[Module, list[Value]], Iterable[Value]]
    ) -> None:
        self.inputs, self.outputs, self.build = inputs, outputs, build
        ports = {"scores": In(stream.Signature(sum(inputs))), "results": Out(stream.Signature(sum(outputs)))}
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pipe = Pipeline(m, "stage", self.scores.valid, self.results, ())
        m.d.comb += self.scores.ready.eq(pipe.advance)
        values = list(self.build(m, split(self.scores.payload, self.inputs)))
        pipe.finish(Cat(fitted(value, bits) for value, bits in zip(values, self.outputs, strict=True)))
        return m


class Bank(wiring.Component):
    """Parts with the streams `source` and `sink`; the first field of every beat selects one of them.

    The output `empty` of a part is compared with the number of beats inside; after a difference, the highest bit of its
    results stays set.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        self.select_bits = (len(parts) - 1).bit_length()
        self.source_bits = max(len(Value.cast(part.source.payload)) for part in parts)
        self.sink_bits = max(len(Value.cast(part.sink.payload)) for part in parts)
        ports: dict[str, Any] = {
            "scores": In(stream.Signature(self.select_bits + self.source_bits)),
            "results": Out(stream.Signature(self.sink_bits + 1)),
        }
        stored = {f"memory_{at}": part for at, part in enumerate(parts) if "memory" in part.signature.members}
        self.memories = tuple(stored)
        super().__init__(ports | {name: Out(part.memory.signature) for name, part in stored.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        select, beat = self.scores.payload[: self.select_bits], self.scores.payload[self.select_bits :]
        for at, part in enumerate(self.parts):
            m.submodules[f"part_{at}"] = part
            if f"memory_{at}" in self.memories:
                wiring.connect(m, wiring.flipped(getattr(self, f"memory_{at}")), part.memory)
            sink, wrong = Value.cast(part.sink.payload), Signal(name=f"wrong_{at}")
            m.d.comb += [Value.cast(part.source.payload).eq(beat), part.sink.ready.eq(self.results.ready)]
            with m.If(select == at):
                m.d.comb += [part.source.valid.eq(self.scores.valid), self.scores.ready.eq(part.source.ready)]
            with m.If(part.sink.valid):
                m.d.comb += [
                    self.results.valid.eq(1),
                    self.results.payload.eq(Cat(fitted(sink, self.sink_bits), wrong)),
                ]
            held = Signal(8, name=f"held_{at}")
            taken, given = part.source.valid & part.source.ready, part.sink.valid & part.sink.ready
            m.d.sync += held.eq(held + taken - given)
            if "empty" in part.signature.members:
                with m.If(part.empty != (held == 0)):
                    m.d.sync += wrong.eq(1)
        return m

    def stream(self, at: int, beats: Sequence[Field], results: Sequence[Field]) -> Stream:
        """Pack the beats for one part, and its expected results."""
        chosen = (np.full(len(beats[0][0]), at), self.select_bits)
        used = sum(bits for _, bits in results)
        quiet = (np.zeros(len(results[0][0]), np.int64), self.sink_bits + 1 - used)
        return packed([chosen, *beats], [*results, quiet])


def split(value: Value, widths: Sequence[int]) -> list[Value]:
    """Split a value into fields, the first from its lowest bits."""
    ends = np.cumsum(widths).tolist()
    return [value[end - width : end] for width, end in zip(widths, ends, strict=True)]


def fitted(value: Value, bits: int) -> Value:
    """Extend a value to `bits` bits, by its sign if it is signed; it must not be wider."""
    value = Value.cast(value)
    assert len(value) <= bits, f"{len(value)} bits, but {bits} are enough for every result"
    return Cat(value, (value < 0).replicate(bits - len(value)))


def joined(fields: Sequence[Field]) -> Any:
    """Pack fields, in chunks of beats."""
    fields = [(np.asarray(values, np.int64)[:, None], bits) for values, bits in fields]
    count, step = len(fields[0][0]), 1 << 15
    return np.concatenate(
        [pack([(values[at : at + step], bits) for values, bits in fields]) for at in range(0, count, step)]
    )


def packed(inputs: Sequence[Field], outputs: Sequence[Field]) -> Stream:
    """Pack one beat per value."""
    scores, results = joined(inputs), joined(outputs)
    return Stream(scores, results, np.zeros((0, 1), np.uint32), np.ones(len(results), np.int64))


def check(
    inputs: Sequence[Field],
    outputs: Sequence[Field],
    build: Callable[[Module, list[Value]], Iterable[Value]],
    names: Sequence[str] = (),
) -> None:
    """Build one block, or several in parallel; check its outputs for the inputs, and that a wrong bit is noticed."""
    simulator = Verilated(
        Streamed([bits for _, bits in inputs], [bits for _, bits in outputs], build), fast=len(inputs[0][0]) > LONG
    )
    agree(simulator, packed(inputs, outputs), [bits for _, bits in outputs], names)


def agree(simulator: Any, expected: Stream, widths: Sequence[int] = (), names: Sequence[str] = ()) -> None:
    """Check that results agree with and without stalls, and that a single wrong bit is noticed."""
    for traffic in (Traffic(), STALLS):
        outcome = simulator.run(expected, traffic)
        assert outcome.faults(expected) == [], explain(outcome, expected, widths, names)
        assert outcome.compared == len(expected.results) > 0
    rng = np.random.default_rng(len(expected.results))
    beat, bit = rng.integers(len(expected.results)), rng.integers(sum(widths) or 1)
    results = expected.results.copy()
    results[beat, bit // 32] ^= np.uint32(1 << (bit % 32))
    other = Stream(expected.scores, results, expected.writes, expected.positions)
    outcome = simulator.run(other, Traffic())
    assert outcome.faults(other) == ["1 wrong result beats"]
    assert [at for at, _ in outcome.wrong] == [beat]


def explain(outcome: Outcome, expected: Stream, widths: Sequence[int], names: Sequence[str]) -> str:
    """Return a text that lists the wrong outputs of the first wrong beats."""
    lines = []
    for beat, words in outcome.wrong[:5]:
        bits = [unpack(beats[None], 1, sum(widths))[0] for beats in (words, expected.results[beat])] if widths else []
        for at, width in enumerate(widths):
            got, right = ("".join(map(str, beat_bits[sum(widths[:at]) :][:width][::-1])) for beat_bits in bits)
            if got != right:
                lines.append(f"beat {beat}, {names[at] if names else at}: {got}, not {right}")
    return "\n".join(lines[:20])


def simulate(
    inputs: Sequence[Field], outputs: Sequence[Field], build: Callable[[Module, list[Value]], Iterable[Value]]
) -> None:
    """Like `check`, but in Amaranth's simulator and without a register: for few values."""
    m = Module()
    given = [Signal(bits) for _, bits in inputs]
    results = list(build(m, given))
    for value, (_, bits) in zip(results, outputs, strict=True):
        fitted(value, bits)
    expected = list(zip(*(values.tolist() for values, _ in outputs), strict=True))
    got = []

    async def testbench(context: SimulatorContext) -> None:
        for values in zip(*(values.tolist() for values, _ in inputs), strict=True):
            for signal, value in zip(given, values, strict=True):
                context.set(signal, value)
            await context.delay(1e-9)
            got.append(tuple(context.get(value) for value in results))

    simulator = Simulator(m)
    simulator.add_testbench(testbench)
    simulator.run()
    assert got == expected
    assert len(got) > 1


def clocked(component: Any, cycle: Callable[[int, Any], bool], most: int = 5000) -> None:
    """Run a component in Amaranth's simulator: call `cycle` before each clock edge, until it returns False.

    Args:
        component: to simulate.
        cycle: receives the number of the cycle and the simulator's context.
        most: most cycles to run.
    """

    async def testbench(context: SimulatorContext) -> None:
        for at in range(most):
            if not cycle(at, context):
                return
            await context.tick()
        raise AssertionError(f"no end after {most} cycles")

    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
