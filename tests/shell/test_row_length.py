"""Row lengths, causal masks and blocks from parameters, against a Python model."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.hdl import signed
from amaranth.lib import data
from cycles import Sink, Source, clocked
from mutants import broken

from softmaxkit.shell import row_length
from softmaxkit.shell.row_length import RowLength

LANES = 3


BEAT = data.StructLayout(
    {"codes": data.ArrayLayout(signed(4), LANES), "mask": LANES, "keep": LANES, "last": 1, "tag": 0}
)


class RowModel:
    """A model that counts positions up instead of down."""

    def __init__(self) -> None:
        self.row, self.position, self.restart, self.numbers = 0, 0, False, dict[str, int]()

    def between(self, numbers: dict[str, int], after_row: bool) -> None:
        """Sample the parameters of the next row."""
        self.row += after_row
        if self.restart or (after_row and self.row == numbers["block_rows"]):
            self.row = 0
        self.restart, self.numbers = False, dict(numbers)

    def beat(self, word: int) -> tuple[int, bool]:
        """Return the expected output beat, and whether it ends its row."""
        n, codes, mask, keep = self.numbers, word & 0xFFF, word >> 12 & 7, word >> 15 & 7
        for lane in range(LANES):
            place = self.position + lane
            if place >= n["row_length"]:
                keep &= ~(1 << lane)
            if place >= n["row_length"] or (n["causal"] and place > self.row + n["causal_offset"]):
                mask &= ~(1 << lane)
        self.position += LANES
        last = self.position >= n["row_length"]
        if last:
            self.position = 0
        return codes | mask << 12 | keep << 15 | last << 18, last


def numbers(rng: random.Random) -> dict[str, int]:
    return {
        "row_length": rng.choice([0, 1, 2, 3, 4, 6, 7, 9, 11]),
        "causal": rng.randrange(2),
        "causal_offset": rng.randrange(-6, 8),
        "block_rows": rng.choice([0, 1, 2, 5]),
    }


def run(cycles: int, seed: int, pause: float) -> int:
    """Return the number of beats compared, with parameters that change and resets at any time."""
    rng = random.Random(seed)
    part, compared = RowLength(BEAT), 0
    words = [rng.getrandbits(19) for _ in range(cycles)]
    model, now, inside, after_reset = RowModel(), numbers(rng), False, True
    source, sink = Source(part.source, words, pause, rng), Sink(part.sink, pause / 2, rng)

    def cycle(at: int, context: Any) -> bool:
        nonlocal now, inside, compared, model, after_reset
        if rng.random() < 0.2:
            now = numbers(rng)
        restart = rng.random() < 0.05
        for name, value in {**now, "restart": restart}.items():
            context.set(getattr(part, name), value)
        source.drive(context)
        sink.drive(context)
        offered = source.offered
        word = words[source.sent] if offered else 0
        got, taken, last = sink.given(context), source.taken(context), False
        assert taken == (got is not None)
        assert context.get(part.empty) == (taken and model.numbers["row_length"] == 0)
        if taken:
            assert not after_reset
            wanted, last = model.beat(word)
            assert got == wanted, f"cycle {at}: {got:#x}, not {wanted:#x}"
            inside, compared = not last, compared + 1
        model.restart |= restart
        if after_reset or last or (not offered and not inside):
            model.between(now, last)
        after_reset = rng.random() < 0.01
        if after_reset:
            model, inside = RowModel(), False
            sink.reset()
        return after_reset

    clocked(part, cycle, cycles)
    return compared


@pytest.mark.parametrize("pause", [0.0, 0.4, 0.8])
def test_rows_follow_their_parameters(pause: float) -> None:
    assert run(1000, 0, pause) > 150


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("left <= self.lanes", "left < self.lanes"),
        ("row + self.causal_offset + 1", "row + self.causal_offset"),
        ("row + 1 == self.block_rows", "row == self.block_rows"),
        ("Mux(first < 0, 0, first)", "first"),
        ("~ready | ends | (~source.valid & ~inside)", "~ready | ends | ~inside"),
        ("allowed < self.lanes, 0", "allowed < 0, 0"),
        ("self.restart | restart", "self.restart"),
        ("sink.valid.eq(source.valid & ready)", "sink.valid.eq(source.valid)"),
        ("self.empty.eq(taken & (left == 0))", "self.empty.eq(taken & (left == 1))"),
    ],
)
def test_faults_show(right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.RowLength", broken(row_length, "RowLength", right, wrong))
    with pytest.raises(AssertionError):
        run(1200, 0, 0.4)
