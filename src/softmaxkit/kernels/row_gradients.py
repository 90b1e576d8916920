"""Gradients of the row kernels: native kernels, and the same by torch, whose results can be differentiated again.

The latter accept every device. Keys without probability have no gradient, even if that of the result is infinite.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from softmaxkit.kernels.launch import DTYPES, address, empty, kernels_for, run
from softmaxkit.kernels.rows import check_base, check_clip, exponential_parameters, log_limit, offsets_of


def softmax_backward(probabilities: Tensor, gradient: Tensor, base: float = math.e) -> Tensor:
    """Return the gradient of the scores of `softmax`.

    Args:
        probabilities: the result of `softmax`.
        gradient: of the probabilities, with their shape.
        base: as passed to `softmax_to_base`; that of `softmax` if omitted.

    Returns:
        The shape and dtype of the probabilities.

    Raises:
        RuntimeError, TypeError: as `softmax`.
        ValueError: the gradient has another shape, or the base is out of range.
    """
    check_base(base)
    kernels = kernels_for(probabilities)
    g = gradient_like(gradient, probabilities, "probabilities")
    p = probabilities.contiguous()
    result = empty(p.shape, p.dtype)
    if p.numel():
        kernel = getattr(kernels, f"softmax_backward_{DTYPES[p.dtype]}")
        rows, keys = p.numel() // p.shape[-1], p.shape[-1]
        kernel(address(p), address(g), address(result), rows, keys, torch.get_num_threads(), math.log(base))
    return result


def exponential_backward(
    scores: Tensor,
    gradient: Tensor,
    offset: Tensor,
    limit: float = math.inf,
    base: float = math.e,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the scores of `exponential`, 0 where the score exceeds the limit, and its row sums.

    Args:
        scores: as passed to `exponential`, like the remaining arguments except the gradient.
        gradient: of the result of `exponential`, with its shape.
        offset: as passed to `exponential`.
        limit: as passed to `exponential`.
        base: as passed to `exponential`.
        mask: as passed to `exponential`.
        is_causal: as passed to `exponential`.

    Returns:
        The gradient, with the shape and dtype of the scores; and its sums over the last axis, float32.

    Raises:
        RuntimeError, TypeError: as `exponential`.
        ValueError: as `exponential`; or the gradient has another shape.
    """
    offsets, parameters = exponential_parameters(scores, offset, limit, base)
    return _with_sums("exponential_backward", scores, gradient, mask, is_causal, address(offsets), *parameters)


