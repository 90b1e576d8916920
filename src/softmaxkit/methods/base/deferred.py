"""Division after the weighted sum: what a method gives where weights leave it before their row is whole."""

from __future__ import annotations

from typing import NamedTuple

from softmaxkit.formats import Array


class DeferredRows(NamedTuple):
    """Rows as weights that refer to the maximum so far, slice by slice.

    With `sum = 0`, for each slice in order `sum = sum * 2**-rise + weights @ values`; in the end the row's output is
    `sum * factor * 2**-places`. Each is rounded once.

    Attributes:
        weights: unsigned codes, int64 (..., keys); 0 where masked.
        rises: int64, (..., slices): what the maximum rises by with each slice; 0 with the first.
        width: keys of a slice.
        factor: int64, (..., 1): what stands for the division.
        places: int64, (..., 1), 0 or more.
    """

    weights: Array
    rises: Array
    width: int
    factor: Array
    places: Array
