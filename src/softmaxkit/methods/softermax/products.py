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

MAX_RECIPROCAL_BITS = 9
"""Fraction bits of a reciprocal whose products with all entries stand in a table."""

MAX_CORRECTIONS = 12
"""Results that may differ by the rounding of their powers."""


Kinds = tuple[tuple[int, ...], ...]
"""The kind of each distance from a slice's maximum, for each entry of the power table."""


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

    @property
    def is_partial(self) -> bool:
        """Whether the distance from the maximum of a slice matters."""
        return len(self.local) <= self.distance


class Products(NamedTuple):
    """How results come from products.

    Attributes:
        quarters: what is shifted to the results, for each entry of the power table: its products with the mantissas
            from 1/2 up to below 1, in quarters, the lowest bit sticky.
        wires: entries that are powers of two. Their products with a mantissa of 1 are as wide; other entries take 1 for
            1/2 and are shifted by a place less.
        distances: distances from a slice's maximum that have any result but 0.
        limit: places by which every product is shifted to 0.
        corrections: results that are rounded the other way.
    """

    quarters: tuple[tuple[int, ...], ...]
    wires: tuple[bool, ...]
    distances: int
    limit: int
    corrections: tuple[Correction, ...]

    def kinds(self) -> Kinds:
        """Return the kind of each distance from a slice's maximum, for each entry: as few as tell corrections apart."""
        return tuple(tuple(self._kinds_of(entry)) for entry in range(len(self.quarters)))

    def _kinds_of(self, entry: int) -> list[int]:
        partial = [each for each in self.corrections if each.entry == entry and each.is_partial]
        kinds: list[list[bool | None]] = []
        numbers = []
        for local in range(self.distances):
            # None where it does not matter: no distance from the row's maximum is below that from its slice's.
            told = [local in each.local if local <= each.distance else None for each in partial]
            for number, kind in enumerate(kinds):
                pairs = list(zip(told, kind, strict=True))
                if all(None in pair or pair[0] == pair[1] for pair in pairs):
                    kinds[number] = [known if ours is None else ours for ours, known in pairs]
                    break
            else:
                number = len(kinds)
                kinds.append(told)
            numbers.append(number)
        return numbers


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
        or not 1 < spec.reciprocal.fraction_bits <= min(spec.output.fraction_bits + 2, MAX_RECIPROCAL_BITS)
        or max(entries) > spec.unnormalised.max_code
    ):
        return None
    sums = np.arange(1 << spec.power_sum.fraction_bits - (spec.integer_maximum == "ceil"), spec.power_sum.max_code + 1)
    # Of sums with one reciprocal the largest: `unique` gives the first.
    pairs, first = np.unique(np.stack(spec.reciprocal_table(sums[::-1], rounding)), axis=1, return_index=True)
    rows = _Rows(sums[::-1][first], *pairs)
    products = []
    for index, entry in enumerate(entries):
        if (found := _of_entry(spec, rows, places, index, entry)) is None:
            return None
        products.append(found)
    corrections = tuple(correction for each in products for correction in each.corrections)
    if len(corrections) > MAX_CORRECTIONS:
        return None
    return Products(
        tuple(each.quarters[0] for each in products),
        tuple(each.wires[0] for each in products),
        max(each.distances for each in products),
        max(each.limit for each in products),
        corrections,
    )


def _of_entry(spec: Softermax, rows: _Rows, places: int, index: int, entry: int) -> Products | None:
    """Return the products of one entry, a half more or less where that spares corrections; None if there are none."""
    half = 1 << spec.reciprocal.fraction_bits - 1
    exact = entry * np.arange(half, 2 * half)
    halves = exact >> places - 1
    quarters = 2 * halves + (exact > halves << places - 1)
    wires = entry & (entry - 1) == 0
    best = _tried(spec, rows, index, entry, quarters, wires)
    for change in (-2, 2):
        changed = None if wires else _tried(spec, rows, index, entry, quarters + change, wires)
        if best is not None and changed is not None:
            fewer = _counts(changed, half) < _counts(best, half)
            better = np.where(fewer, changed.quarters[0], best.quarters[0])
            best = _tried(spec, rows, index, entry, better, wires)
    return best


def _counts(products: Products, half: int) -> Array:
    """Return the corrections of each mantissa."""
    indices = [correction.mantissa % half for correction in products.corrections]
    return np.bincount(np.asarray(indices, np.int64), minlength=half)


def _tried(spec: Softermax, rows: _Rows, index: int, entry: int, quarters: Array, wires: bool) -> Products | None:
    """Return products of one entry with what they take; None where results are off by more than 1."""
    rounding, change = spec.rounding, spec.unnormalised.fraction_bits - spec.power_sum.fraction_bits
    places = spec.unnormalised.fraction_bits + spec.reciprocal.fraction_bits - spec.output.fraction_bits
    one = 1 << spec.reciprocal.fraction_bits
    corrections: list[Correction] = []
    distances = limit = 0
    for distance in range(spec.unnormalised.bits + 1):
        least = min(int(shift_right(np.int64(entry), distance + change, "floor")), spec.power_sum.max_code)
        reached = rows.largest >= least
        mantissa, exponent = rows.mantissa[reached], rows.exponent[reached]
        # Where products are not wires, a mantissa of 1 is taken for 1/2.
        ones = mantissa == one
        shifts = distance + exponent - spec.power_sum.fraction_bits
        taken = shifts - (ones & (not wires))
        if len(mantissa) == 0 or (taken < 0).any():
            return None
        product = quarters[mantissa % (one >> 1)] << (ones & wires)
        merged = shift_right(product, taken + 2, rounding)
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
            corrections.append(Correction(index, where, distance, *row, int(taken[at])))
        counts = (merged + wrong).any(axis=0) | merged.astype(bool)
        if counts.any():
            distances, limit = distance + 1, max(limit, int(taken[counts].max()) + 1)
    return Products((tuple(quarters.tolist()),), (wires,), distances, limit, tuple(corrections))
