"""Arrangement of rows in the beats of a shell's test bench."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from softmaxkit.flow.interface import whole_bytes
from softmaxkit.flow.vectors import pack

if TYPE_CHECKING:
    from softmaxkit.flow.vectors import Booleans, Integers, Packed, Rows
    from softmaxkit.shell.shell import Shell


def beat_counts(lengths: Integers, lanes: int) -> Integers:
    """Return the number of beats of rows; a row of length 0 has one."""
    return np.maximum(-(-lengths // lanes), 1)


class BeatLayout:
    """Arrangement of rows in beats.

    Args:
        lengths: of the rows, int64 (rows,).
        lanes: positions per beat.

    Attributes:
        last: 1 for the last beat of a row, int64 (beats, 1).
    """

    def __init__(self, lengths: Integers, lanes: int) -> None:
        self.lanes, taken = lanes, beat_counts(lengths, lanes)
        number = np.arange(taken.max())
        self.chosen = number < taken[:, None]
        self.last = (number == taken[:, None] - 1)[self.chosen][:, None].astype(np.int64)

    def beats(self, values: Integers | Booleans) -> Integers:
        """Return values per position, (rows, positions), as (beats, lanes); 0 beyond the last position."""
        width = self.chosen.shape[1] * self.lanes
        padded = np.zeros((len(values), width), np.int64)
        padded[:, : values.shape[1]] = values[:, :width]
        laid: Integers = padded.reshape(len(values), -1, self.lanes)[self.chosen]
        return laid

    def of_rows(self, values: Integers) -> Integers:
        """Return values per row, (rows,), as (beats, 1)."""
        laid: Integers = np.broadcast_to(values[:, None], self.chosen.shape)[self.chosen][:, None]
        return laid

    def scores(self, shell: Shell, rows: Rows, kept: Booleans, tags: Integers, random: np.random.Generator) -> Packed:
        """Return the packed input beats of rows; with `tkeep`, only some bytes of a position that is not kept are."""
        options, bits = shell.options, shell.unit.code_shape.width
        code_bytes = whole_bytes(bits) // 8
        fields = [(self.beats(rows.codes) & ((1 << bits) - 1), 8 * code_bytes)]
        if options.keep:
            keep = self.beats(kept)
            if options.row_length:  # what follows in the last beat of a row is kept by the source
                keep |= 1 - self.beats(rows.real)
            some = random.integers(0, code_bytes, keep.shape)[:, :, None] != np.arange(code_bytes)
            fields.append((np.repeat(keep, code_bytes, axis=1) | some.reshape(len(keep), -1), 1))
        if not options.row_length:
            fields += [(self.beats(rows.mask), 1), (self.last, 1)]
        if options.tags:
            fields.append((self.of_rows(tags), options.tag_bits))
        return pack(fields)

    def results(self, shell: Shell, golden: Integers, kept: Booleans, tags: Integers) -> Packed:
        """Return the packed output beats of rows; with `tkeep`, all lanes are kept before the last beat."""
        options = shell.options
        result_bytes = whole_bytes(shell.unit.result_bits) // 8
        fields = [(self.beats(golden), 8 * result_bytes)]
        if options.keep:
            keep = self.beats(kept[:, : golden.shape[1]]) | (1 - self.last)
            fields.append((np.repeat(keep, result_bytes, axis=1), 1))
        fields.append((self.last, 1))
        if options.tags:
            fields.append((self.of_rows(tags), options.tag_bits))
        return pack(fields)
