"""Softmax of rows that arrive in pieces, and fused softmax + top-k (Milakov & Gimelshein, arXiv 1805.02867)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

from array_api_compat import array_namespace

from softmaxkit.formats import Array
from softmaxkit.rows import broadcast_mask

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class OnlineSoftmax:
    """The state of softmax over the keys seen so far; `OnlineSoftmax()` has seen none.

    `update` and `merge` return new states. Merging is associative and commutative, up to float rounding, so a row may
    be cut into chunks, threads or machines in any way. NumPy arrays or torch tensors; halves are carried as float32.

    Attributes:
        maximum: the highest score, shape (..., 1); -inf where no key was attended.
        total: the sum of `exp(score - maximum)`, shape (..., 1).
        weighted: the sum of `exp(score - maximum) * value`, shape (..., channels); None without values.
    """

    maximum: Array = None
    total: Array = None
    weighted: Array = None

    def update(self, scores: Array, mask: Array | None = None, values: Array | None = None) -> Self:
        """Take in more keys of the same rows.

        Args:
            scores: shape (..., keys), floating; -inf is a masked score.
            mask: boolean, broadcasts to the scores, True where attended.
            values: shape (..., keys, channels), meets the scores as in `scores @ values`; in every update or in none.

        Raises:
            TypeError: scores are not floating.
            ValueError: a mask that does not fit, or values that are there in one update and not in another.
        """
        xp = array_namespace(scores)
        if not xp.isdtype(scores.dtype, "real floating"):
            raise TypeError(f"scores are floating, not {scores.dtype}")
        scores = _at_least_float32(scores)
        if mask is not None:
            scores = xp.where(broadcast_mask(scores, mask), scores, xp.full_like(scores, -xp.inf))
        if scores.shape[-1] == 0:
            maximum = xp.full_like(xp.sum(scores, axis=-1, keepdims=True), -xp.inf)
        else:
            maximum = xp.max(scores, axis=-1, keepdims=True)
        power = xp.exp(scores - _finite(maximum))
        total = xp.sum(power, axis=-1, keepdims=True)
        weighted = None if values is None else xp.matmul(power, _at_least_float32(values))
        return self.merge(type(self)(maximum, total, weighted))

    def merge(self, other: Self) -> Self:
        """Join with the state of other keys of the same rows.

        Raises:
            ValueError: one state has values and the other has not.
        """
        if self.maximum is None:
            return other
        if other.maximum is None:
            return self
        if (self.weighted is None) != (other.weighted is None):
            raise ValueError("one part of the row came with values and the other without; give values to every update")
        xp = array_namespace(self.maximum)
        maximum = xp.maximum(self.maximum, other.maximum)
        mine, theirs = xp.exp(self.maximum - _finite(maximum)), xp.exp(other.maximum - _finite(maximum))
        weighted = None if self.weighted is None else self.weighted * mine + other.weighted * theirs
        return type(self)(maximum, self.total * mine + other.total * theirs, weighted)

    def result(self, scores: Array | None = None, mask: Array | None = None) -> Array:
        """Return the weighted sum of the values, shape (..., channels); or, given scores, their probabilities.

        Rows without an attended key give zeros.

        Args:
            scores: shape (..., keys): any of the row's scores, whose probabilities in the whole row are wanted.
            mask: boolean, as in `update`.

        Raises:
            ValueError: nothing was seen yet, or no values were given and no scores are.
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
                    "no values were given to update; ask for probabilities with result(scores), or "
                    "update(scores, values=values)"
                )
            return self.weighted / total
        attended = broadcast_mask(scores, mask) & (self.maximum != -xp.inf)
        shifted = _at_least_float32(scores) - _finite(self.maximum)
        return xp.exp(xp.where(attended, shifted, xp.full_like(shifted, -xp.inf))) / total


class TopK(NamedTuple):
    """What `softmax_topk` returns, as `torch.topk` does: probabilities and indices, both (..., k), best first."""

    values: torch.Tensor
    indices: torch.Tensor


def softmax_topk(logits: torch.Tensor, k: int, chunk: int = 65536) -> TopK:
    """Return the k largest probabilities of a softmax over the last axis, in one pass over the logits.

    The pass carries the online state and the k best logits; only those are exponentiated at the end (section 4 of the
    paper). For vocabularies: the probabilities of the other entries are never written.

    Args:
        logits: shape (..., vocabulary), floating.
        k: how many, 1 to vocabulary.
        chunk: entries taken in at a time, where no native kernel does it.

    Returns:
        Probabilities in the dtype of the logits and int64 indices, equal to `torch.softmax` followed by `torch.topk`.

    Raises:
        TypeError: logits are not floating.
        ValueError: k or chunk is out of range.
    """
    import torch

    from softmaxkit.kernels import operators
    from softmaxkit.kernels.launch import can_run

    size = logits.shape[-1]
    if not logits.is_floating_point():
        raise TypeError(f"logits are floating, not {logits.dtype}")
    if chunk < 1:
        raise ValueError(f"chunk is 1 or more, not {chunk}")
    if not 1 <= k <= size:
        raise ValueError(f"k is 1 to the {size} logits of a row, not {k}")
    if can_run(logits) and not (torch.is_grad_enabled() and logits.requires_grad):
        return TopK(*operators.topk(logits, k))
    state, best, indices = OnlineSoftmax(), logits[..., :0], logits[..., :0].long()
    for start in range(0, size, chunk):
        part = logits[..., start : start + chunk]
        state = state.update(part)
        found = part.topk(min(k, part.shape[-1]), dim=-1)
        best = torch.cat((best, found.values), dim=-1)
        indices = torch.cat((indices, found.indices + start), dim=-1)
        kept = best.topk(min(k, best.shape[-1]), dim=-1)
        best, indices = kept.values, indices.gather(-1, kept.indices)
    return TopK(state.result(best).to(logits.dtype), indices)


def _finite(maximum: Array) -> Array:
    """Guard (-inf) - (-inf): with nothing attended, shift by 0."""
    xp = array_namespace(maximum)
    return xp.where(maximum == -xp.inf, xp.zeros_like(maximum), maximum)


def _at_least_float32(values: Array) -> Array:
    xp = array_namespace(values)
    return values if values.dtype == xp.float64 else xp.astype(values, xp.float32)
