"""Error bound of Softermax, derived from its formats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from softmaxkit.formats import Array
from softmaxkit.masks import broadcast_mask
from softmaxkit.methods.base.constants import Constants
from softmaxkit.tables import GUARD_BITS, power_of_two_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxkit.methods.softermax.spec import Softermax


def error_bound(spec: Softermax, codes: Array, mask: Array | None, constants: Constants) -> NDArray[np.float64]:
    """Bound the error of golden against the reference, by interval arithmetic.

    A power has the relative error of its chord, plus one rounding of its format for the table entry and for each
    of two shifts. The sum accumulates these, plus two roundings of its own format per slice; it can saturate at
    each slice, and is shifted when the maximum rises. The reciprocal has its relative bound, and the product is
    rounded once.

    Args:
        spec: the spec.
        codes: input codes, (..., keys).
        mask: boolean, broadcasts to the codes; None attends to all.
        constants: constants built by the spec.

    Returns:
        The bound of each element, shape of the codes; 0 where masked.
    """
    share = 0.5 if spec.rounding == "nearest" else 1.0
    scores = np.asarray(codes, np.float64) * spec.input.resolution
    attended = broadcast_mask(scores, None if mask is None else np.asarray(mask))
    chord = 0.0 if spec.power_table.rest_bits == 0 else power_of_two_error(spec.power_segments)
    off = spec.unnormalised.resolution * (3 * share + 2.0**-GUARD_BITS)
    unmasked = np.where(attended, scores, -np.inf)
    rounded = np.ceil(unmasked) if spec.integer_maximum == "ceil" else np.floor(unmasked)
    whole = np.minimum(rounded, spec.input.max_code >> spec.input.fraction_bits)
    least, largest = spec.power_sum.resolution, spec.power_sum.largest
    width = spec.slice_width if spec.maximum == "online" else max(scores.shape[-1], 1)
    top = np.full((*scores.shape[:-1], 1), float(spec.input.min_code >> spec.input.fraction_bits))
    low = high = np.zeros_like(top)
    for start in range(0, scores.shape[-1], width):
        part = slice(start, start + width)
        risen = np.maximum(top, whole[..., part].max(axis=-1, keepdims=True))
        factor, added = 2.0 ** (top - risen), (2.0 ** (unmasked[..., part] - risen)).sum(axis=-1, keepdims=True)
        loss = attended[..., part].sum(axis=-1, keepdims=True) * off + 2 * share * spec.power_sum.resolution
        low = np.clip(low * factor + added * (1 - chord) - loss, 0.0, largest)
        high = np.clip(high * factor + added * (1 + chord) + loss, 0.0, largest)
        top = risen
    low, high = np.maximum(low, least), np.maximum(high, least)
    power = 2.0 ** (unmasked - top)
    total = power.sum(axis=-1, keepdims=True)
    reciprocal = spec.reciprocal_table.relative_error(spec.rounding)
    rounding = share * spec.output.resolution
    below = np.maximum(power * (1 - chord) - off, 0) / high * max(1 - reciprocal, 0) - rounding
    above = (power * (1 + chord) + off) / low * (1 + reciprocal) + rounding
    limit = spec.output.largest
    truth = power / np.where(total > 0, total, 1.0)
    scale_error = 0.0 if not spec.log2e else _scale_error(scores, constants, spec.input.resolution)
    bound = np.maximum(np.minimum(above, limit) - truth, truth - np.clip(below, 0, limit)) + scale_error
    return np.where(attended, bound, 0.0)


def _scale_error(scores: NDArray[np.float64], constants: Constants, resolution: float) -> float:
    """Bound the change of any probability from rounding the scale to 16 bits with `log2e`: dp <= p * 2 * max|ds|."""
    relative = abs(constants.score_scale(scores) / (resolution * math.log(2)) - 1)
    return float(np.expm1(2 * relative * float(np.max(np.abs(scores), initial=0.0)) * math.log(2)))
