from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from softmaxkit import ConSmax
from softmaxkit.flow.vectors import Rows, Stream, pack, places, stream, unpack

FIELDS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 5)), min_size=1, max_size=5)
"""Bits and lanes of each field."""


@settings(max_examples=60, deadline=None)
@given(FIELDS, st.integers(1, 4), st.integers(0, 2**32))
def test_fields_are_packed_from_the_lowest_bit_up(fields: list[tuple[int, int]], beats: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Negative values are packed in two's complement.
    values = [rng.integers(-(1 << (bits - 1)), 1 << bits, (beats, lanes)) for bits, lanes in fields]
    packed = pack([(field, bits) for field, (bits, _) in zip(values, fields, strict=True)])
    total = sum(bits * lanes for bits, lanes in fields)
    assert packed.dtype == np.uint32
    assert packed.shape == (beats, -(-total // 32))
    for beat in range(beats):
        number = place = 0
        for field, (bits, lanes) in zip(values, fields, strict=True):
            for lane in range(lanes):
                number |= (int(field[beat, lane]) % (1 << bits)) << place
                place += bits
        assert sum(int(word) << (32 * at) for at, word in enumerate(packed[beat])) == number
    bits, lanes = fields[0]
    assert (unpack(packed, bits, lanes) == values[0] % (1 << bits)).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 5))
def test_places_of_ragged_rows(lengths: list[int], lanes: int) -> None:
    keys = max(lengths)
    empty = np.zeros((len(lengths), keys), np.int64)
    at = places(Rows(empty, empty > 0, np.asarray(lengths)), lanes)
    expected, last, beat = [], [], 0
    for row, length in enumerate(lengths):
        for first in range(0, length, lanes):
            expected += [(row, key, beat, key - first) for key in range(first, min(first + lanes, length))]
            last.append(first + lanes >= length)
            beat += 1
    assert list(zip(*(indices.tolist() for indices in (at.rows, at.keys, at.beat, at.lane)), strict=True)) == expected
    assert at.last.tolist() == last


LANES = 3
SPEC = ConSmax()
CONSTANTS = [SPEC.constants(gamma=gamma, beta=beta) for gamma, beta in ((1.0, 0.0), (40.0, 1.0), (0.3, -2.0))]


def rows(lengths: list[int], rng: np.random.Generator) -> Rows:
    keys = max(lengths)
    codes = rng.integers(-128, 128, (len(lengths), keys))
    real = np.arange(keys) < np.asarray(lengths)[:, None]
    return Rows(codes, (rng.random(codes.shape) < 0.7) & real, np.asarray(lengths))


def test_a_stream_contains_scores_and_the_results_of_golden() -> None:
    rng = np.random.default_rng(0)
    unit = SPEC.unit(lanes=LANES, constants=CONSTANTS[0])
    ragged = rows([1, 7, 3, 4], rng)
    packed = stream(unit, [(CONSTANTS[0], ragged)])
    assert packed.writes.shape == (0, 1)
    assert packed.positions.tolist() == [1, 3, 3, 1, 3, 3, 1]
    codes, results = unpack(packed.scores, 8, LANES), unpack(packed.results, unit.result_bits, LANES)
    mask = unpack(packed.scores >> np.uint32(8 * LANES), 1, LANES)
    assert (packed.scores[:, 0] >> (9 * LANES)).tolist() == [1, 0, 0, 1, 1, 0, 1]
    golden = SPEC.golden(ragged.codes, ragged.mask, CONSTANTS[0])
    beat = 0
    for row, length in enumerate(ragged.lengths):
        for first in range(0, length, LANES):
            used = slice(first, min(first + LANES, length))
            count = used.stop - first
            assert (codes[beat, :count] == ragged.codes[row, used] % 256).all()
            assert (mask[beat, :count] == ragged.mask[row, used]).all()
            assert (results[beat, :count] == golden[row, used]).all()
            for beyond in (codes, mask, results):
                assert (beyond[beat, count:] == 0).all()
            beat += 1


def test_writes_are_offered_while_the_previous_row_is_inside() -> None:
    rng = np.random.default_rng(0)
    unit = SPEC.unit(lanes=LANES)
    segments = [rows(lengths, rng) for lengths in ([2, 9], [5, 1], [4])]
    packed: Stream = stream(unit, list(zip(CONSTANTS, segments, strict=True)))
    writes = [unit.writes(constants) for constants in CONSTANTS]
    # Beats before: 1 + 3, of which one of the last 3 is accepted; then 2 + 1, the last a row of one beat.
    after = [0] * len(writes[0]) + [1 + 1] * len(writes[1]) + [4 + 3] * len(writes[2])
    assert packed.writes[:, 0].tolist() == after
    address = unpack(packed.writes[:, 1:], unit.registers.address_bits, 1)[:, 0]
    assert address.tolist() == [place for group in writes for place, _ in group]
    payload = packed.writes[:, 1]
    data = payload >> unit.registers.address_bits & ((1 << unit.registers.data_bits) - 1)
    assert data.tolist() == [word for group in writes for _, word in group]
    last = payload >> (unit.registers.address_bits + unit.registers.data_bits)
    assert last.tolist() == [at == len(group) - 1 for group in writes for at in range(len(group))]
