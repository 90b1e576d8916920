"""Rows of scores with their masks, as torch tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from softmaxkit.masks import check_mask
from softmaxkit.methods.base.levels import least_values


def check_attended(scores: Tensor, mask: Tensor | None) -> None:
    """Refuse what `attended_keys` refuses."""
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(f"a mask is a boolean tensor as the scores are, not {type(mask).__name__}")
    check_mask(scores, mask)


def attended_keys(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return the full boolean mask, in which a score of -inf is masked too.

    Raises:
        ValueError: the mask is not boolean or does not broadcast to the scores.
    """
    check_attended(scores, mask)
    attended = scores != -torch.inf
    return attended if mask is None else attended & mask


def masked_softmax(scores: Tensor, attended: Tensor) -> Tensor:
    """Softmax along the last axis over attended keys; an all-masked row gives zeros, and zero gradients."""
    anything = attended.any(dim=-1, keepdim=True)
    # An empty row is filled with zeros instead of -inf: its softmax is finite, and so is its gradient.
    filled = torch.where(attended, scores, torch.where(anything, -torch.inf, 0.0).to(scores.dtype))
    return torch.where(attended, torch.softmax(filled, dim=-1), 0.0)


def distance_to_maximum(scores: Tensor, attended: Tensor) -> Tensor:
    """Return `score - row maximum`, at most 0, with the maximum as a constant; 0 where not attended."""
    lowest = torch.finfo(scores.dtype).min
    highest = torch.where(attended, scores, lowest).detach().amax(dim=-1, keepdim=True) if scores.shape[-1] else 0.0
    return torch.where(attended, scores - highest, 0.0)


FEW_LEVELS = 16
"""Up to so many, comparisons are as quick as bisection, which transforms such as vmap do one by one."""


def quantised_distance(scores: Tensor, attended: Tensor, clip: float, levels: int) -> tuple[Tensor, Tensor]:
    """Return `score - row maximum` in even levels from the clip to 0, and which level each is, the lowest 0.

    Gradients pass straight through the rounding, and not below the clip. NaN has no level; it reaches the result.
    """
    distance = distance_to_maximum(scores, attended)
    clipped = torch.clamp(distance, min=clip)
    exact = distance.detach().double()  # where ties are what they are
    least = least_values(clip, levels)
    if levels > FEW_LEVELS:
        level = torch.bucketize(exact, torch.tensor(least, dtype=exact.dtype, device=exact.device), right=True)
        level = level.to(distance.dtype)
    else:
        level = torch.zeros_like(distance)
        for value in least:
            level = level + (exact >= value)
    quantised = clip + -clip / (levels - 1) * level
    return clipped + (quantised - clipped).detach(), level


SEARCHED_SCORES = 1 << 20
"""Scores of a layer that a search over candidates looks at at once, about, at most."""


def some_rows(values: Tensor, most: int = SEARCHED_SCORES) -> Tensor:
    """Return one row in four, or fewer of many: plenty for a search over candidates, and so much faster.

    Args:
        values: (..., queries, keys).
        most: scores to keep, about.

    Returns:
        some of the queries, evenly spread.
    """
    every = max(4, -(-values.numel() // most))
    return values[..., ::every, :] if values.ndim > 1 else values


def by_head(values: Tensor, per_head: bool) -> Tensor:
    """Flatten (..., heads, queries, keys) to (heads, rest), or to (1, rest) where all heads share."""
    return values.movedim(-3, 0).flatten(1) if per_head else values.reshape(1, -1)
