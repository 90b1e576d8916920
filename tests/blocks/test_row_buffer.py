from __future__ import annotations

from itertools import product
from typing import get_args

import numpy as np
from amaranth.hdl import Module
from bench import Bank, agree, verilator

from softmaxkit.blocks.row_buffer import RowBuffer
from softmaxkit.blocks.storage import Storage
from softmaxkit.flow.simulate import Traffic, Verilated

WIDTH = 9
BUFFERS = [RowBuffer(WIDTH, *form) for form in product((1, 2, 3, 8), get_args(Storage))]
TRAFFIC = (
    Traffic(stall=128, longest_stall=40),
    Traffic(gap=128, longest_gap=40),
    Traffic(60, 30, 60, 30, seed=7),
)


class NeverEmpty(RowBuffer):
    """A buffer whose `empty` is always low."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.empty.eq(0)
        return m


class NeverFull(RowBuffer):
    """A buffer that accepts more beats than it has room for."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.source.ready.eq(1)
        return m


MUTANTS = [NeverEmpty(WIDTH, 4), NeverFull(WIDTH, 4)]


@verilator
def test_beats_come_out_in_order_one_per_cycle() -> None:
    """Every depth and storage is a FIFO of that depth, with a correct `empty`."""
    bank = Bank([*BUFFERS, *MUTANTS])
    simulator = Verilated(bank, fast=False)
    beats = [(np.random.default_rng(0).integers(0, 1 << WIDTH, 400), WIDTH)]
    for at, buffer in enumerate(bank.parts):
        case = (buffer.depth, buffer.storage)
        stream = bank.stream(at, beats, beats)
        if buffer in MUTANTS:
            assert simulator.run(stream, TRAFFIC[0]).mismatches > 10
            continue
        agree(simulator, stream)
        for traffic in TRAFFIC:
            assert simulator.run(stream, traffic).faults(stream) == [], (case, traffic)

        # One more waits at the output.
        assert simulator.run(stream, Traffic(stall=256)).taken == buffer.depth + 1, case

        outcome = simulator.run(stream, Traffic(), cycles=True)
        delay = 3 if buffer.storage == "latches" else 2
        assert outcome.given_at[0] - outcome.taken_at[0] == delay, case
        if buffer.depth >= delay:
            assert (np.diff(outcome.taken_at) == 1).all(), case
            assert (np.diff(outcome.given_at) == 1).all(), case
        if buffer.depth == 1:  # the next is written once this one has been read
            assert (np.diff(outcome.taken_at) == delay).all(), case
