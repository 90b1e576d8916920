"""Division after the weighted sum: what a method gives where weights leave it before their row is whole."""

from __future__ import annotations

from typing import NamedTuple

from softmaxkit.formats import Array, shift_right


class DeferredRows(NamedTuple):
    """Rows as weights that refer to the maximum so far, slice by slice.

    With `sum = 0`, for each slice in order `sum = sum * scale * 2**-(rise + scale_places) + weights @ values`; in the
    end the row's output is `sum * factor * 2**-places`. Each is rounded once.

    Attributes:
        weights: unsigned codes, int64 (..., keys); 0 where masked.
        rises: int64, (..., slices): what all before is shifted down by, where the maximum rises; 0 with the first.
        width: keys of a slice.
        factor: int64, (..., 1): what stands for the division.
        places: int64, (..., 1), 0 or more.
        scales: int64, (..., slices): what all before is multiplied by; None where a shift is enough.
        scale_places: bits of the fraction of a scale.
    """

    weights: Array
    rises: Array
    width: int
    factor: Array
    places: Array
    scales: Array | None = None
    scale_places: int = 0

    def rescaled(self, sums: Array, index: int) -> Array:
        """Return what was summed before a slice, as the rise of the maximum leaves it."""
        places = self.rises[..., index, None] + self.scale_places
        scaled = sums if self.scales is None else sums * self.scales[..., index, None]
        return shift_right(scaled, places)
