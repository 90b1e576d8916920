"""Attention masks, and the exact softmax of masked rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from array_api_compat import array_namespace

from softmaxkit.formats import Array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


MASKED = -5e3
"""Additive mask values at or below this mask a key; those above are a bias, as in ALiBi."""


def attended_by(mask: Array) -> Array:
    """Return a boolean mask, True where an additive one attends; NaN attends, so that it reaches the result."""
    return ~(mask <= MASKED)


def check_row(scores: ArrayLike, mask: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the scores as float64 and the mask in their shape; a score of -inf counts as masked and becomes 0.

    Raises:
        ValueError: an attended score is NaN or +inf; the mask is not boolean or does not broadcast to the scores.
    """
    values = np.asarray(scores, np.float64)
    attended = broadcast_mask(values, None if mask is None else np.asarray(mask)) & (values != -np.inf)
    if not np.isfinite(values[attended]).all():
        raise ValueError("scores contain NaN or +inf; mask these positions, or fix the computation that produced them")
    return np.where(attended, values, 0.0), attended


def check_mask(scores: Array, mask: Array) -> None:
    """Check that a mask is boolean and broadcasts to the scores.

    Raises:
        ValueError: it is not, or does not.
    """
    if str(mask.dtype) not in ("bool", "torch.bool"):
        raise ValueError(
            f"a mask must be boolean, True where a key is attended, got {mask.dtype}; compare it first, "
            "e.g. `mask != 0` (add an additive mask to the scores)"
        )
    _check_shape(mask, tuple(scores.shape))


def broadcast_mask(scores: Array, mask: Array | None) -> Array:
    """Return a boolean mask in the shape of `scores`; all True if `mask` is None.

    Raises:
        ValueError: the mask is not boolean or does not broadcast to the scores.
    """
    xp = array_namespace(scores)
    if mask is None:
        return xp.ones_like(scores, dtype=xp.bool)
    check_mask(scores, mask)
    return xp.broadcast_to(mask, scores.shape)


def expand_mask(mask: Array, shape: tuple[int, ...]) -> Array:
    """Return a boolean or additive mask as a view in the shape of the scores.

    Raises:
        ValueError: the mask does not broadcast to that shape.
    """
    _check_shape(mask, shape)
    return array_namespace(mask).broadcast_to(mask, shape)


def unexpanded_mask(mask: Array, shape: tuple[int, ...]) -> Array:
    """Return a mask with as many axes as the scores, each as long as theirs or 1: what is computed from it stays small.

    Raises:
        ValueError: the mask does not broadcast to that shape.
    """
    _check_shape(mask, shape)
    return mask[(None,) * (len(shape) - mask.ndim)] if mask.ndim < len(shape) else mask


def _check_shape(mask: Array, shape: tuple[int, ...]) -> None:
    ndim = len(mask.shape)
    # Dynamo decides `in` for symbolic sizes by identity.
    if ndim > len(shape) or any(size != 1 and size != shape[axis - ndim] for axis, size in enumerate(mask.shape)):
        raise ValueError(f"a mask of shape {tuple(mask.shape)} does not broadcast to scores of shape {shape}")


def exact_softmax(scores: ArrayLike, mask: ArrayLike | None = None, base: float = np.e) -> NDArray[np.float64]:
    """Compute the masked softmax to a base in float64: the reference that every method is compared with.

    A fully masked row gives zeros.
    """
    values, attended = check_row(scores, mask)
    highest = np.max(values, axis=-1, where=attended, initial=-np.inf, keepdims=True)
    shifted = np.where(attended, values - np.where(np.isfinite(highest), highest, 0.0), -np.inf)
    power = np.exp(shifted * np.log(base))
    total = power.sum(axis=-1, keepdims=True)
    result: NDArray[np.float64] = power / np.where(total > 0, total, 1.0)
    return result
