"""Operations on masked rows of scores, as torch tensors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from softmaxkit.kernels.attention import check_mask_device
from softmaxkit.masks import check_mask
from softmaxkit.methods.base.levels import least_values
from softmaxkit.methods.base.stripes import in_stripes, is_eager
from softmaxkit.tables import constant


def check_attended(scores: Tensor, mask: Tensor | None) -> None:
    """Check a mask.

    Raises:
        TypeError: the mask is not a tensor.
        ValueError: the mask is not boolean, does not broadcast to the scores, or is on another device.
    """
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(f"the mask must be a boolean torch tensor, as the scores are, got {type(mask).__name__}")
    check_mask(scores, mask)
    check_mask_device("mask", mask, scores.device)


def attended_keys(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return the full boolean mask, shape of the scores, in which scores of -inf are masked too.

    Raises:
        TypeError, ValueError: as `check_attended`.
    """
    check_attended(scores, mask)
    attended = scores != -torch.inf
    return attended if mask is None else attended & mask


def masked_softmax(scores: Tensor, attended: Tensor, base: float = math.e) -> Tensor:
    """Compute softmax to a base along the last axis; a fully masked row gives zeros and zero gradients.

    Args:
        scores: floating-point, (..., keys).
        attended: boolean, shape of the scores, True where attended.
        base: above 1.

    Returns:
        Probabilities, shape and dtype of the scores.
    """
    rate = math.log(base)
    if torch.is_grad_enabled() and scores.requires_grad and is_eager():
        return _MaskedSoftmax.apply(scores, attended, rate)  # type: ignore[no-untyped-call, no-any-return, unused-ignore]
    return _masked_softmax(scores, attended, rate)


def _masked_softmax(scores: Tensor, attended: Tensor, rate: float) -> Tensor:
    not_empty = attended.any(dim=-1, keepdim=True)
    # A fully masked row is filled with zeros instead of -inf, so that its softmax and its gradient are finite.
    filled = torch.where(attended, scores * rate, torch.where(not_empty, -torch.inf, 0.0).to(scores.dtype))
    return torch.where(attended, torch.softmax(filled, dim=-1), 0.0)


class _MaskedSoftmax(torch.autograd.Function):
    """Keeps only the probabilities and the mask for the gradient, where torch would keep softmax twice."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, attended: Tensor, rate: float) -> Tensor:
        (result,) = in_stripes(lambda x, seen: (_masked_softmax(x, seen, rate),), scores, attended)
        ctx.save_for_backward(result, attended)
        ctx.rate = rate
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        def compute(gradient: Tensor, result: Tensor, attended: Tensor) -> tuple[Tensor]:
            gradient = torch.where(attended, gradient, 0.0)
            gradient = torch._softmax_backward_data(gradient, result, -1, result.dtype)
            return (torch.where(attended, gradient, 0.0) * ctx.rate,)

        tensors = gradients[0], *ctx.saved_tensors
        (gradient,) = compute(*tensors) if torch.is_grad_enabled() else in_stripes(compute, *tensors)
        return gradient, None, None


def distance_to_maximum(scores: Tensor, attended: Tensor) -> Tensor:
    """Return `score - row maximum`, at most 0; 0 where not attended. No gradient flows through the maximum."""
    lowest = torch.finfo(scores.dtype).min
    highest = torch.where(attended, scores, lowest).detach().amax(dim=-1, keepdim=True) if scores.shape[-1] else 0.0
    return torch.where(attended, scores - highest, 0.0)


FEW_LEVELS = 16
"""Largest number of levels found by comparisons: as fast as bisection, which vmap would run row by row."""


def quantised_distance(scores: Tensor, attended: Tensor, clip: float, levels: int) -> tuple[Tensor, Tensor]:
    """Quantise `score - row maximum` to evenly spaced levels from the clip to 0.

    Gradients pass straight through the rounding, but not below the clip. A NaN stays NaN.

    Args:
        scores: floating-point, (..., keys).
        attended: boolean, shape of the scores, True where attended.
        clip: the lowest level, negative.
        levels: number of levels.

    Returns:
        The quantised distance, and whether it is above the lowest level; both with the shape of the scores.
    """
    if torch.is_grad_enabled() and scores.requires_grad and is_eager():
        return _QuantisedDistance.apply(scores, attended, clip, levels)  # type: ignore[no-untyped-call, no-any-return, unused-ignore]
    return _quantised_distance(scores, attended, clip, levels)[:2]


def _quantised_distance(scores: Tensor, attended: Tensor, clip: float, levels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `quantised_distance` does, and where a gradient passes."""
    distance = distance_to_maximum(scores, attended)
    clipped = torch.clamp(distance, min=clip)
    exact = distance.detach().double()  # float64, so that ties are exact
    least = _least_values(constant(clip), int(constant(levels)))
    if levels > FEW_LEVELS:
        bounds = torch.tensor(least, dtype=exact.dtype, device=exact.device)
        level = torch.bucketize(exact.contiguous(), bounds, right=True).to(distance.dtype)
    else:
        level = torch.zeros_like(distance)
        for value in least:
            level = level + (exact >= value)
    quantised = clip + -clip / (levels - 1) * level
    return clipped + (quantised - clipped).detach(), level > 0, attended & (distance >= clip)


class _QuantisedDistance(torch.autograd.Function):
    """Keeps only a mask for the gradient, where torch would keep the distance."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, attended: Tensor, clip: float, levels: int) -> tuple[Tensor, Tensor]:
        quantised, is_above, passes = in_stripes(
            lambda x, seen: _quantised_distance(x, seen, clip, levels), scores, attended
        )
        ctx.save_for_backward(passes)
        ctx.mark_non_differentiable(is_above)
        return quantised, is_above

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (passes,) = ctx.saved_tensors
        return torch.where(passes, gradients[0], 0.0), None, None, None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _least_values(clip: float, levels: int) -> list[float]:
    """Return `least_values`, whose fractions torch.compile does not trace."""
    return least_values(clip, levels)


SEARCHED_SCORES = 1 << 20
"""Approximate upper limit on the scores of a layer that a search over candidates evaluates."""


def some_rows(values: Tensor, limit: int = SEARCHED_SCORES) -> Tensor:
    """Return every fourth row, or fewer for large inputs: enough for a search over candidates, and faster.

    Args:
        values: (..., queries, keys).
        limit: approximate upper limit on the number of scores returned.

    Returns:
        An evenly spaced subset of the queries, (..., fewer queries, keys).
    """
    every = max(4, -(-values.numel() // limit))
    return values[..., ::every, :] if values.ndim > 1 else values


def by_head(values: Tensor, per_head: bool) -> Tensor:
    """Flatten (..., heads, queries, keys) to (heads, rest), or to (1, rest) if not `per_head`."""
    return values.movedim(-3, 0).flatten(1) if per_head else values.reshape(1, -1)
