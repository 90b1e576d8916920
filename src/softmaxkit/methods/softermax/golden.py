"""Golden model of Softermax."""

from __future__ import annotations

from typing import TYPE_CHECKING

from array_api_compat import array_namespace

from softmaxkit.formats import Array
from softmaxkit.masks import broadcast_mask
from softmaxkit.methods.base.deferred import DeferredRows
from softmaxkit.rounding import shift_right

if TYPE_CHECKING:
    from softmaxkit.methods.softermax.spec import Softermax


def golden(spec: Softermax, codes: Array, mask: Array | None) -> Array:
    """Normalise rows of input codes, int64 (..., keys); masked positions and fully masked rows give 0."""
    xp = array_namespace(codes)
    attended = broadcast_mask(codes, mask)
    keys = codes.shape[-1]
    if keys == 0:
        return codes
    lowest = spec.input.min_code >> spec.input.fraction_bits
    if spec.maximum == "global":
        whole = integer_maximum_candidates(spec, codes)
        whole = xp.where(attended, whole, xp.full_like(whole, lowest))
        highest = xp.max(whole, axis=-1, keepdims=True)
        power = xp.where(attended, power_of_two(spec, codes, highest), xp.zeros_like(codes))
        change = spec.unnormalised.fraction_bits - spec.power_sum.fraction_bits
        total = shift_right(xp.sum(power, axis=-1, keepdims=True), change, spec.rounding)
        return normalise(spec, power, spec.power_sum.saturate(total))
    power, local = sliced_powers(spec, codes, attended)
    highest, total = running_sum(spec, local[..., 0], xp.sum(power, axis=-1))
    shifted = shift_right(power, highest[..., None, None] - local, spec.rounding)
    outputs = normalise(spec, shifted, total[..., None, None])
    return _flat(outputs)[..., :keys]


def sliced_powers(spec: Softermax, codes: Array, attended: Array) -> tuple[Array, Array]:
    """Return powers relative to the maximum of their slice, and these maxima.

    Args:
        spec: the spec.
        codes: input codes, int64 (..., keys), at least one key.
        attended: boolean, the same shape.

    Returns:
        The powers, int64 (..., slices, slice_width), 0 where masked or beyond the row; and the integer maximum of each
        slice, int64 (..., slices, 1).
    """
    xp = array_namespace(codes)
    lowest = spec.input.min_code >> spec.input.fraction_bits
    whole = integer_maximum_candidates(spec, codes)
    whole = xp.where(attended, whole, xp.full_like(whole, lowest))
    slices = -(-codes.shape[-1] // spec.slice_width)
    padding = slices * spec.slice_width - codes.shape[-1]
    if padding:
        codes, whole = _pad(codes, padding, 0), _pad(whole, padding, lowest)
        attended = _pad(xp.astype(attended, xp.int64), padding, 0) == 1
    shape = (*codes.shape[:-1], slices, spec.slice_width)
    codes, whole, attended = (xp.reshape(x, shape) for x in (codes, whole, attended))
    local = xp.max(whole, axis=-1, keepdims=True)
    return xp.where(attended, power_of_two(spec, codes, local), xp.zeros_like(codes)), local


def deferred(spec: Softermax, codes: Array, mask: Array | None) -> DeferredRows:
    """Compute rows with deferred division, with the powers as weights in the output format.

    Raises:
        ValueError: the spec does not support deferred division.
    """
    xp = array_namespace(codes)
    check_deferred(spec)
    power, local = sliced_powers(spec, codes, broadcast_mask(codes, mask))
    running = [local[..., 0, :]]
    for index in range(1, local.shape[-2]):
        running.append(xp.maximum(running[-1], local[..., index, :]))
    highest = xp.stack(running, axis=-2)
    change = spec.unnormalised.fraction_bits - spec.output.fraction_bits
    weights = shift_right(power, highest - local + change, spec.rounding, least=min(change, 0))
    rises = xp.concat((xp.zeros_like(highest[..., :1, 0]), highest[..., 1:, 0] - highest[..., :-1, 0]), axis=-1)
    _, total = running_sum(spec, local[..., 0], xp.sum(power, axis=-1))
    mantissa, exponent = spec.reciprocal_table(total[..., None], spec.rounding)
    weights = _flat(spec.output.saturate(weights))[..., : codes.shape[-1]]
    return DeferredRows(weights, rises, spec.slice_width, mantissa, exponent + deferred_places(spec))


def deferred_places(spec: Softermax) -> int:
    """Return the fraction bits of (sum of weighted values) * mantissa beyond the values' own, without the exponent."""
    return spec.output.fraction_bits + spec.reciprocal.fraction_bits - spec.power_sum.fraction_bits


def check_deferred(spec: Softermax) -> None:
    """Check that a spec supports deferred division.

    Raises:
        ValueError: its maximum is that of the whole row, or its sum has more fraction bits than weights and reciprocal
            together.
    """
    if spec.maximum != "online":
        raise ValueError(
            'Softermax with deferred division requires maximum="online"; "global" is known only after the whole row'
        )
    if deferred_places(spec) < 0:
        raise ValueError(
            "Softermax with deferred division requires a power_sum of at most "
            f"{spec.output.fraction_bits + spec.reciprocal.fraction_bits} fraction bits, got {spec.power_sum}"
        )


def integer_maximum_candidates(spec: Softermax, codes: Array) -> Array:
    """Round scores up (or down) to whole numbers, saturating at the largest whole number of the input format."""
    xp = array_namespace(codes)
    whole = shift_right(codes, spec.input.fraction_bits, spec.integer_maximum)
    return xp.clip(whole, None, spec.input.max_code >> spec.input.fraction_bits)


def power_of_two(spec: Softermax, codes: Array, whole: Array) -> Array:
    """Return `2**(score - whole)` in the unnormalised format: its fraction from the table, its integer by a shift."""
    difference = codes - (whole << spec.input.fraction_bits)
    fraction = difference & ((1 << spec.input.fraction_bits) - 1)
    shift = -(difference >> spec.input.fraction_bits)
    return spec.unnormalised.saturate(shift_right(spec.power_table(fraction, spec.rounding), shift, spec.rounding))


def running_sum(spec: Softermax, local: Array, sums: Array) -> tuple[Array, Array]:
    """Accumulate slices in order.

    Args:
        spec: the spec.
        local: integer maximum of each slice, int64 (..., slices).
        sums: exact sum of each slice's powers, same shape.

    Returns:
        The integer maximum of the row and its sum in the `power_sum` format, both int64 (...).
    """
    xp = array_namespace(local)
    change = spec.unnormalised.fraction_bits - spec.power_sum.fraction_bits
    highest = xp.full_like(local[..., 0], spec.input.min_code >> spec.input.fraction_bits)
    total = xp.zeros_like(highest)
    for index in range(local.shape[-1]):
        risen = xp.maximum(highest, local[..., index])
        rescaled = shift_right(total, risen - highest, spec.rounding)
        added = shift_right(sums[..., index], risen - local[..., index] + change, spec.rounding, least=change)
        highest, total = risen, spec.power_sum.saturate(rescaled + added)
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


def _flat(values: Array) -> Array:
    """Merge the last two axes."""
    return array_namespace(values).reshape(values, (*values.shape[:-2], values.shape[-2] * values.shape[-1]))


def _pad(values: Array, count: int, fill: int) -> Array:
    xp = array_namespace(values)
    tail = xp.full_like(xp.broadcast_to(values[..., :1], (*values.shape[:-1], count)), fill)
    return xp.concat((values, tail), axis=-1)
