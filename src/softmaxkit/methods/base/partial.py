"""Rows that arrive in parts: states that accumulate keys, merge, and yield the result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from array_api_compat import array_namespace, is_torch_array

from softmaxkit.formats import Array

if TYPE_CHECKING:
    from softmaxkit.methods.base.spec import Spec


class Partial(Protocol):
    """State of rows over some of their keys. States are frozen; `update` and `merge` return new ones."""

    def update(self, scores: Array, mask: Array | None = None, values: Array | None = None) -> Self:
        """Add more keys of the same rows.

        Args:
            scores: shape (..., keys), floating-point, NumPy or torch.
            mask: boolean, broadcasts to the scores, True where attended.
            values: shape (..., keys, channels), as in `scores @ values`.
        """
        ...

    def merge(self, other: Self) -> Self:
        """Combine with the state of other keys of the same rows."""
        ...

    def result(self, scores: Array | None = None, mask: Array | None = None) -> Array:
        """Return the weighted sum of the values, (..., channels), or with `scores` of the rows their probabilities."""
        ...


def weigh(weights: Array, values: Array) -> Array:
    """Return `weights @ values`, with zeros for rows whose weights are all 0, where an infinite value would give NaN.

    Args:
        weights: floating-point, (..., keys).
        values: (..., keys, channels), of the same dtype; for weights of (..., heads, queries, keys) maybe of fewer
            heads, each shared by consecutive ones.

    Returns:
        (..., channels).
    """
    xp = array_namespace(weights)
    if weights.ndim > 2 and weights.ndim == values.ndim and 1 < weights.shape[-3] != values.shape[-3] > 0:
        shape, channels = weights.shape, values.shape[-1]
        together = xp.reshape(weights, (*shape[:-3], values.shape[-3], -1, shape[-1]))  # copies no values for each head
        weighted = xp.reshape(xp.matmul(together, values), (*shape[:-1], channels))
    else:
        weighted = xp.matmul(weights, values)
    return xp.where(xp.any(weights != 0, axis=-1, keepdims=True), weighted, xp.zeros_like(weighted))


@dataclass(frozen=True)
class ElementPartial:
    """State of an element-wise method: the weighted sum of the values so far.

    Attributes:
        spec: spec of an element-wise method.
        parameters: its real parameters, single or one per head.
        weighted: shape (..., channels); None before any values.
    """

    spec: Spec
    parameters: dict[str, Any] = field(default_factory=dict)
    weighted: Array = None

    def update(self, scores: Array, mask: Array | None = None, values: Array | None = None) -> Self:
        """Add more keys, see `Partial`; without values the state does not change."""
        if values is None:
            return self
        xp = array_namespace(scores)
        probabilities = self._probabilities(scores, mask)
        weighted = weigh(probabilities, xp.astype(values, probabilities.dtype))
        return replace(self, weighted=weighted if self.weighted is None else self.weighted + weighted)

    def merge(self, other: Self) -> Self:
        """Combine with the state of other keys, see `Partial`.

        Raises:
            ValueError: the specs or the parameters differ.
        """
        if self.spec != other.spec or not _are_equal(self.parameters, other.parameters):
            raise ValueError("states of different specs or parameters do not merge; build both with the same ones")
        if self.weighted is None or other.weighted is None:
            return other if self.weighted is None else self
        return replace(self, weighted=self.weighted + other.weighted)

    def result(self, scores: Array | None = None, mask: Array | None = None) -> Array:
        """Return the weighted sum of the values, or with `scores` their probabilities.

        Raises:
            ValueError: the state has no values and `scores` is None.
        """
        if scores is not None:
            return self._probabilities(scores, mask)
        if self.weighted is None:
            raise ValueError("no values were passed to update; get probabilities with result(scores)")
        return self.weighted

    def _probabilities(self, scores: Array, mask: Array | None) -> Array:
        if is_torch_array(scores):
            from softmaxkit.methods.base.numbers import module_for, normalise_with

            module = module_for(self.spec, "float", scores.shape[-1], self.parameters, scores.device)
            return normalise_with(module, self.parameters)(scores, mask)
        numbers = {name: np.asarray(x)[:, None, None] if np.ndim(x) == 1 else x for name, x in self.parameters.items()}
        return self.spec.reference(scores, mask, **numbers)


def _are_equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Compare parameters by value: numbers, sequences, arrays or tensors."""

    def plain(value: Any) -> Any:
        return value.detach().double().cpu().numpy() if is_torch_array(value) else value

    return first.keys() == second.keys() and all(
        value is second[name] or np.array_equal(plain(value), plain(second[name])) for name, value in first.items()
    )
