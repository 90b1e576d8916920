"""Rows that are too long are truncated, and the next row is intact."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.hdl import signed
from amaranth.lib import data
from cycles import Sink, Source, clocked
from mutants import broken

from softmaxkit.shell import row_guard
from softmaxkit.shell.row_guard import RowGuard

LANES, ROWS = 3, 60
BEAT = data.StructLayout(
    {"codes": data.ArrayLayout(signed(2), LANES), "mask": LANES, "keep": LANES, "last": 1, "tag": 2}
)
FIELDS = ((6, "codes"), (3, "mask"), (3, "keep"), (1, "last"), (2, "tag"))


def pack(beat: dict[str, int]) -> int:
    word, at = 0, 0
    for bits, name in FIELDS:
        word, at = word | beat[name] << at, at + bits
    return word


def rows(max_row: int, rng: random.Random) -> tuple[list[int], list[int], list[int]]:
    """Return input beats, expected output beats, and for each of these whether it ends a truncated row."""
    given, wanted, cut = list[int](), list[int](), list[int]()
    most = -(-max_row // LANES)
    for _ in range(ROWS):
        row = [
            {name: rng.getrandbits(bits) for bits, name in FIELDS} | {"last": 0}
            for _ in range(rng.choice([1, most - 1, most, most, most + 1, 2 * most + 1]) or 1)
        ]
        for beat in row:
            beat["mask"] &= beat["keep"]
        row[-1]["last"] = 1
        given += [pack(beat) for beat in row]
        kept = [dict(beat) for beat in row[:most]]
        spilt = len(row) > most
        for place in range(max_row, most * LANES) if len(row) >= most else ():
            lane = place % LANES
            spilt |= bool(kept[-1]["keep"] >> lane & 1)
            for name in ("keep", "mask"):
                kept[-1][name] &= ~(1 << lane)
        kept[-1]["last"] = 1
        wanted += [pack(beat) for beat in kept]
        cut += [0] * (len(kept) - 1) + [int(spilt)]
    return given, wanted, cut


def run(max_row: int, pause: float, seed: int = 0) -> int:
    rng = random.Random(seed)
    given, wanted, cut = rows(max_row, rng)
    part, raised = RowGuard(BEAT, max_row), list[int]()
    source, sink = Source(part.source, given, pause, rng), Sink(part.sink, pause, rng)
    ends = [at for at, word in enumerate(given) if word >> 12 & 1]

    def cycle(at: int, context: Any) -> bool | None:
        if source.sent == len(given) and len(sink.words) == len(wanted):
            return None
        source.drive(context)
        sink.drive(context)
        if sink.given(context) is not None:
            raised.append(context.get(part.cut))
        else:
            assert not context.get(part.cut)
        source.taken(context)
        return False

    clocked(part, cycle, int(len(given) * 3 / (1 - pause)))
    assert source.sent == len(given), f"only {source.sent} beats of {len(given)} went in"
    assert sink.words == wanted
    assert raised == cut
    assert len(ends) == ROWS
    return sum(cut)


@pytest.mark.parametrize("max_row", [1, 3, 7, 8, 9])
def test_long_rows_are_truncated(max_row: int) -> None:
    for pause in (0.0, 0.5):
        assert ROWS // 4 < run(max_row, pause) < ROWS


def test_a_reset_ends_a_row_that_is_being_dropped() -> None:
    part, rng = RowGuard(BEAT, 3), random.Random(1)
    long, row = pack({name: 0 for _, name in FIELDS}), pack({"codes": 5, "mask": 7, "keep": 7, "last": 1, "tag": 1})
    source, sink = Source(part.source, [long] * 5 + [row], 0.0, rng), Sink(part.sink, 0.0, rng)

    def cycle(at: int, context: Any) -> bool:
        source.drive(context)
        sink.drive(context)
        sink.given(context)
        source.taken(context)
        return at == 4

    clocked(part, cycle, 10)
    assert sink.words[-1] == row


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("position == most - 1", "position == most"),
        ("(dropping | ends) & ~source.p.last", "(dropping | ends)"),
        ("source.ready.eq(sink.ready | dropping)", "source.ready.eq(sink.ready & ~dropping)"),
        ("sink.valid.eq(source.valid & ~dropping)", "sink.valid.eq(source.valid)"),
        ("sink.p.mask.eq(source.p.mask & fitting)", "sink.p.mask.eq(source.p.mask)"),
        ("(source.p.keep & ~fitting).any() | ", ""),
        ("self.cut.eq(sink.valid & sink.ready & spills)", "self.cut.eq(sink.valid & spills)"),
    ],
)
def test_faults_show(right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.RowGuard", broken(row_guard, "RowGuard", right, wrong))
    with pytest.raises(AssertionError):
        run(8, 0.5)
