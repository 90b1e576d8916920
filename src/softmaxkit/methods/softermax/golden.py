"""The integers of Softermax."""

from __future__ import annotations

from typing import TYPE_CHECKING

from array_api_compat import array_namespace

from softmaxkit.formats import Array, shift_right
from softmaxkit.masks import broadcast_mask

if TYPE_CHECKING:
    from softmaxkit.methods.softermax.spec import Softermax


def golden(spec: Softermax, codes: Array, mask: Array | None) -> Array:
    """Normalise rows of input codes (int64, rows along the last axis); masked and all-masked give 0."""
    xp = array_namespace(codes)
    attended = broadcast_mask(codes, mask)
    keys = codes.shape[-1]
    if keys == 0:
        return codes
    lowest = spec.input.min_code >> spec.input.fraction_bits
    whole = integer_maximum_candidates(spec, codes)
    whole = xp.where(attended, whole, xp.full_like(whole, lowest))
    if spec.maximum == "global":
        highest = xp.max(whole, axis=-1, keepdims=True)
        power = xp.where(attended, power_of_two(spec, codes, highest), xp.zeros_like(codes))
        change = spec.unnormalised.fraction_bits - spec.power_sum.fraction_bits
        total = shift_right(xp.sum(power, axis=-1, keepdims=True), change, spec.rounding)
        return normalise(spec, power, spec.power_sum.saturate(total))
    slices = -(-keys // spec.slice_width)
    padding = slices * spec.slice_width - keys
    if padding:
        codes, whole = _pad(codes, padding, 0), _pad(whole, padding, lowest)
        attended = _pad(xp.astype(attended, xp.int64), padding, 0) == 1
    rows = codes.shape[:-1]
    codes, whole, attended = (xp.reshape(x, (*rows, slices, spec.slice_width)) for x in (codes, whole, attended))
    local = xp.max(whole, axis=-1, keepdims=True)
    power = xp.where(attended, power_of_two(spec, codes, local), xp.zeros_like(codes))
    highest, total = running_sum(spec, local[..., 0], xp.sum(power, axis=-1))
    shifted = shift_right(power, highest[..., None, None] - local, spec.rounding)
    outputs = normalise(spec, shifted, total[..., None, None])
    return xp.reshape(outputs, (*rows, slices * spec.slice_width))[..., :keys]


def integer_maximum_candidates(spec: Softermax, codes: Array) -> Array:
    """Round scores up (or down) to whole numbers, saturating at the largest whole number of the input format."""
    xp = array_namespace(codes)
    whole = shift_right(codes, spec.input.fraction_bits, spec.integer_maximum)
    return xp.clip(whole, None, spec.input.max_code >> spec.input.fraction_bits)


def power_of_two(spec: Softermax, codes: Array, whole: Array) -> Array:
    """Return `2**(score - whole)` in the unnormalised format: fraction from the table, integer by a shift."""
    difference = codes - (whole << spec.input.fraction_bits)
    fraction = difference & ((1 << spec.input.fraction_bits) - 1)
    shift = -(difference >> spec.input.fraction_bits)
    return spec.unnormalised.saturate(shift_right(spec.power_table(fraction, spec.rounding), shift, spec.rounding))


def running_sum(spec: Softermax, local: Array, sums: Array) -> tuple[Array, Array]:
    """Join slices in order.

    Args:
        spec: the spec.
        local: integer maximum of each slice, shape (..., slices).
        sums: exact sum of each slice's powers, same shape.

    Returns:
        The integer maximum of the row and its sum in the `power_sum` format, both (...).
    """
    xp = array_namespace(local)
    change = spec.unnormalised.fraction_bits - spec.power_sum.fraction_bits
    highest = xp.full_like(local[..., 0], spec.input.min_code >> spec.input.fraction_bits)
    total = xp.zeros_like(highest)
    for index in range(local.shape[-1]):
        risen = xp.maximum(highest, local[..., index])
        kept = shift_right(total, risen - highest, spec.rounding)
        added = shift_right(sums[..., index], risen - local[..., index] + change, spec.rounding, least=change)
        highest, total = risen, spec.power_sum.saturate(kept + added)
    return highest, total


def normalise(spec: Softermax, power: Array, total: Array) -> Array:
    """Multiply powers by the reciprocal of their sum and shift into the output format."""
    mantissa, exponent = spec.reciprocal_table(total, spec.rounding)
    places = (
        spec.unnormalised.fraction_bits
        + spec.reciprocal.fraction_bits
        - spec.power_sum.fraction_bits
        - spec.output.fraction_bits
    )
    return spec.output.saturate(shift_right(power * mantissa, exponent + places, spec.rounding, least=places))


def _pad(values: Array, count: int, fill: int) -> Array:
    xp = array_namespace(values)
    tail = xp.full_like(xp.broadcast_to(values[..., :1], (*values.shape[:-1], count)), fill)
    return xp.concat((values, tail), axis=-1)
