"""The row kernels as PyTorch operators, `torch.ops.softmaxkit`: fake tensors, gradients, torch.compile, torch.export.

Arguments are those of `softmaxkit.kernels.rows`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softmaxkit.kernels import rows


@torch.library.custom_op("softmaxkit::exact", mutates_args=(), device_types="cpu")
def exact(scores: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Softmax over the last axis, as `rows.exact`; differentiable."""
    return rows.exact(scores, mask, is_causal)


@torch.library.custom_op("softmaxkit::exact_backward", mutates_args=(), device_types="cpu")
def exact_backward(probabilities: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of its scores, as `rows.exact_backward`."""
    return rows.exact_backward(probabilities, gradient)


@torch.library.custom_op("softmaxkit::consmax", mutates_args=(), device_types="cpu")
def consmax(
    scores: Tensor, offset: Tensor, ceiling: float, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """ConSmax, as `rows.consmax`; differentiable by scores and offset."""
    return rows.consmax(scores, offset, ceiling, mask, is_causal)


@torch.library.custom_op("softmaxkit::consmax_backward", mutates_args=(), device_types="cpu")
def consmax_backward(probabilities: Tensor, gradient: Tensor, ceiling: float) -> tuple[Tensor, Tensor]:
    """The gradient of its scores, and its sum for each row, as `rows.consmax_backward`."""
    return rows.consmax_backward(probabilities, gradient, ceiling)


@torch.library.custom_op("softmaxkit::exaq", mutates_args=(), device_types="cpu")
def exaq(
    scores: Tensor, clip: float, exponentials: list[float], mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """EXAQ, as `rows.exaq`; without a gradient."""
    return rows.exaq(scores, clip, exponentials, mask, is_causal)


@torch.library.custom_op("softmaxkit::topk", mutates_args=(), device_types="cpu")
def topk(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest probabilities and their indices, as `rows.topk`; without a gradient."""
    return rows.topk(logits, k)


def _like_the_first(first: Tensor, *rest: Any) -> Tensor:
    return torch.empty(first.shape, dtype=first.dtype, device=first.device)


for operator in (exact, exact_backward, consmax, exaq):
    operator.register_fake(_like_the_first)


@consmax_backward.register_fake
def _(probabilities: Tensor, gradient: Tensor, ceiling: float) -> tuple[Tensor, Tensor]:
    return _like_the_first(probabilities), probabilities.new_empty(probabilities.shape[:-1], dtype=torch.float32)


@topk.register_fake
def _(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values = logits.new_empty(*logits.shape[:-1], k)
    return values, torch.empty_like(values, dtype=torch.int64)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _exact_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return exact_backward(*ctx.saved_tensors, gradient), None, None


def _keep_for_consmax(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)
    ctx.offset, ctx.ceiling = (inputs[1].shape, inputs[1].dtype), inputs[2]


def _consmax_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
    (probabilities,) = ctx.saved_tensors
    shape, dtype = ctx.offset
    found, sums = consmax_backward(probabilities, gradient, ctx.ceiling)
    # Of (..., heads, queries), all but the heads.
    summed = sums.sum() if not shape else sums.flatten(0, -3).sum((0, -1)) if sums.ndim > 2 else sums.sum(-1)
    return found, -summed.reshape(shape).to(dtype), None, None, None


exact.register_autograd(_exact_gradient, setup_context=_keep)
consmax.register_autograd(_consmax_gradient, setup_context=_keep_for_consmax)