def logistic_backward(
    scores: Tensor,
    gradient: Tensor,
    bias: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the scores of `logistic`, and its row sums.

    Args:
        scores: as passed to `logistic`, like the remaining arguments except the gradient.
        gradient: of the result of `logistic`, with its shape.
        bias: as passed to `logistic`.
        mask: as passed to `logistic`.
        is_causal: as passed to `logistic`.

    Returns:
        The gradient, with the shape and dtype of the scores; and its sums over the last axis, float32.

    Raises:
        RuntimeError, TypeError: as `logistic`.
        ValueError: as `logistic`; or the gradient has another shape.
    """
    biases = offsets_of(scores, bias, "bias")
    return _with_sums("logistic_backward", scores, gradient, mask, is_causal, address(biases), bias.ndim == 1)


def _with_sums(
    name: str, scores: Tensor, gradient: Tensor, mask: Tensor | None, is_causal: bool, *parameters: Any
) -> tuple[Tensor, Tensor]:
    """Run the kernel of a gradient of scores that has its row sums as a second result; return both."""
    g = gradient_like(gradient, scores, "scores")
    sums = torch.zeros(scores.shape[:-1], dtype=torch.float32, device="cpu")
    return run(name, scores, mask, is_causal, *parameters, address(g), address(sums)), sums


def levels_backward(
    scores: Tensor,
    probabilities: Tensor,
    gradient: Tensor,
    clip: float,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Return the gradient of the scores of `levels` or `level_table`, straight through the rounding.

    It is 0 below the clip and in rows with NaN, and treats the row's maximum as a constant, and the entries of a table
    as exponentials.

    Args:
        scores: as passed, like the remaining arguments except the next two.
        probabilities: the result.
        gradient: of the probabilities, with their shape.
        clip: as passed.
        mask: as passed.
        is_causal: as passed.

    Returns:
        The shape and dtype of the scores.

    Raises:
        RuntimeError, TypeError: as `softmax`.
        ValueError: as `softmax`, or the clip is out of range, or the gradient has another shape.
    """
    check_clip(clip)
    p, g = (gradient_like(x, scores, "scores") for x in (probabilities, gradient))
    return run("levels_backward", scores, mask, is_causal, clip, address(p), address(g))


def gradient_like(gradient: Tensor, values: Tensor, name: str) -> Tensor:
    """Return a gradient, contiguous, with the dtype and device of the values that it belongs to."""
    if gradient.shape != values.shape:
        raise ValueError(
            f"gradient must have the shape of the {name}, {tuple(values.shape)}, got {tuple(gradient.shape)}"
        )
    return gradient.to(values.device, values.dtype).contiguous()


def differentiable_softmax_backward(probabilities: Tensor, gradient: Tensor, base: float = math.e) -> Tensor:
    """Compute `softmax_backward` with torch."""
    p = probabilities.float()
    g = torch.where(p == 0, 0.0, gradient.float())
    return (p * (g - (p * g).sum(-1, keepdim=True)) * math.log(base)).to(probabilities.dtype)


def differentiable_exponential_backward(
    scores: Tensor,
    gradient: Tensor,
    offset: Tensor,
    limit: float,
    base: float,
    mask: Tensor | None,
    is_causal: bool,
) -> tuple[Tensor, Tensor]:
    """Compute `exponential_backward` with torch."""
    passes = _attended(scores, mask, is_causal)
    exponent = scores.float() - _for_heads(offset)
    passes = passes & (exponent <= log_limit(limit, base))
    log_base = math.log(base)
    power = torch.exp(torch.where(passes, exponent, 0.0) * log_base)
    result = torch.where(passes, power * gradient.float() * log_base, 0.0)
    return result.to(scores.dtype), result.sum(-1)


def differentiable_logistic_backward(
    scores: Tensor, gradient: Tensor, bias: Tensor, mask: Tensor | None, is_causal: bool
) -> tuple[Tensor, Tensor]:
    """Compute `logistic_backward` with torch."""
    attended = _attended(scores, mask, is_causal)
    p = torch.sigmoid(scores.float() + _for_heads(bias))
    result = torch.where(attended & (p != 0), p * (1 - p) * gradient.float(), 0.0)
    return result.to(scores.dtype), result.sum(-1)


def differentiable_levels_backward(
    scores: Tensor, probabilities: Tensor, gradient: Tensor, clip: float, mask: Tensor | None, is_causal: bool
) -> Tensor:
    """Compute `levels_backward` with torch."""
    if scores.numel() == 0:
        return torch.zeros_like(probabilities)
    attended = _attended(scores, mask, is_causal)
    seen = torch.where(attended, scores.detach().float(), -torch.inf)
    passes = (probabilities > 0) & (seen - seen.amax(-1, keepdim=True) >= clip)
    return torch.where(passes, differentiable_softmax_backward(probabilities, gradient), 0.0)


def _for_heads(offset: Tensor) -> Tensor:
    """Return an offset, () or (heads,), in float32 as it broadcasts with scores."""
    return offset.float()[:, None, None] if offset.ndim else offset.float()


def _attended(scores: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    """Return which keys are attended, with the shape of the scores."""
    attended = scores != -torch.inf
    if mask is not None:
        attended = attended & mask
    if is_causal:
        queries, keys = scores.shape[-2:]
        attended = attended & torch.ones(queries, keys, dtype=torch.bool, device=scores.device).tril(keys - queries)
    return attended
