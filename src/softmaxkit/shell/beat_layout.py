"""Arrangement of rows in the beats of a shell's test bench."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from softmaxkit.flow.vectors import Booleans, Integers


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
