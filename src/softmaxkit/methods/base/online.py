"""Online softmax: rows that arrive in parts (Milakov & Gimelshein, arXiv 1805.02867)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from array_api_compat import array_namespace

from softmaxkit.formats import Array
from softmaxkit.masks import broadcast_mask
from softmaxkit.methods.base.partial import weigh


@dataclass(frozen=True)
class OnlineSoftmax:
    """State of softmax over the keys seen so far; `OnlineSoftmax()` is the empty state.

    `update` and `merge` return new states. Merging is associative and commutative up to float rounding, so a row can
    be split across chunks, threads or machines in any way. Works on NumPy arrays and torch tensors; half precision is
    accumulated in float32.

    Attributes:
        maximum: the highest score, shape (..., 1); -inf where no key was attended.
        total: the sum of `exp(score - maximum)`, shape (..., 1).
        weighted: the sum of `exp(score - maximum) * value`, shape (..., channels); None without values.
        base: base of the powers; if it is not e, `maximum` refers to `score * ln(base)`.
    """

    maximum: Array = None
    total: Array = None
    weighted: Array = None
    base: float = math.e

    def update(self, scores: Array, mask: Array | None = None, values: Array | None = None) -> Self:
        """Add more keys of the same rows.

        Args:
            scores: shape (..., keys), floating-point; -inf is a masked score.
            mask: boolean, broadcasts to the scores, True where attended.
            values: shape (..., keys, channels), as in `scores @ values`; pass them to every update or to none.

        Raises:
            TypeError: the scores are not floating-point.
            ValueError: the mask does not broadcast, or values were passed to some updates only.
        """
        xp = array_namespace(scores)
        if not xp.isdtype(scores.dtype, "real floating"):
            raise TypeError(f"scores must be floating-point, got {scores.dtype}")
        scores = self._to_e(scores)
        if mask is not None:
            scores = xp.where(broadcast_mask(scores, mask), scores, xp.full_like(scores, -xp.inf))
        if scores.shape[-1] == 0:
            maximum = xp.full_like(xp.sum(scores, axis=-1, keepdims=True), -xp.inf)
        else:
            maximum = xp.max(scores, axis=-1, keepdims=True)
        power = xp.exp(scores - _finite(maximum))
        total = xp.sum(power, axis=-1, keepdims=True)
        weighted = None if values is None else weigh(power, _widened(values))
        return self.merge(type(self)(maximum, total, weighted, self.base))

    def merge(self, other: Self) -> Self:
        """Combine with the state of other keys of the same rows.

        Raises:
            ValueError: only one of the states has values, or their bases differ.
        """
        if self.base != other.base:
            raise ValueError(f"states with the bases {self.base} and {other.base} do not merge")
        if self.maximum is None:
            return other
        if other.maximum is None:
            return self
        if (self.weighted is None) != (other.weighted is None):
            raise ValueError("one state has values and the other has not; pass values to every update or to none")
        xp = array_namespace(self.maximum)
        maximum = xp.maximum(self.maximum, other.maximum)
        mine, theirs = xp.exp(self.maximum - _finite(maximum)), xp.exp(other.maximum - _finite(maximum))
        weighted = None if self.weighted is None else self.weighted * mine + other.weighted * theirs
        return type(self)(maximum, self.total * mine + other.total * theirs, weighted, self.base)

    def result(self, scores: Array | None = None, mask: Array | None = None) -> Array:
        """Return the weighted sum of the values, shape (..., channels), or with `scores` their probabilities.

        Rows without an attended key give zeros.

        Args:
            scores: shape (..., keys): scores of the row whose probabilities are to be returned.
            mask: boolean, as in `update`.

        Raises:
            ValueError: the state is empty, or it has no values and `scores` is None.
        """
        if self.maximum is None:
            raise ValueError(
                "this OnlineSoftmax has seen no scores; update returns a new state: state = state.update(scores)"
            )
        xp = array_namespace(self.maximum)
        total = xp.where(self.total == 0, xp.ones_like(self.total), self.total)
        if scores is None:
            if self.weighted is None:
                raise ValueError(
                    "no values were passed to update; get probabilities with result(scores), or use "
                    "update(scores, values=values)"
                )
            return self.weighted / total
        attended = broadcast_mask(scores, mask) & (self.maximum != -xp.inf)
        shifted = self._to_e(scores) - _finite(self.maximum)
        return xp.exp(xp.where(attended, shifted, xp.full_like(shifted, -xp.inf))) / total

    def _to_e(self, scores: Array) -> Array:
        """Scale scores so that powers to base e equal those to `base`; at least float32."""
        scores = _widened(scores)
        return scores if self.base == math.e else scores * math.log(self.base)


def _finite(maximum: Array) -> Array:
    """Replace -inf, the maximum of a fully masked row, with 0, to avoid (-inf) - (-inf)."""
    xp = array_namespace(maximum)
    return xp.where(maximum == -xp.inf, xp.zeros_like(maximum), maximum)


def _widened(values: Array) -> Array:
    """Return arrays of NumPy or torch in float32, or float64 as they are."""
    xp = array_namespace(values)
    return values if values.dtype == xp.float64 else xp.astype(values, xp.float32)
