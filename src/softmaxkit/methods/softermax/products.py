"""Results as shifted products, for specs whose power table has few entries.

A power is a shifted entry of the power table. Its product with the row's reciprocal is therefore that of the entry,
shifted further, except for the few results that the rounding of the power itself changes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from softmaxkit.formats import Array
from softmaxkit.methods.softermax.spec import Softermax
from softmaxkit.rounding import shift_right

MAX_ENTRIES = 8
"""Largest power table, in entries, for which the tables of all products are smaller than a multiplier."""

MAX_SUM_BITS = 20
"""Widest sum, in bits, whose values are enumerated."""

MAX_RECIPROCAL_BITS = 9
"""Most fraction bits of a reciprocal for which its products with all entries are tabulated."""

MAX_CORRECTIONS = 12
"""Most results that may differ because of the rounding of their powers."""


Kinds = tuple[tuple[int, ...], ...]
"""The kind of each distance from a slice's maximum, for each entry of the power table."""


class Correction(NamedTuple):
    """A result for which the shifted product rounds differently from the product of the rounded power.

    Attributes:
        entry: index in the power table.
        local: distances from the integer maximum of the slice to which the correction applies.
        distance: distance from the integer maximum of the row.
        mantissa, exponent: mantissa and exponent of the reciprocal.
        places: right shift of the product.
    """

    entry: int
    local: tuple[int, ...]
    distance: int
    mantissa: int
    exponent: int
    places: int

    @property
    def is_partial(self) -> bool:
        """Whether the correction depends on the distance from the maximum of the slice."""
        return len(self.local) <= self.distance


class Products(NamedTuple):
    """How results are computed from products.

    Attributes:
        quarters: products of each entry of the power table with the mantissas in [1/2, 1), in quarters of an output
            step before the shift, with a sticky lowest bit.
        wires: which entries are powers of two. These are multiplied by a mantissa of 1 directly; other entries treat 1
            as 1/2 and are shifted by one place less.
        distances: number of distances from a slice's maximum that can give a result other than 0.
        limit: right shift at which every product becomes 0.
        corrections: results that are rounded the other way.
    """

    quarters: tuple[tuple[int, ...], ...]
    wires: tuple[bool, ...]
    distances: int
    limit: int
    corrections: tuple[Correction, ...]

    def kinds(self) -> Kinds:
        """Return the kind of each distance from a slice's maximum, for each entry: the fewest that tell corrections."""
        return tuple(tuple(self._kinds_of(entry)) for entry in range(len(self.quarters)))

    def _kinds_of(self, entry: int) -> list[int]:
        partial = [correction for correction in self.corrections if correction.entry == entry and correction.is_partial]
        kinds: list[list[bool | None]] = []
        indices = []
        for local in range(self.distances):
            # None where irrelevant: the distance from the row's maximum is never below that from the slice's.
            applies = [local in correction.local if local <= correction.distance else None for correction in partial]
            for index, kind in enumerate(kinds):
                pairs = list(zip(applies, kind, strict=True))
                if all(None in pair or pair[0] == pair[1] for pair in pairs):
                    kinds[index] = [known if own is None else own for own, known in pairs]
                    break
            else:
                index = len(kinds)
                kinds.append(applies)
            indices.append(index)
        return indices


class _Rows(NamedTuple):
    """Possible reciprocals of rows: for each, the largest sum that yields it, its mantissa and its exponent."""

    largest: Array
    mantissa: Array
    exponent: Array


@lru_cache
def products_of(spec: Softermax) -> Products | None:
    """Return the products of a spec; None if its results are computed from powers and a multiplier.

    All entries, distances and sums are enumerated, and all ways to round a power. The sum of a row is at least each of
    its powers, truncated to the format of the sum: truncating once gives no more than rounding step by step.
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
    # Reversed, since `unique` returns the first occurrence: the largest sum with each reciprocal.
    pairs, first = np.unique(np.stack(spec.reciprocal_table(sums[::-1], rounding)), axis=1, return_index=True)
    rows = _Rows(sums[::-1][first], *pairs)
    products = []
    for index, entry in enumerate(entries):
        if (of_entry := _of_entry(spec, rows, places, index, entry)) is None:
            return None
        products.append(of_entry)
    corrections = tuple(correction for entry_products in products for correction in entry_products.corrections)
    if len(corrections) > MAX_CORRECTIONS:
        return None
    return Products(
        tuple(entry_products.quarters[0] for entry_products in products),
        tuple(entry_products.wires[0] for entry_products in products),
        max(entry_products.distances for entry_products in products),
        max(entry_products.limit for entry_products in products),
        corrections,
    )


def _of_entry(spec: Softermax, rows: _Rows, places: int, index: int, entry: int) -> Products | None:
    """Return the products of one entry, adjusted by a half where that saves corrections; None if impossible."""
    half = 1 << spec.reciprocal.fraction_bits - 1
    exact = entry * np.arange(half, 2 * half)
    halves = exact >> places - 1
    quarters = 2 * halves + (exact > halves << places - 1)
    wires = entry & (entry - 1) == 0
    best = _evaluate(spec, rows, index, entry, quarters, wires)
    for change in (-2, 2):
        changed = None if wires else _evaluate(spec, rows, index, entry, quarters + change, wires)
        if best is not None and changed is not None:
            fewer = _counts(changed, half) < _counts(best, half)
            better = np.where(fewer, changed.quarters[0], best.quarters[0])
            best = _evaluate(spec, rows, index, entry, better, wires)
    return best


def _counts(products: Products, half: int) -> Array:
    """Return the number of corrections per mantissa."""
    indices = [correction.mantissa % half for correction in products.corrections]
    return np.bincount(np.asarray(indices, np.int64), minlength=half)


def _evaluate(spec: Softermax, rows: _Rows, index: int, entry: int, quarters: Array, wires: bool) -> Products | None:
    """Return the products of one entry with the corrections they require; None if a result is off by more than 1."""
    rounding, change = spec.rounding, spec.unnormalised.fraction_bits - spec.power_sum.fraction_bits
    places = spec.unnormalised.fraction_bits + spec.reciprocal.fraction_bits - spec.output.fraction_bits
    one = 1 << spec.reciprocal.fraction_bits
    corrections: list[Correction] = []
    distances = limit = 0
    for distance in range(spec.unnormalised.bits + 1):
        least = min(int(shift_right(np.int64(entry), distance + change, "floor")), spec.power_sum.max_code)
        reached = rows.largest >= least
        mantissa, exponent = rows.mantissa[reached], rows.exponent[reached]
        # Except for wires, a mantissa of 1 is treated as 1/2.
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
            where = tuple(slice_distance for slice_distance, error in off.items() if error[at])
            row = int(mantissa[at]), int(exponent[at])
            corrections.append(Correction(index, where, distance, *row, int(taken[at])))
        counts = (merged + wrong).any(axis=0) | merged.astype(bool)
        if counts.any():
            distances, limit = distance + 1, max(limit, int(taken[counts].max()) + 1)
    return Products((tuple(quarters.tolist()),), (wires,), distances, limit, tuple(corrections))
