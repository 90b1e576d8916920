"""Results as shifted products, where powers of two have few values but for their shift.

A power is an entry of the power table, shifted. Its product with the row's reciprocal is then that of the entry,
shifted further, but for the few results in which the powers' own rounding shows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from softmaxkit.formats import Array, shift_right
from softmaxkit.methods.softermax.spec import Softermax

MAX_ENTRIES = 8
"""Entries of the largest power table of which all products together are smaller than a multiplier."""

MAX_SUM_BITS = 20
"""Bits of a sum whose values can all be tried."""

MAX_CUT = 8
"""Low bits of a factor that are tried at 0."""

MAX_CORRECTIONS = 12
"""Results that may differ by the rounding of their powers."""


class Correction(NamedTuple):
    """Where a product is rounded the other way than the one of the rounded power.

    Attributes:
        entry: index in the power table.
        local: distances from the integer maximum of its slice at which this is so.
        distance: from the integer maximum of its row.
        mantissa, exponent: of the reciprocal.
        places: by which the product is shifted.
    """

    entry: int
    local: tuple[int, ...]
    distance: int
    mantissa: int
    exponent: int
    places: int


class Products(NamedTuple):
    """How results come from products.

    Attributes:
        factors: of the mantissa, one for each entry of the power table.
        places: below the binary point of the product of an entry at the row's maximum, with a sum in [1, 2).
        distances: distances from a slice's maximum that have any result but 0.
        limit: places by which every product is shifted to 0.
        corrections: results that are rounded the other way.
    """

    factors: tuple[int, ...]
    places: int
    distances: int
    limit: int
    corrections: tuple[Correction, ...]


class _Rows(NamedTuple):
    """Reciprocals that rows can have: the largest sum that has each, its mantissa and its exponent."""

    largest: Array
    mantissa: Array
    exponent: Array


@lru_cache
def products_of(spec: Softermax) -> Products | None:
    """Return the products of a spec; None where its results come from powers and a multiplier.

    All entries, distances and sums are tried, and all ways to round a power. A row's sum is at least each power in it,
    cut to the format of the sum: cutting once is no more than rounding step by step.
    """
    table, rounding = spec.power_table, spec.rounding
    entries = table.results(rounding) if table.rest_bits == 0 else ()
    places = spec.unnormalised.fraction_bits + spec.reciprocal.fraction_bits - spec.output.fraction_bits
    if (
        not 1 < len(entries) <= MAX_ENTRIES
        or spec.power_sum.bits > MAX_SUM_BITS
        or places < 2
        or spec.reciprocal.fraction_bits > spec.output.fraction_bits + 2
        or max(entries) > spec.unnormalised.max_code
    ):
        return None
    sums = np.arange(1 << spec.power_sum.fraction_bits - (spec.integer_maximum == "ceil"), spec.power_sum.max_code + 1)
    # Of sums with one reciprocal the largest: `unique` gives the first.
    pairs, first = np.unique(np.stack(spec.reciprocal_table(sums[::-1], rounding)), axis=1, return_index=True)
    rows = _Rows(sums[::-1][first], *pairs)
    factors: list[int] = []
    corrections: list[Correction] = []
    distances = limit = 0
    for index, entry in enumerate(entries):
        # A factor of fewer bits may do as well. A bit takes about as many gates as a correction.
        tried = []
        for cut in range(min(MAX_CUT, places - 2) + 1):
            factor = int(shift_right(np.int64(entry), cut)) << cut
            if (found := _tried(spec, rows, places, index, entry, factor)) is not None:
                tried.append(found)
        if not tried:
            return None
        best = min(tried, key=lambda each: significant_bits(each.factors[0]) + len(each.corrections))
        factors.append(best.factors[0])
        corrections += best.corrections
        distances, limit = max(distances, best.distances), max(limit, best.limit)
    if len(corrections) > MAX_CORRECTIONS:
        return None
    return Products(tuple(factors), places, distances, limit, tuple(corrections))


def significant_bits(factor: int) -> int:
    """Return the bits of a factor without the zeros below them; of a power of two, whose products are wires, 1."""
    return (factor // (factor & -factor)).bit_length()


def _tried(spec: Softermax, rows: _Rows, places: int, index: int, entry: int, factor: int) -> Products | None:
    """Return the products of one entry with a factor; None where it cannot be done so."""
    rounding, change = spec.rounding, spec.unnormalised.fraction_bits - spec.power_sum.fraction_bits
    one = 1 << spec.reciprocal.fraction_bits
    corrections: list[Correction] = []
    distances = limit = 0
    for distance in range(spec.unnormalised.bits + 1):
        least = min(int(shift_right(np.int64(entry), distance + change, "floor")), spec.power_sum.max_code)
        reached = rows.largest >= least
        mantissa, exponent = rows.mantissa[reached], rows.exponent[reached]
        shifts = distance + exponent - spec.power_sum.fraction_bits
        # Where products are not wires, a mantissa of 1 is taken for 1/2.
        taken = ((mantissa == one) & (significant_bits(factor) > 1)).astype(np.int64)
        if len(mantissa) == 0 or (shifts < taken).any():
            return None
        merged = shift_right(factor * mantissa, shifts + places, rounding)
        off = {}
        for local in range(distance + 1) if spec.maximum == "online" else [distance]:
            power = shift_right(shift_right(np.int64(entry), local, rounding), distance - local, rounding)
            off[local] = shift_right(power * mantissa, shifts - distance + places, rounding) - merged
        wrong = np.stack(list(off.values()))
        if abs(wrong).max() > 1 or merged.max() + wrong.max() > spec.output.max_code:
            return None
        for at in np.flatnonzero(wrong.any(axis=0)):
            where = tuple(each for each, error in off.items() if error[at])
            row = int(mantissa[at]), int(exponent[at])
            corrections.append(Correction(index, where, distance, *row, int((shifts - taken)[at])))
        counts = (merged + wrong).any(axis=0) | merged.astype(bool)
        if counts.any():
            distances, limit = distance + 1, max(limit, int((shifts - taken)[counts].max()) + 1)
    return Products((factor,), places, distances, limit, tuple(corrections))
