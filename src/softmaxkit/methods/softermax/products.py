"""Results as shifted products, where a power of two has few values but for its shift.

A power is an entry of the power table, shifted. The products of all entries with all mantissas of the reciprocal are then
a table, and a result is one of these, shifted, but for the few where the powers' own rounding shows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from softmaxkit.formats import Array, shift_right
from softmaxkit.methods.softermax.spec import Softermax

MAX_PRODUCTS = 512
"""Products of the largest table that takes fewer gates than a multiplier."""

MAX_CORRECTIONS = 8
"""Results that may differ by the rounding of their powers; more are a sign that it matters."""

MAX_SUM_BITS = 20
"""Bits of a sum whose values can all be tried."""


class Correction(NamedTuple):
    """Where rounding the product in place of the power goes the other way.

    Attributes:
        entry: index of the power's table entry.
        distances: from the integer maximum of its slice, of which this is so.
        distance: from the integer maximum of its row.
        mantissa, exponent: of the reciprocal.
    """

    entry: int
    distances: tuple[int, ...]
    distance: int
    mantissa: int
    exponent: int


class ProductTable(NamedTuple):
    """Products of power table entries and mantissas.

    Attributes:
        products: of each entry, with each mantissa from the least on; with two bits below the binary point of the
            results, the lower of which is sticky.
        limit: places by which every product is shifted to 0.
        distances: distances from the integer maximum of a slice that have results other than 0.
        corrections: what is rounded the other way.
    """

    products: tuple[tuple[int, ...], ...]
    limit: int
    distances: int
    corrections: tuple[Correction, ...]


@lru_cache
def product_table(spec: Softermax) -> ProductTable | None:
    """Return the products for a spec; None where its results come by way of a multiplier.

    The result of a score is its product shifted by `distance + exponent - power_sum.fraction_bits` places: never by less
    than 0, as a power of 1 or more is part of its own sum. All sums, powers and ways to round a power are tried.
    """
    table, rounding = spec.power_table, spec.rounding
    mantissas = 1 << spec.reciprocal.fraction_bits - 1
    places = spec.unnormalised.fraction_bits + spec.reciprocal.fraction_bits - spec.output.fraction_bits
    least = spec.power_sum.fraction_bits - (spec.integer_maximum == "ceil")
    if (
        table.rest_bits
        or not table.input_bits
        or mantissas << table.input_bits > MAX_PRODUCTS
        or spec.power_sum.bits > MAX_SUM_BITS
        or places < 1
        or max(table.results(rounding)) > spec.unnormalised.max_code
    ):
        return None
    sums = np.arange(1 << least, 1 << spec.power_sum.bits)
    mantissa, exponent = np.unique(np.stack(spec.reciprocal_table(sums, rounding)), axis=1)
    corrections: list[Correction] = []
    limit = distances = 0
    for entry, value in enumerate(table.results(rounding)):
        for distance in range(spec.unnormalised.bits + 1):
            reached = np.flatnonzero(distance + exponent >= spec.power_sum.fraction_bits)
            shifts = distance + exponent[reached] - spec.power_sum.fraction_bits
            merged = shift_right(value * mantissa[reached], shifts + places, rounding)
            by_slice: dict[int, Array] = {}
            for local in range(distance + 1) if spec.maximum == "online" else [distance]:
                power = shift_right(shift_right(np.int64(value), local, rounding), distance - local, rounding)
                by_slice[local] = shift_right(power * mantissa[reached], shifts - distance + places, rounding) - merged
            wrong = np.stack(list(by_slice.values()))
            if abs(wrong).max() > 1 or merged.max() + wrong.max() > spec.output.max_code:
                return None
            for at in np.flatnonzero(wrong.any(axis=0)):
                locals_ = tuple(local for local, off in by_slice.items() if off[at])
                corrections.append(
                    Correction(entry, locals_, distance, int(mantissa[reached][at]), int(exponent[reached][at]))
                )
            if (merged + wrong).any():
                distances = max(distances, distance + 1)
                limit = max(limit, int(shifts[(merged + wrong).any(axis=0)].max()) + 1)
    if len(corrections) > MAX_CORRECTIONS:
        return None
    products = tuple(
        tuple(_split(value * (mantissas + low), places) for low in range(mantissas + 1)) for value in table.results(rounding)
    )
    return ProductTable(products, limit, distances, tuple(corrections))


def _split(product: int, places: int) -> int:
    """Return a product with two bits below the binary point, the lower one set if any bit below it is."""
    return product >> (places - 2) | bool(product & ((1 << (places - 2)) - 1)) if places > 2 else product << (2 - places)
