"""The integers of exact softmax in a small float.

Exponentials are carried as whole numbers of the format's smallest step, `2**-sum_fraction_bits`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from array_api_compat import array_namespace

from softmaxkit.formats import Array, Float, integers, leading_one, shift_right
from softmaxkit.masks import broadcast_mask

if TYPE_CHECKING:
    from softmaxkit.methods.exact.spec import Exact


def golden(spec: Exact, codes: Array, mask: Array | None) -> Array:
    """Normalise rows of float codes (int64, rows along the last axis); masked and all-masked give the code 0."""
    xp = array_namespace(codes)
    attended = broadcast_mask(codes, mask)
    if codes.shape[-1] == 0:
        return codes
    values = fixed_point(codes, spec.format)
    lowest = -(1 << 62)
    candidates = xp.where(attended, values, xp.full_like(values, lowest))
    highest = xp.max(candidates, axis=-1, keepdims=True)
    power = xp.where(attended, exponential(spec, values - highest), xp.zeros_like(values))
    total = (
        xp.sum(power, axis=-1, keepdims=True)
        if spec.schedule == "three-pass"
        else online_sum(spec, values, attended, candidates)
    )
    mantissa, exponent = spec.reciprocal(total)
    fraction = -(spec.reciprocal.mantissa_bits + exponent)
    product = spec.format.join(xp.zeros_like(attended), power * mantissa, xp.broadcast_to(fraction, power.shape))
    return xp.where(attended, product, xp.zeros_like(product))


def fixed_point(codes: Array, number: Float) -> Array:
    """Turn float codes into whole numbers of the format's smallest step, exactly."""
    xp = array_namespace(codes)
    negative, significand, exponent = number.split(codes)
    size = significand << xp.clip(exponent - (number.min_exponent - number.mantissa_bits), 0, 62)
    return xp.where(negative, -size, size)


def round_to_float(values: Array, number: Float) -> Array:
    """Round whole numbers of the smallest step to the float format; below its smallest normal they become 0."""
    xp = array_namespace(values)
    size = xp.abs(values)
    excess = xp.clip(leading_one(size) - number.mantissa_bits, 0, 62)
    size = shift_right(size, excess) << excess
    size = xp.where(size < 1 << number.mantissa_bits, xp.zeros_like(size), size)
    return xp.where(values < 0, -size, size)


def significand_and_shift(spec: Exact, difference: Array) -> tuple[Array, Array]:
    """Return exp of non-positive differences as `(significand, shift)`: `significand * 2**-(mantissa_bits+1+shift)`.

    The difference is rounded to the float format, made fixed point, multiplied by log2(e), and split into the integer
    `shift` and a fraction for the piecewise-linear table. Significands lie in [2**mantissa_bits, 2**(mantissa_bits+1)].
    """
    xp = array_namespace(difference)
    distance = -round_to_float(xp.clip(difference, -(1 << (spec.sum_fraction_bits + 8)), 0), spec.format)
    argument = shift_right(distance, spec.sum_fraction_bits - spec.argument_bits)
    log2e, bits = spec.log2e
    argument = shift_right(argument * log2e, bits)
    fraction = argument & ((1 << spec.argument_bits) - 1)
    return spec.exponential(fraction), argument >> spec.argument_bits


def exponential(spec: Exact, difference: Array) -> Array:
    """Return exp of non-positive differences in whole steps; below the smallest normal it is 0."""
    xp = array_namespace(difference)
    significand, shift = significand_and_shift(spec, difference)
    power = shift_right(significand << (-spec.format.min_exponent), shift + 1, "floor")
    return xp.where(power < 1 << spec.format.mantissa_bits, xp.zeros_like(power), power)


def online_sum(spec: Exact, values: Array, attended: Array, candidates: Array) -> Array:
    """Sum exponentials with a running maximum, slice by slice (Milakov & Gimelshein, Algorithm 3, in slices)."""
    xp = array_namespace(values)
    running, total = None, None
    for start in range(0, values.shape[-1], spec.slice_width):
        part = slice(start, start + spec.slice_width)
        local = xp.max(candidates[..., part], axis=-1, keepdims=True)
        highest = local if running is None else xp.maximum(running, local)
        power = exponential(spec, values[..., part] - highest)
        added = xp.sum(xp.where(attended[..., part], power, integers(0, power)), axis=-1, keepdims=True)
        if running is None:
            running, total = highest, added
            continue
        significand, shift = significand_and_shift(spec, running - highest)
        factor_is_zero = exponential(spec, running - highest) == 0
        rescaled = shift_right(total * significand, spec.format.mantissa_bits + 1 + shift)
        total = xp.where(factor_is_zero, xp.zeros_like(rescaled), rescaled) + added
        running = highest
    return total
