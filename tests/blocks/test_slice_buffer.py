from __future__ import annotations

from itertools import product

import numpy as np
from amaranth.hdl import signed, unsigned
from bench import Bank, Field, agree, verilator

from softmaxkit.blocks.slice_buffer import SliceBuffer
from softmaxkit.flow.simulate import Traffic, Verilated

WIDTH, KEY = 6, 5
BUFFERS = [
    SliceBuffer(WIDTH, signed(KEY), beats, storage) for beats, storage in product((2, 3, 4), ("flip-flops", "latches"))
]
MUTANT = SliceBuffer(WIDTH, unsigned(KEY), 3)
"""Treats the signed keys as unsigned."""


def held_back(buffer: SliceBuffer, taken: dict[str, np.ndarray]) -> list[Field]:
    """Return the expected outputs of a slice buffer."""
    maxima: list[int] = []
    begins: list[bool] = []
    ends: list[bool] = []
    group: list[int] = []
    for at, last in enumerate(taken["last"]):
        group.append(at)
        if last or len(group) == buffer.beats:
            maxima += [max(taken["key"][beat] for beat in group)] * len(group)
            begins += [beat == group[0] for beat in group]
            ends += [beat == at for beat in group]
            group = []
    flags = [(np.asarray(flag, np.int64), 1) for flag in (begins, ends, taken["last"])]
    return [(taken["beat"], WIDTH), (np.asarray(maxima), KEY), *flags]


@verilator
def test_every_beat_leaves_with_the_maximum_of_its_slice() -> None:
    """Slices of 2 to 4 beats, in both storages: the outputs and their cycles."""
    rng = np.random.default_rng(0)
    bank = Bank([*BUFFERS, MUTANT])
    simulator = Verilated(bank, fast=False)
    for at, buffer in enumerate(bank.parts):
        case = (buffer.beats, buffer.storage)

        def stream(lengths: np.ndarray, at: int = at, buffer: SliceBuffer = buffer):
            count = lengths.sum()
            taken = {
                "beat": rng.integers(0, 1 << WIDTH, count),
                "key": rng.integers(-(1 << (KEY - 1)), 1 << (KEY - 1), count),
                "last": np.isin(np.arange(count), np.cumsum(lengths) - 1).astype(np.int64),
            }
            fields = {"beat": WIDTH, "key": KEY, "last": 1}
            return bank.stream(at, [(taken[name], bits) for name, bits in fields.items()], held_back(buffer, taken))

        rows = stream(rng.integers(1, 12, 100, endpoint=True))
        if buffer is MUTANT:
            assert simulator.run(rows, Traffic()).mismatches > 10
            continue
        agree(simulator, rows)
        for traffic in (Traffic(stall=128, longest_stall=40), Traffic(gap=128, longest_gap=40)):
            assert simulator.run(rows, traffic).faults(rows) == [], (case, traffic)

        for length in (1, 2, 3, 4, 5, 8):
            alone, steady = stream(np.full(1, length)), stream(np.full(20, length))
            first, many = (simulator.run(rows, Traffic(), cycles=True) for rows in (alone, steady))
            assert first.faults(alone) == many.faults(steady) == [], case
            assert first.given_at[-1] - first.taken_at[0] == buffer.leaves(length), (case, length)
            assert set(np.diff(many.taken_at[::length])[10:]) == {buffer.interval(length)}, (case, length)
