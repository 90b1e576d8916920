"""Test vectors: rows of scores as the beats of a unit, packed into words and unpacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxkit.methods.base.unit import SoftmaxUnit

    Integers = NDArray[np.int64]
    Booleans = NDArray[np.bool_]
    Packed = NDArray[np.uint32]


@dataclass(frozen=True)
class Rows:
    """Rows of different lengths, padded to the longest.

    Attributes:
        codes: int64, (rows, keys).
        mask: boolean, (rows, keys); False beyond a row's length.
        lengths: int64, (rows,), 1 to keys.
        sets: int64, (rows,): index of each row's set of constants; None if all rows use the first.
    """

    codes: Integers
    mask: Booleans
    lengths: Integers
    sets: Integers | None = None

    def first(self, rows: int, longest: int) -> Rows:
        """Return up to `rows` rows, evenly spread over all, truncated to the length `longest`."""
        indices = np.unique(np.linspace(0, len(self.lengths) - 1, rows).astype(np.int64))
        lengths = np.minimum(self.lengths[indices], longest)
        keys = int(lengths.max())
        mask = self.mask[indices, :keys] & (np.arange(keys) < lengths[:, None])
        return Rows(self.codes[indices, :keys], mask, lengths, self._sets(indices))

    def taken(self, indices: Integers) -> Rows:
        """Return the rows at these indices, in this order."""
        return Rows(self.codes[indices], self.mask[indices], self.lengths[indices], self._sets(indices))

    def _sets(self, indices: Integers) -> Integers | None:
        return None if self.sets is None else self.sets[indices]

    @property
    def real(self) -> Booleans:
        """Which positions exist rather than being padding; boolean, (rows, keys)."""
        return np.arange(self.codes.shape[1]) < self.lengths[:, None]


Segments = Sequence[tuple[Any, Rows]]
"""Pairs of constants (of one head, of several in `Sets`, or of the halves of a unit) and the rows to run on them."""


@dataclass(frozen=True)
class Stream:
    """Input of a unit and its expected output, packed.

    Attributes:
        scores: uint32, (beats, words): payloads, with bit 0 in the lowest bit of word 0.
        results: the same for results.
        writes: uint32, (writes, 1 + words): configuration writes; word 0 is the number of score beats that must be
            accepted before.
        positions: int64, (result beats,): number of positions in each beat that exist.
        result_bits: width of a result, to count wrong results; 0 to count wrong beats only.
        places: uint32, (rows + 1, 3): for each row, and at last for the end, the beat where it begins and the first
            and end index of the writes that load its constants. Without places, a run cannot continue after a reset.
    """

    scores: Packed
    results: Packed
    writes: Packed
    positions: Integers
    result_bits: int = 0
    places: Packed = field(default_factory=lambda: np.zeros((0, 3), np.uint32))

    def first(self, beats: int) -> Stream:
        """Return the first beats, with the writes that are offered before all of them are accepted."""
        writes = self.writes[self.writes[:, 0] < beats]
        end = np.asarray([[beats, len(writes), len(writes)]], np.uint32)
        return Stream(
            self.scores[:beats],
            self.results[:beats],
            writes,
            self.positions[:beats],
            self.result_bits,
            np.concatenate((self.places[self.places[:, 0] < beats], end)),
        )


@dataclass(frozen=True)
class Places:
    """Where the positions of rows lie in beats.

    Attributes:
        rows, keys: row and key of every position, in order.
        beat, lane: beat and lane of every position.
        last: boolean, (beats,): whether the beat is the last of its row.
    """

    rows: Integers
    keys: Integers
    beat: Integers
    lane: Integers
    last: Booleans


def places(rows: Rows, lanes: int) -> Places:
    """Map rows to beats, one row after another."""
    beats = -(-rows.lengths // lanes)
    ends = np.cumsum(beats)
    row, key = np.nonzero(rows.real)
    beat = (ends - beats)[row] + key // lanes
    last = np.zeros(int(ends[-1]) if len(ends) else 0, np.bool_)
    last[ends - 1] = True
    return Places(row, key, beat, key % lanes, last)


def stream(unit: SoftmaxUnit, segments: Segments, order: np.random.Generator | None = None) -> Stream:
    """Pack rows for a unit, with the results of golden.

    Args:
        unit: baked or loadable. Loadable constants are written before the first row of each segment; from the second
            segment on, they are offered while the last row of the previous segment is still inside.
        segments: constants with the rows to run on them.
        order: draws the order of the writes of each group, so that a word that changes another shows; None: by address.
    """
    scores, results, writes, positions, begins = [], [], [], [], []
    beats = last_row = written = 0
    for constants, rows in segments:
        per_lane = unit.positions_a_lane(constants)
        at = places(rows, unit.lanes * per_lane)
        if unit.registers is not None:
            words = unit.writes(constants)
            if order is not None:
                words = [words[place] for place in order.permutation(len(words))]
            writes.append(pack_writes(unit, words, beats and last_row + 1))
        group = written, sum(map(len, writes))
        written = group[1]
        golden = unit.golden(np.where(rows.real, rows.codes, 0), rows.mask, constants, rows.sets)
        index = (at.rows, at.keys)
        scores.append(pack_scores(unit, at, rows.codes[index], rows.mask[index], per_lane, rows.sets))
        results.append(pack_results(unit, at, golden[index], per_lane))
        positions.append(np.bincount(at.beat, minlength=len(at.last)))
        begins += [(beats + first, *group) for first in (0, *np.nonzero(at.last)[0][:-1] + 1)]
        beats += len(at.last)
        last_row = beats - int(-(-rows.lengths[-1] // (unit.lanes * per_lane)))
    return Stream(
        np.concatenate(scores),
        np.concatenate(results),
        np.concatenate(writes) if writes else np.zeros((0, 1), np.uint32),
        np.concatenate(positions),
        unit.result_bits,
        np.asarray([*begins, (beats, written, written)], np.uint32),
    )


def pack_scores(
    unit: SoftmaxUnit,
    at: Places,
    codes: Integers,
    mask: Booleans,
    per_lane: int = 1,
    sets: Integers | None = None,
) -> Packed:
    """Pack scores and masks, `per_lane` positions to a lane; a position sets all mask bits of its part of the lane.

    If the unit has several sets of constants, each beat has the index of its row's set, from `sets`; None for set 0.
    """
    bits, lanes = unit.code_shape.width // per_lane, unit.lanes * per_lane
    laid, masks = _lay(at, lanes, codes), _lay(at, lanes, mask.astype(np.int64))
    masks = np.repeat(masks, unit.masks // per_lane, axis=1)
    fields = [(laid, bits), (masks, 1), (at.last[:, None].astype(np.int64), 1)]
    if unit.sets > 1:
        of_rows = np.zeros(int(at.last.sum()), np.int64) if sets is None else sets
        of_beats = of_rows[np.cumsum(at.last) - at.last]
        fields.append((of_beats[:, None], unit.set_bits))
    return pack(fields)


def pack_results(unit: SoftmaxUnit, at: Places, codes: Integers, per_lane: int = 1) -> Packed:
    """Pack results, `per_lane` positions to a lane; 0 beyond the end of a row and for unused results of a lane."""
    laid = np.zeros((len(at.last), unit.lanes * unit.masks), np.int64)
    laid[:, :: unit.masks // per_lane] = _lay(at, unit.lanes * per_lane, codes)
    return pack([(laid, unit.result_bits), (at.last[:, None].astype(np.int64), 1)])


def pack_writes(unit: SoftmaxUnit, writes: Sequence[tuple[int, int]], after: int) -> Packed:
    """Pack one group of writes, to be offered once `after` score beats have been accepted."""
    assert unit.registers is not None
    address, data = np.asarray(writes, np.int64).T
    last = np.arange(len(writes)) == len(writes) - 1
    fields = [(address[:, None], unit.registers.address_bits), (data[:, None], unit.registers.data_bits)]
    packed = pack([*fields, (last[:, None].astype(np.int64), 1)])
    return np.concatenate((np.full((len(writes), 1), after, np.uint32), packed), axis=1)


def pack(fields: Sequence[tuple[Integers, int]]) -> Packed:
    """Pack fields, the first in the lowest bits.

    Args:
        fields: pairs `(values, bits)`; values int64, (beats, lanes), lane 0 in the lowest bits.

    Returns:
        uint32, (beats, words).
    """
    bits = [
        ((values[:, :, None] >> np.arange(width)) & 1).astype(np.uint8).reshape(len(values), -1)
        for values, width in fields
    ]
    packed = np.packbits(np.concatenate(bits, axis=1), axis=1, bitorder="little")
    words = -(-packed.shape[1] // 4)
    whole = np.zeros((len(packed), 4 * words), np.uint8)
    whole[:, : packed.shape[1]] = packed
    return whole.view("<u4")


def hexadecimal(words: Packed, bits: int) -> str:
    """Return packed payloads as lines of hexadecimal digits."""
    digits = -(-bits // 4)
    return "".join(beat[::-1].astype(">u4").tobytes().hex()[-digits:] + "\n" for beat in words)


def unpack(words: Packed, bits: int, lanes: int) -> Integers:
    """Return the first `lanes` fields of `bits` bits from packed beats, unsigned; int64, (beats, lanes)."""
    flat = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    fields = flat[:, : bits * lanes].reshape(len(words), lanes, bits).astype(np.int64)
    values: Integers = (fields << np.arange(bits)).sum(axis=-1)
    return values


def _lay(at: Places, lanes: int, values: Integers) -> Integers:
    laid = np.zeros((len(at.last), lanes), np.int64)
    laid[at.beat, at.lane] = values
    return laid
