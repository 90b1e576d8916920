"""EXAQ for rows that arrive in parts, with their maximum known in advance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from array_api_compat import array_namespace

from softmaxkit.formats import Array
from softmaxkit.masks import broadcast_mask
from softmaxkit.methods.base.partial import weigh
from softmaxkit.methods.exaq.parameters import required_clip

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.spec import Exaq


@dataclass(frozen=True)
class LevelPartial:
    """Sum of the exponentials over the keys seen so far; sums can be added in any order.

    Attributes:
        spec: the spec.
        clip: the lowest level, negative.
        maximum: the highest attended score of each whole row, (..., 1).
        total: the sum of the exponentials, (..., 1).
        weighted: the sum of exponential * value, (..., channels); None without values.
    """

    spec: Exaq
    clip: float
    maximum: Array
    total: Array = 0.0
    weighted: Array = None

    @classmethod
    def start(cls, spec: Exaq, maximum: Array | None = None, **parameters: Any) -> Self:
        """Return the empty state, see `Exaq.partial`.

        Raises:
            ValueError: the clip or the maximum is missing.
            TypeError: the maximum is not a tensor or an array.
        """
        if maximum is None:
            raise ValueError(
                "levels of Exaq are relative to the maximum of the whole row, so pass the maximum over all parts: "
                "spec.partial(clip=..., maximum=scores.amax(-1, keepdim=True))"
            )
        if not hasattr(maximum, "dtype"):
            raise TypeError(f"maximum must be a tensor or an array, (..., 1), got {type(maximum).__name__}")
        return cls(spec, required_clip(parameters), maximum)

    def update(self, scores: Array, mask: Array | None = None, values: Array | None = None) -> Self:
        """Add more keys, see `softmaxkit.methods.base.partial.Partial`.

        Raises:
            ValueError: values were passed to some updates only.
        """
        xp = array_namespace(scores)
        power = self._exponentials(scores, mask)
        weighted = None if values is None else weigh(power, xp.astype(values, power.dtype))
        return self.merge(replace(self, total=xp.sum(power, axis=-1, keepdims=True), weighted=weighted))

    def merge(self, other: Self) -> Self:
        """Combine with the state of other keys of the same rows.

        Raises:
            ValueError: the states have different maxima, specs or clips, or only one of them has values.
        """
        xp = array_namespace(self.maximum)
        if (self.spec, self.clip) != (other.spec, other.clip) or not xp.all(self.maximum == other.maximum):
            raise ValueError(
                "states with different maxima, specs or clips do not merge; build both with the maximum of the whole "
                "row, and the same spec and clip"
            )
        if other.is_empty or self.is_empty:
            return self if other.is_empty else other
        if (self.weighted is None) != (other.weighted is None):
            raise ValueError("one state has values and the other has not; pass values to every update or to none")
        weighted = None if self.weighted is None else self.weighted + other.weighted
        return replace(self, total=self.total + other.total, weighted=weighted)

    @property
    def is_empty(self) -> bool:
        """Whether the state has seen no keys yet."""
        return isinstance(self.total, float)

    def result(self, scores: Array | None = None, mask: Array | None = None) -> Array:
        """Return the weighted sum of the values, or with `scores` their probabilities; fully masked rows give zeros.

        Raises:
            ValueError: the state has no values and `scores` is None.
        """
        xp = array_namespace(self.maximum)
        zero = xp.zeros_like(self.maximum)
        total = xp.where(zero + self.total == 0, zero + 1, zero + self.total)
        if scores is not None:
            return self._exponentials(scores, mask) / total
        if self.weighted is None:
            raise ValueError("no values were passed to update; get probabilities with result(scores)")
        return self.weighted / total

    def _exponentials(self, scores: Array, mask: Array | None) -> Array:
        xp = array_namespace(scores)
        attended = broadcast_mask(scores, mask) & (scores != -xp.inf)
        maximum = xp.where(self.maximum == -xp.inf, xp.zeros_like(self.maximum), self.maximum)  # fully masked
        distance = xp.where(attended, xp.where(attended, scores, maximum) - maximum, xp.zeros_like(scores))
        step = -self.clip / (self.spec.levels - 1)
        exact, level = xp.astype(distance, xp.float64), xp.zeros_like(distance)
        for least in self.spec.least_values(self.clip):
            level = level + xp.astype(exact >= least, distance.dtype)
        return xp.where(attended, xp.exp(self.clip + step * level), xp.zeros_like(distance))
