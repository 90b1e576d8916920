"""Deferred division: results of a method whose weights leave before the row is complete."""

from __future__ import annotations

from typing import NamedTuple

from softmaxkit.formats import Array
from softmaxkit.rounding import shift_right


class DeferredRows(NamedTuple):
    """Weights of rows, slice by slice, each relative to the running maximum.

    Starting from `sum = 0`, each slice in order computes
    `sum = sum * scale * 2**-(rise + scale_places) + weights @ values`; the output of the row is then
    `sum * factor * 2**-places`. Each right-hand product is rounded once.

    Attributes:
        weights: unsigned codes, int64 (..., keys); 0 where masked.
        rises: int64 (..., slices): right shift of the previous sum when the maximum rises; 0 for the first slice.
        width: number of keys in a slice.
        factor: int64 (..., 1): multiplier that replaces the division.
        places: int64 (..., 1): right shift after `factor`, 0 or more.
        scales: int64 (..., slices): multiplier of the previous sum; None where a shift suffices.
        scale_places: number of fraction bits in `scales`.
    """

    weights: Array
    rises: Array
    width: int
    factor: Array
    places: Array
    scales: Array | None = None
    scale_places: int = 0

    def rescaled(self, sums: Array, index: int) -> Array:
        """Rescale the previous sums to the running maximum of slice `index`."""
        places = self.rises[..., index, None] + self.scale_places
        scaled = sums if self.scales is None else sums * self.scales[..., index, None]
        return shift_right(scaled, places)
