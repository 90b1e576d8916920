"""Error bound of exact softmax in a small float, derived from its formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from softmaxkit.formats import Array
from softmaxkit.masks import broadcast_mask, exact_softmax
from softmaxkit.tables import GUARD_BITS, inverse_power_series_error, power_of_two_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxkit.methods.exact.spec import Exact


def error_bound(spec: Exact, scores: NDArray[np.float64], mask: Array | None) -> NDArray[np.float64]:
    """Bound the error of golden against the reference.

    With u = 2**-mantissa_bits: the subtraction has a relative error of u/2, or flushes to 0 below the smallest
    normal. The fixed-point argument of exp is off by its two roundings and by that of log2(e), its lines by their
    chord or a series by its truncation, and the result by half an ulp, or it flushes. Each rise of the running
    maximum adds to an online sum the error of one exponential, that of the rise, and one rounding.

    Args:
        spec: the spec.
        scores: real scores, (..., keys).
        mask: boolean, broadcasts to the scores; None attends to all.

    Returns:
        The bound of each element, shape of the scores; 0 where masked.
    """
    truth = exact_softmax(scores, mask)
    unit, smallest = 2.0**-spec.format.mantissa_bits, spec.format.smallest
    attended = broadcast_mask(scores, None if mask is None else np.asarray(mask))
    highest = np.max(scores, axis=-1, keepdims=True, initial=-np.inf, where=attended)
    distance = np.where(np.isfinite(highest), np.maximum(highest - scores, 0.0), 0.0)
    relative = _exponential_error(spec, distance)
    width = spec.slice_width if spec.schedule == "online" else max(scores.shape[-1], 1)
    total = _sum_error(spec, np.where(attended, scores, -np.inf), width)
    factor = (1 + relative) * (1 + spec.reciprocal.relative_error()) * (1 + unit / 2) / np.maximum(1 - total, 1e-9)
    return np.where(attended, truth * (factor - 1) + 2 * smallest * factor, 0.0)


def _exponential_error(spec: Exact, distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bound the relative error of exp(-distance) where it does not flush to 0."""
    unit, smallest = 2.0**-spec.format.mantissa_bits, spec.format.smallest
    near = np.minimum(distance, -np.log(smallest) + 1)  # beyond, results flush, which is bounded separately
    exponent = near * unit / 2 + smallest + near * 2.0 ** -spec.log2e[1] + 2.0**-spec.argument_bits
    segments, bits = spec.exponential_segments, spec.format.mantissa_bits + 1
    if spec.taylor_degree:
        fitted = inverse_power_series_error(spec.taylor_degree, segments, bits)
    else:
        fitted = power_of_two_error(segments) + unit * 2.0**-GUARD_BITS
    error: NDArray[np.float64] = np.expm1(exponent) + 2 * (fitted + unit / 2)
    return error


def _sum_error(spec: Exact, scores: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Bound the relative error of the sum of a row in slices of `width`; scores are -inf where masked."""
    smallest = spec.format.smallest
    top = np.full((*scores.shape[:-1], 1), -np.inf)
    low = high = true = np.zeros_like(top)
    for start in range(0, scores.shape[-1], width):
        part = scores[..., start : start + width]
        risen = np.maximum(top, part.max(axis=-1, keepdims=True))
        level = np.where(np.isfinite(risen), risen, 0.0)
        rise = np.where(np.isfinite(top), level - top, 0.0)
        factor, error = np.exp(-rise), np.where(rise > 0, _exponential_error(spec, rise), 0.0)
        rounding = np.where(rise > 0, 2.0**-spec.sum_fraction_bits / 2, 0.0)
        survives = (rise == 0) | (factor * (1 - np.minimum(error, 1.0)) >= smallest)
        power = np.exp(part - level)
        errors = _exponential_error(spec, np.where(np.isfinite(part), level - part, 0.0))
        vanishing = power * (1 - np.minimum(errors, 1.0)) < smallest
        least = np.where(vanishing, 0.0, power * (1 - np.minimum(errors, 1.0)))
        low = np.where(survives, np.maximum(low * factor * (1 - np.minimum(error, 1.0)) - rounding, 0.0), 0.0)
        low = low + least.sum(axis=-1, keepdims=True)
        high = high * factor * (1 + error) + rounding + (power * (1 + errors)).sum(axis=-1, keepdims=True)
        true = true * factor + power.sum(axis=-1, keepdims=True)
        top = risen
    off = np.maximum(high - true, true - low)
    return np.asarray(np.where(true > 0, off / np.where(true > 0, true, 1.0), 0.0))
