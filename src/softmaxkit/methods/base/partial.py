"""Rows that arrive in parts: a state that takes in keys, merges with that of other keys, and gives the result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

from array_api_compat import array_namespace, is_torch_array

from softmaxkit.formats import Array

if TYPE_CHECKING:
    from softmaxkit.methods.base.spec import Spec


class Partial(Protocol):
    """What is known of rows from some of their keys; frozen, `update` and `merge` return new states."""

    def update(self, scores: Array, mask: Array | None = None, values: Array | None = None) -> Self:
        """Take in more keys of the same rows.

        Args:
            scores: shape (..., keys), floating, NumPy or torch.
            mask: boolean, broadcasts to the scores, True where attended.
            values: shape (..., keys, channels), meets the scores as in `scores @ values`.
        """
        ...

    def merge(self, other: Self) -> Self:
        """Join with the state of other keys of the same rows."""
        ...

    def result(self, scores: Array | None = None, mask: Array | None = None) -> Array:
        """Return the weighted sum of the values, (..., channels); or, given scores of the rows, their probabilities."""
        ...


@dataclass(frozen=True)
class ElementPartial:
    """The state of a method that looks at every score by itself: the sum of the weighted values.

    Attributes:
        spec: an element-wise method.
        parameters: its real numbers.
        weighted: shape (..., channels); None where no values were seen.
    """

    spec: Spec
    parameters: dict[str, Any] = field(default_factory=dict)
    weighted: Array = None

    def update(self, scores: Array, mask: Array | None = None, values: Array | None = None) -> Self:
        """Take in more keys, see `Partial`; without values nothing needs to be kept."""
        if values is None:
            return self
        xp = array_namespace(scores)
        probabilities = self._probabilities(scores, mask)
        weighted = xp.matmul(probabilities, xp.astype(values, probabilities.dtype))
        return replace(self, weighted=weighted if self.weighted is None else self.weighted + weighted)

    def merge(self, other: Self) -> Self:
        """Join with the state of other keys, see `Partial`."""
        if self.spec != other.spec:
            raise ValueError("parts of a row by different specs do not merge")
        if self.weighted is None or other.weighted is None:
            return other if self.weighted is None else self
        return replace(self, weighted=self.weighted + other.weighted)

    def result(self, scores: Array | None = None, mask: Array | None = None) -> Array:
        """Return the sum of the weighted values, or the probabilities of scores.

        Raises:
            ValueError: no values were given and no scores are.
        """
        if scores is not None:
            return self._probabilities(scores, mask)
        if self.weighted is None:
            raise ValueError("no values were given to update; ask for probabilities with result(scores)")
        return self.weighted

    def _probabilities(self, scores: Array, mask: Array | None) -> Array:
        if is_torch_array(scores):
            return self.spec.module(**self.parameters).to(scores.device)(scores, mask)
        return self.spec.reference(scores, mask, **self.parameters)
