from __future__ import annotations

from itertools import product

import numpy as np
from amaranth.hdl import signed, unsigned
from bench import Bank, Field, agree, verilator

from softmaxkit.blocks.gather import Gather
from softmaxkit.flow.simulate import Traffic, Verilated

WIDTH, KEY = 6, 5
SIZES = [*((beats, False) for beats in (1, 3, 5)), (1, True), (8, True)]
CASES = [*product(SIZES, ("flip-flops", "latches")), ((3, False), "memory"), ((8, True), "memory")]
GATHERS = [Gather(WIDTH, signed(KEY), *size, storage) for size, storage in CASES]
MUTANT = Gather(WIDTH, unsigned(KEY), 3, False)
"""Treats the signed keys as unsigned."""


def beats_of(lengths: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the beats of rows; many beats have no key, in some rows all of them."""
    count = lengths.sum()
    often = np.repeat(rng.choice([0, 0.5, 1], len(lengths)), lengths)
    return {
        "beat": rng.integers(0, 1 << WIDTH, count),
        "key": rng.integers(-(1 << (KEY - 1)), 1 << (KEY - 1), count),
        "present": (rng.random(count) < often).astype(np.int64),
        "last": np.isin(np.arange(count), np.cumsum(lengths) - 1).astype(np.int64),
    }


def gathered(gather: Gather, taken: dict[str, np.ndarray]) -> list[Field]:
    """Return the expected outputs of a gather; the maximum of a group without keys is its last beat's key field."""
    given: dict[str, list[int]] = {"maximum": [], "present": [], "group_last": []}
    group: list[int] = []
    for at, last in enumerate(taken["last"]):
        group.append(at)
        if last or (not gather.whole_rows and len(group) == gather.beats):
            keys = [taken["key"][beat] for beat in group if taken["present"][beat]]
            given["maximum"] += [max(keys, default=taken["key"][at])] * len(group)
            given["present"] += [len(keys) > 0] * len(group)
            given["group_last"] += [beat == at for beat in group]
            group = []
    fields = {"beat": WIDTH, "maximum": KEY, "present": 1, "group_last": 1, "last": 1}
    values_of = taken | {name: np.asarray(values, np.int64) for name, values in given.items()}
    return [(values_of[name], bits) for name, bits in fields.items()]


@verilator
def test_every_beat_leaves_with_the_maximum_of_its_group() -> None:
    """Groups of 1 to 5 beats and whole rows, in every storage: the outputs and their cycles."""
    rng = np.random.default_rng(0)
    bank = Bank([*GATHERS, MUTANT])
    simulator = Verilated(bank, fast=False)
    for at, gather in enumerate(bank.parts):
        case = (gather.beats, gather.whole_rows, gather.buffer.storage)
        longest = gather.beats if gather.whole_rows else 12

        def stream(lengths: np.ndarray, at: int = at, gather: Gather = gather):
            taken = beats_of(lengths, rng)
            fields = {"beat": WIDTH, "key": KEY, "present": 1, "last": 1}
            return bank.stream(at, [(taken[name], bits) for name, bits in fields.items()], gathered(gather, taken))

        rows = stream(rng.integers(1, longest, 100, endpoint=True))
        if gather is MUTANT:
            assert simulator.run(rows, Traffic()).mismatches > 10
            continue
        agree(simulator, rows)
        for traffic in (Traffic(stall=128, longest_stall=40), Traffic(gap=128, longest_gap=40)):
            assert simulator.run(rows, traffic).faults(rows) == [], (case, traffic)

        for length in {1, 2, 3, gather.beats, 7, 10} & set(range(longest + 1)):
            rows = stream(np.full(20, length))
            outcome = simulator.run(rows, Traffic(), cycles=True)
            assert outcome.faults(rows) == [], case
            assert (np.diff(outcome.taken_at) == 1).all(), (case, length)
            if gather.whole_rows or length % gather.beats == 0 or length < gather.beats:
                waits = max(min(length, gather.beats), 3 if gather.buffer.storage == "latches" else 2)
                assert set(outcome.given_at - outcome.taken_at) == {waits}, (case, length)
                assert gather.waiting(length) == waits
