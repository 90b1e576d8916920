"""Golden model of IndexSoftmax: a look-up by distance, a sum, one reciprocal per row and one product per score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from array_api_compat import array_namespace

from softmaxkit.formats import Array
from softmaxkit.masks import broadcast_mask
from softmaxkit.rounding import shift_right
from softmaxkit.tables import lookup

if TYPE_CHECKING:
    from softmaxkit.methods.index.spec import Index


def golden(spec: Index, codes: Array, mask: Array | None) -> Array:
    """Normalise rows of score codes, int64 (..., keys); masked positions and fully masked rows give 0."""
    xp = array_namespace(codes)
    attended = broadcast_mask(codes, mask)
    if codes.shape[-1] == 0:
        return codes
    lowest = xp.full_like(codes, -(1 << 32))
    candidates = xp.where(attended, codes, lowest)
    highest = xp.max(candidates, axis=-1, keepdims=True)
    # The entry at the farthest distance is 0; masked scores get that distance.
    distance = xp.where(attended, xp.clip(highest - candidates, 0, spec.farthest), spec.farthest)
    power = lookup(spec.entries, distance)
    mantissa, exponent = spec.reciprocal_table(xp.sum(power, axis=-1, keepdims=True))
    one = (1 << spec.output_bits) - 1
    return xp.clip(shift_right(power * mantissa * one, spec.reciprocal.fraction_bits + exponent), 0, one)


def decode(spec: Index, codes: Array) -> Array:
    """Convert output codes to float64 probabilities."""
    xp = array_namespace(codes)
    return xp.astype(codes, xp.float64) / ((1 << spec.output_bits) - 1)
