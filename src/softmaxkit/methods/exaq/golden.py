"""Golden model of EXAQ: thresholds, a sum in one of three equal ways, and one product per level and row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from array_api_compat import array_namespace

from softmaxkit.formats import Array
from softmaxkit.masks import broadcast_mask
from softmaxkit.rounding import integers, shift_right
from softmaxkit.tables import lookup

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.constants import ExaqConstants
    from softmaxkit.methods.exaq.spec import Exaq

CODES_PER_LOOKUP = {2: 4, 3: 2, 4: 2}
"""Number of codes packed into an address of the table of sums, by bits; the tables have 256, 64 and 256 entries."""


def golden(spec: Exaq, codes: Array, mask: Array | None, constants: ExaqConstants) -> Array:
    """Normalise rows of score codes, int64 (..., keys); masked positions and fully masked rows give 0."""
    attended = broadcast_mask(codes, mask)
    if constants.heads is None:
        return _of_head(spec, codes, attended, constants)
    heads = [
        _of_head(spec, codes[..., head, :, :], attended[..., head, :, :], constants.of_head(head))
        for head in range(constants.heads)
    ]
    return array_namespace(codes).stack(heads, axis=-3)


def _of_head(spec: Exaq, codes: Array, attended: Array, constants: ExaqConstants) -> Array:
    """Normalise rows with the constants of one head."""
    xp = array_namespace(codes)
    if codes.shape[-1] == 0:
        return codes
    level = quantise(codes, attended, constants.thresholds)
    total = ACCUMULATORS[spec.accumulator](level, attended, spec.bits, constants.exponentials)
    mantissa, exponent = spec.reciprocal_table(total)
    # One product per level: a row has no other results.
    products = integers(constants.exponentials, codes) * mantissa
    places = spec.reciprocal.fraction_bits - spec.output.fraction_bits
    outputs = spec.output.saturate(shift_right(products, exponent + places, least=places))
    result = xp.take_along_axis(outputs, level, axis=-1)
    return xp.where(attended, result, xp.zeros_like(result))


def quantise(codes: Array, attended: Array, thresholds: tuple[int, ...]) -> Array:
    """Return the level of each score, 0 to 2**bits - 1, by comparing its distance from the row's maximum."""
    xp = array_namespace(codes)
    highest = xp.max(xp.where(attended, codes, xp.full_like(codes, -(1 << 32))), axis=-1, keepdims=True)
    distance = codes - highest
    level = xp.zeros_like(codes)
    for threshold in thresholds:
        level = level + xp.astype(distance >= threshold, xp.int64)
    return xp.where(attended, level, xp.zeros_like(level))


def plain_sum(level: Array, attended: Array, bits: int, exponentials: tuple[int, ...]) -> Array:
    """Add the exponentials one by one; returns (..., 1)."""
    xp = array_namespace(level)
    power = lookup(exponentials, level)
    return xp.sum(xp.where(attended, power, xp.zeros_like(power)), axis=-1, keepdims=True)


def histogram_sum(level: Array, attended: Array, bits: int, exponentials: tuple[int, ...]) -> Array:
    """Count the codes of each level, then multiply; returns (..., 1)."""
    xp = array_namespace(level)
    total = integers(0, level)
    for index, exponential in enumerate(exponentials):
        count = xp.sum(xp.astype((level == index) & attended, xp.int64), axis=-1, keepdims=True)
        total = total + count * exponential
    return total


def packed_sum(level: Array, attended: Array, bits: int, exponentials: tuple[int, ...]) -> Array:
    """Add several exponentials per look-up; masked positions and padding count as level 0 and are subtracted again.

    Returns (..., 1).
    """
    xp = array_namespace(level)
    group = CODES_PER_LOOKUP[bits]
    keys = level.shape[-1]
    padded = -(-keys // group) * group
    packed = xp.zeros_like(level[..., ::group])
    for place in range(group):
        part = level[..., place::group]
        if part.shape[-1] < packed.shape[-1]:
            part = xp.concat((part, xp.zeros_like(level[..., :1])), axis=-1)
        packed = packed | (part << (place * bits))
    sums = xp.sum(lookup(sum_table(bits, exponentials), packed), axis=-1, keepdims=True)
    counted = xp.sum(xp.astype(attended, xp.int64), axis=-1, keepdims=True)
    return sums - (padded - counted) * exponentials[0]


def sum_table(bits: int, exponentials: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sum of the exponentials of each packed group of codes; the first code is in the low bits."""
    group, last = CODES_PER_LOOKUP[bits], (1 << bits) - 1
    return tuple(
        sum(exponentials[(packed >> (place * bits)) & last] for place in range(group))
        for packed in range(1 << (group * bits))
    )


ACCUMULATORS = {"plain": plain_sum, "histogram": histogram_sum, "packed": packed_sum}
