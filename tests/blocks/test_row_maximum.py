from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from bench import agree, packed, verilator

from softmaxkit.blocks.row_maximum import RowMaximum
from softmaxkit.flow.simulate import Traffic, Verilated
from softmaxkit.flow.vectors import Stream

WIDTH, KEY = 6, 5


class Streamed(wiring.Component):
    """A component between the streams `scores` and `results`."""

    def __init__(self, part: RowMaximum) -> None:
        self.part = part
        ports = {
            "scores": In(stream.Signature(len(Value.cast(part.source.payload)))),
            "results": Out(stream.Signature(len(Value.cast(part.sink.payload)))),
        }
        self.memories = ("memory",) if "memory" in part.signature.members else ()
        super().__init__(ports | {name: Out(part.memory.signature) for name in self.memories})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.part = part = self.part
        if self.memories:
            wiring.connect(m, wiring.flipped(self.memory), part.memory)
        m.d.comb += [
            part.source.valid.eq(self.scores.valid),
            Value.cast(part.source.payload).eq(self.scores.payload),
            self.scores.ready.eq(part.source.ready),
            self.results.valid.eq(part.sink.valid),
            self.results.payload.eq(Value.cast(part.sink.payload)),
            part.sink.ready.eq(self.results.ready),
        ]
        return m


def rows_of(lengths: np.ndarray, rng: np.random.Generator) -> Stream:
    """Return the beats of rows, and as expected results each beat with the maximum of its row."""
    count = int(lengths.sum())
    beat, key = rng.integers(0, 1 << WIDTH, count), rng.integers(-(1 << (KEY - 1)), 1 << (KEY - 1), count)
    ends = np.cumsum(lengths)
    last = np.isin(np.arange(count), ends - 1).astype(np.int64)
    maximum = np.repeat(np.maximum.reduceat(key, ends - lengths), lengths)
    return packed([(beat, WIDTH), (key, KEY), (last, 1)], [(beat, WIDTH), (maximum, KEY), (last, 1)])


@verilator
@pytest.mark.parametrize(
    ("beats", "storage"),
    [(8, "flip-flops"), *(pytest.param(*form, marks=pytest.mark.slow) for form in ((8, "latches"), (1, "memory")))],
)
def test_every_beat_leaves_with_the_maximum_of_its_row(beats: int, storage: str) -> None:
    rng = np.random.default_rng(0)
    part = RowMaximum(WIDTH, signed(KEY), beats, storage)
    simulator = Verilated(Streamed(part), fast=False)
    rows = rows_of(rng.integers(1, beats, 200, endpoint=True), rng)
    agree(simulator, rows)
    for traffic in (Traffic(stall=128, longest_stall=40), Traffic(gap=128, longest_gap=40)):
        assert simulator.run(rows, traffic).faults(rows) == [], traffic
    for length in {1, 2, 3, 7, 8} & set(range(beats + 1)):
        rows = rows_of(np.full(20, length), rng)
        outcome = simulator.run(rows, Traffic(), cycles=True)
        assert outcome.faults(rows) == []
        assert outcome.given_at[0] - outcome.taken_at[0] == part.waiting(length)
        if length >= part.buffer.latency:
            assert (np.diff(outcome.taken_at) == 1).all(), length
            assert set(outcome.given_at - outcome.taken_at) == {part.waiting(length)}, length
        else:
            assert outcome.taken_at[-1] <= 2 * length * 20, length
