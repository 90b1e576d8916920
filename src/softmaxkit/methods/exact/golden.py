"""Golden model of exact softmax in a small float.

Exponentials are represented as integer multiples of the format's smallest step, `2**-sum_fraction_bits`; "in steps"
below means this representation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from array_api_compat import array_namespace

from softmaxkit.formats import Array, Float
from softmaxkit.masks import broadcast_mask
from softmaxkit.methods.base.deferred import DeferredRows
from softmaxkit.methods.exact.spec import WEIGHT, Exact
from softmaxkit.rounding import leading_one, shift_right

LOWEST = -(1 << 62)
"""Below every score."""


def golden(spec: Exact, codes: Array, mask: Array | None) -> Array:
    """Normalise rows of float codes, int64 (..., keys); masked positions and fully masked rows give the code 0."""
    xp = array_namespace(codes)
    attended = broadcast_mask(codes, mask)
    if codes.shape[-1] == 0:
        return codes
    values = fixed_point(codes, spec.format)
    highest = xp.max(_candidates(values, attended), axis=-1, keepdims=True)
    power = xp.where(attended, exponential(spec, values - highest), xp.zeros_like(values))
    total = (
        xp.sum(power, axis=-1, keepdims=True)
        if spec.schedule == "three-pass"
        else online_sum(spec, online_slices(spec, values, attended))
    )
    mantissa, exponent = spec.reciprocal(total)
    fraction = -(spec.reciprocal.mantissa_bits + exponent)
    product = spec.format.join(xp.zeros_like(attended), power * mantissa, xp.broadcast_to(fraction, power.shape))
    return xp.where(attended, product, xp.zeros_like(product))


def fixed_point(codes: Array, number: Float) -> Array:
    """Convert float codes to integers in steps, exactly."""
    xp = array_namespace(codes)
    negative, significand, exponent = number.split(codes)
    size = significand << xp.clip(exponent - (number.min_exponent - number.mantissa_bits), 0, 62)
    return xp.where(negative, -size, size)


def round_to_float(values: Array, number: Float) -> Array:
    """Round integers in steps to the float format; below its smallest normal they become 0."""
    xp = array_namespace(values)
    size = xp.abs(values)
    excess = xp.clip(leading_one(size) - number.mantissa_bits, 0, 62)
    size = shift_right(size, excess) << excess
    size = xp.where(size < 1 << number.mantissa_bits, xp.zeros_like(size), size)
    return xp.where(values < 0, -size, size)


def significand_and_shift(spec: Exact, difference: Array) -> tuple[Array, Array]:
    """Return exp of non-positive differences as `(significand, shift)`: `significand * 2**-(mantissa_bits+1+shift)`.

    The difference is rounded to the float format, converted to fixed point, multiplied by log2(e), and split into the
    integer `shift` and a fraction for the table. Significands are in [2**mantissa_bits, 2**(mantissa_bits+1)].
    """
    xp = array_namespace(difference)
    distance = -round_to_float(xp.clip(difference, -(1 << (spec.sum_fraction_bits + 8)), 0), spec.format)
    argument = shift_right(distance, spec.sum_fraction_bits - spec.argument_bits)
    log2e, bits = spec.log2e
    argument = shift_right(argument * log2e, bits)
    fraction = argument & ((1 << spec.argument_bits) - 1)
    return spec.exponential(fraction), argument >> spec.argument_bits


def exponential(spec: Exact, difference: Array) -> Array:
    """Return exp of non-positive differences, in steps; below the smallest normal it is 0."""
    xp = array_namespace(difference)
    significand, shift = significand_and_shift(spec, difference)
    power = shift_right(significand << (-spec.format.min_exponent), shift + 1, "floor")
    return xp.where(power < 1 << spec.format.mantissa_bits, xp.zeros_like(power), power)


class Slice(NamedTuple):
    """A slice of rows that are processed with a running maximum.

    `significand` and `shift` are the exponential of the change of the maximum, by which the previous sum is rescaled.

    Attributes:
        powers: exponentials relative to the running maximum, in steps, int64 (..., keys of the slice); 0 where masked.
        significand: int64 (..., 1), see `significand_and_shift`; 0 where the previous sum is too small to count.
        shift: int64 (..., 1), see `significand_and_shift`.
    """

    powers: Array
    significand: Array
    shift: Array


def online_slices(spec: Exact, values: Array, attended: Array) -> Iterator[Slice]:
    """Yield the slices of rows in order (Milakov & Gimelshein, Algorithm 3, in slices).

    Args:
        spec: the spec.
        values: scores in steps, int64 (..., keys).
        attended: boolean, the same shape.
    """
    xp = array_namespace(values)
    candidates = _candidates(values, attended)
    running = xp.full_like(values[..., :1], LOWEST)
    for start in range(0, values.shape[-1], spec.slice_width):
        part = slice(start, start + spec.slice_width)
        highest = xp.maximum(running, xp.max(candidates[..., part], axis=-1, keepdims=True))
        powers = exponential(spec, values[..., part] - highest)
        powers = xp.where(attended[..., part], powers, xp.zeros_like(powers))
        # Without attended keys so far, there is nothing to rescale.
        change = xp.where(running == LOWEST, xp.zeros_like(running), running - highest)
        significand, shift = significand_and_shift(spec, change)
        vanishes = exponential(spec, change) == 0
        yield Slice(powers, *(xp.where(vanishes, xp.zeros_like(field), field) for field in (significand, shift)))
        running = highest


def online_sum(spec: Exact, slices: Iterable[Slice]) -> Array:
    """Sum exponentials slice by slice; returns int64 (..., 1), in steps."""
    total: Array = 0
    for powers, significand, shift in slices:
        xp = array_namespace(powers)
        rescaled = shift_right(total * significand, spec.format.mantissa_bits + 1 + shift)
        total = rescaled + xp.sum(powers, axis=-1, keepdims=True)
    return total


def deferred(spec: Exact, codes: Array, mask: Array | None) -> DeferredRows:
    """Compute rows with deferred division, with exponentials relative to the running maximum as weights.

    The running maximum is that of `online_slices`, with either schedule.
    """
    xp = array_namespace(codes)
    attended = broadcast_mask(codes, mask)
    slices = list(online_slices(spec, fixed_point(codes, spec.format), attended))
    weights = xp.concat([fixed_weights(spec, part.powers) for part in slices], axis=-1)
    # A row with an attended key has an exponential of 1, so its sum is at least 1.
    total = xp.clip(online_sum(spec, slices), 1 << spec.sum_fraction_bits, None)
    mantissa, exponent = spec.reciprocal(total)
    return DeferredRows(
        weights,
        xp.concat([part.shift for part in slices], axis=-1),
        spec.slice_width,
        mantissa,
        exponent - spec.sum_fraction_bits + deferred_places(spec),
        xp.concat([part.significand for part in slices], axis=-1),
        spec.format.mantissa_bits + 1,
    )


def deferred_places(spec: Exact) -> int:
    """Return the fraction bits of (sum of weighted values) * reciprocal beyond the values' own, for a row sum of 1."""
    return WEIGHT.fraction_bits + spec.reciprocal.mantissa_bits


def fixed_weights(spec: Exact, powers: Array) -> Array:
    """Convert values from 0 to 1, in steps, to weights, rounded once."""
    return WEIGHT.saturate(shift_right(powers, spec.sum_fraction_bits - WEIGHT.fraction_bits))


def _candidates(values: Array, attended: Array) -> Array:
    """Return the values for a maximum, with masked ones below every score."""
    xp = array_namespace(values)
    return xp.where(attended, values, xp.full_like(values, LOWEST))
