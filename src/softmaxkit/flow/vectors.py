"""Rows of scores as the beats of a unit, packed into words, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.methods.base.constants import Constants

    Integers = NDArray[np.int64]
    Booleans = NDArray[np.bool_]
    Packed = NDArray[np.uint32]


@dataclass(frozen=True)
class Rows:
    """Rows of any lengths, padded to one.

    Attributes:
        codes: int64, (rows, keys).
        mask: boolean, (rows, keys); nothing is attended beyond a row's length.
        lengths: int64, (rows,), 1 to keys.
    """

    codes: Integers
    mask: Booleans
    lengths: Integers

    def first(self, rows: int, longest: int) -> Rows:
        """Return some of the rows, evenly spread, cut off at a length."""
        some = np.unique(np.linspace(0, len(self.lengths) - 1, rows).astype(np.int64))
        lengths = np.minimum(self.lengths[some], longest)
        keys = int(lengths.max())
        mask = self.mask[some, :keys] & (np.arange(keys) < lengths[:, None])
        return Rows(self.codes[some, :keys], mask, lengths)

    def taken(self, some: Integers) -> Rows:
        """Return the rows of these indices, in their order."""
        return Rows(self.codes[some], self.mask[some], self.lengths[some])

    @property
    def real(self) -> Booleans:
        """Which positions there are, (rows, keys)."""
        return np.arange(self.codes.shape[1]) < self.lengths[:, None]


@dataclass(frozen=True)
class Stream:
    """What goes into a unit and what has to come out, packed.

    Attributes:
        scores: uint32, (beats, words): payloads, from bit 0 of word 0 up.
        results: the same of results.
        writes: uint32, (writes, 1 + words): configuration, each after so many beats of scores.
        positions: int64, (result beats,): how many positions of each beat there are.
        result_bits: width of a result, so that wrong ones can be counted; 0 to count beats alone.
    """

    scores: Packed
    results: Packed
    writes: Packed
    positions: Integers
    result_bits: int = 0


@dataclass(frozen=True)
class Places:
    """Where the positions of rows lie in beats.

    Attributes:
        rows, keys: of every position, in order.
        beat, lane: where it is.
        last: boolean, (beats,): the last of its row.
    """

    rows: Integers
    keys: Integers
    beat: Integers
    lane: Integers
    last: Booleans


def places(rows: Rows, lanes: int) -> Places:
    """Lay rows into beats, one after the other."""
    beats = -(-rows.lengths // lanes)
    ends = np.cumsum(beats)
    row, key = np.nonzero(rows.real)
    beat = (ends - beats)[row] + key // lanes
    last = np.zeros(int(ends[-1]) if len(ends) else 0, np.bool_)
    last[ends - 1] = True
    return Places(row, key, beat, key % lanes, last)


def stream(unit: SoftmaxUnit, segments: Sequence[tuple[Constants, Rows]]) -> Stream:
    """Pack rows for a unit, with what golden says of them.

    Args:
        unit: with baked constants, or loadable ones, which are then written before each segment's first row. All but
            the first are offered while the last row of the segment before is on its way.
        segments: constants, and rows to be normalised with them.
    """
    scores, results, writes, positions = [], [], [], []
    beats = last_row = 0
    for constants, rows in segments:
        at = places(rows, unit.lanes * unit.positions_a_lane(constants))
        if unit.registers is not None:
            writes.append(pack_writes(unit, unit.writes(constants), beats and last_row + 1))
        golden = unit.golden(np.where(rows.real, rows.codes, 0), rows.mask, constants)
        taken = (at.rows, at.keys)
        each = unit.positions_a_lane(constants)
        scores.append(pack_scores(unit, at, rows.codes[taken], rows.mask[taken], each))
        results.append(pack_results(unit, at, golden[taken], each))
        positions.append(np.bincount(at.beat, minlength=len(at.last)))
        beats += len(at.last)
        last_row = beats - int(-(-rows.lengths[-1] // (unit.lanes * each)))
    return Stream(
        np.concatenate(scores),
        np.concatenate(results),
        np.concatenate(writes) if writes else np.zeros((0, 1), np.uint32),
        np.concatenate(positions),
        unit.result_bits,
    )


def pack_scores(unit: SoftmaxUnit, at: Places, codes: Integers, mask: Booleans, each: int = 1) -> Packed:
    """Pack scores and mask bits, `each` positions a lane; a position gets all the mask bits of its part of a lane."""
    bits, lanes = unit.code_shape.width // each, unit.lanes * each
    laid, masks = _lay(at, lanes, codes), _lay(at, lanes, mask.astype(np.int64))
    masks = np.repeat(masks, unit.masks // each, axis=1)
    return pack([(laid, bits), (masks, 1), (at.last[:, None].astype(np.int64), 1)])


def pack_results(unit: SoftmaxUnit, at: Places, codes: Integers, each: int = 1) -> Packed:
    """Pack results, `each` positions a lane; 0 beyond a row's end, and for results that a lane leaves out."""
    laid = np.zeros((len(at.last), unit.lanes * unit.masks), np.int64)
    laid[:, :: unit.masks // each] = _lay(at, unit.lanes * each, codes)
    return pack([(laid, unit.result_bits), (at.last[:, None].astype(np.int64), 1)])


def pack_writes(unit: SoftmaxUnit, writes: Sequence[tuple[int, int]], after: int) -> Packed:
    """Pack one group of writes, offered once so many beats of scores have been taken."""
    assert unit.registers is not None
    address, data = np.asarray(writes, np.int64).T
    last = np.arange(len(writes)) == len(writes) - 1
    fields = [(address[:, None], unit.registers.address_bits), (data[:, None], unit.registers.data_bits)]
    packed = pack([*fields, (last[:, None].astype(np.int64), 1)])
    return np.concatenate((np.full((len(writes), 1), after, np.uint32), packed), axis=1)


def pack(fields: Sequence[tuple[Integers, int]]) -> Packed:
    """Pack fields, the first in the lowest bits.

    Args:
        fields: `(values, bits)` of each; values int64, (beats, lanes), lane 0 in the lowest bits.

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


def unpack(words: Packed, bits: int, lanes: int) -> Integers:
    """Return the first `lanes` fields of `bits` each, unsigned, of packed beats; int64, (beats, lanes)."""
    flat = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    fields = flat[:, : bits * lanes].reshape(len(words), lanes, bits).astype(np.int64)
    values: Integers = (fields << np.arange(bits)).sum(axis=-1)
    return values


def _lay(at: Places, lanes: int, values: Integers) -> Integers:
    laid = np.zeros((len(at.last), lanes), np.int64)
    laid[at.beat, at.lane] = values
    return laid
