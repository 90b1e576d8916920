"""EXAQ of rows that arrive in parts, their maximum known beforehand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from array_api_compat import array_namespace

from softmaxkit.formats import Array
from softmaxkit.masks import broadcast_mask

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.spec import Exaq


@dataclass(frozen=True)
class LevelPartial:
    """Sums of the levels' exponentials over the keys seen so far; sums add, in any order.

    Attributes:
        spec: the method.
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

    def update(self, scores: Array, mask: Array | None = None, values: Array | None = None) -> Self:
        """Take in more keys, see `softmaxkit.methods.base.partial.Partial`."""
        xp = array_namespace(scores)
        power = self._exponentials(scores, mask)
        weighted = None if values is None else xp.matmul(power, xp.astype(values, power.dtype))
        return self.merge(replace(self, total=xp.sum(power, axis=-1, keepdims=True), weighted=weighted))

    def merge(self, other: Self) -> Self:
        """Join with the state of other keys of the same rows.

        Raises:
            ValueError: it counts from another maximum or by other levels, or one has values and the other has not.
        """
        xp = array_namespace(self.maximum)
        if (self.spec, self.clip) != (other.spec, other.clip) or not xp.all(self.maximum == other.maximum):
            raise ValueError(
                "parts of a row that count from different maxima, or by other levels, do not merge; give both the "
                "whole row's maximum, and the same spec and clip"
            )
        if other.is_empty or self.is_empty:
            return self if other.is_empty else other
        if (self.weighted is None) != (other.weighted is None):
            raise ValueError("one part of the row came with values and the other without; give values to every update")
        weighted = None if self.weighted is None else self.weighted + other.weighted
        return replace(self, total=self.total + other.total, weighted=weighted)

    @property
    def is_empty(self) -> bool:
        """Has it seen no keys?"""
        return isinstance(self.total, float)

    def result(self, scores: Array | None = None, mask: Array | None = None) -> Array:
        """Return the weighted sum of the values, or the probabilities of scores; zeros where nothing is attended.

        Raises:
            ValueError: no values were given and no scores are.
        """
        xp = array_namespace(self.maximum)
        zero = xp.zeros_like(self.maximum)
        total = xp.where(zero + self.total == 0, zero + 1, zero + self.total)
        if scores is not None:
            return self._exponentials(scores, mask) / total
        if self.weighted is None:
            raise ValueError("no values were given to update; ask for probabilities with result(scores)")
        return self.weighted / total

    def _exponentials(self, scores: Array, mask: Array | None) -> Array:
        xp = array_namespace(scores)
        attended = broadcast_mask(scores, mask) & (scores != -xp.inf)
        maximum = xp.where(self.maximum == -xp.inf, xp.zeros_like(self.maximum), self.maximum)  # nothing is attended
        distance = xp.where(attended, xp.where(attended, scores, maximum) - maximum, xp.zeros_like(scores))
        step = -self.clip / (self.spec.levels - 1)
        exact, level = xp.astype(distance, xp.float64), xp.zeros_like(distance)
        for least in self.spec.least_values(self.clip):
            level = level + xp.astype(exact >= least, distance.dtype)
        return xp.where(attended, xp.exp(self.clip + step * level), xp.zeros_like(distance))
