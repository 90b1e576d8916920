"""The row kernels as operators in `torch.ops.softmaxkit`, with fake tensors and gradients for compile and export.

Arguments are those of `softmaxkit.kernels.rows`. Higher-order gradients are computed by torch.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from softmaxkit.kernels import row_gradients, rows
from softmaxkit.kernels.backends import interprets
from softmaxkit.kernels.builds import VARIABLE
from softmaxkit.kernels.operator import operator
from softmaxkit.kernels.row_gradients import (
    differentiable_exponential_backward,
    differentiable_levels_backward,
    differentiable_logistic_backward,
    differentiable_softmax_backward,
)


@operator("cpu", "cuda")
def softmax(scores: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Softmax over the last axis, as `rows.softmax`; differentiable."""
    _refuse_forward_mode()
    result: Tensor = _rows(scores).softmax(scores, mask, is_causal)
    return result


@operator("cpu", "cuda")
def softmax_backward(probabilities: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the scores of `softmax`, as `row_gradients.softmax_backward`."""
    result: Tensor = _gradients(probabilities).softmax_backward(probabilities, gradient)
    return result


@operator("cpu", "cuda")
def softmax_to_base(scores: Tensor, base: float, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Softmax to a base, as `rows.softmax_to_base`; differentiable."""
    _refuse_forward_mode()
    result: Tensor = _rows(scores).softmax_to_base(scores, base, mask, is_causal)
    return result


@operator("cpu", "cuda")
def softmax_to_base_backward(probabilities: Tensor, gradient: Tensor, base: float) -> Tensor:
    """Gradient of the scores of `softmax_to_base`."""
    result: Tensor = _gradients(probabilities).softmax_backward(probabilities, gradient, base)
    return result


def _rows(scores: Tensor) -> Any:
    """Return the module of row kernels for the scores' device: the Triton kernels or the native ones."""
    return _module(scores, rows)


def _gradients(scores: Tensor) -> Any:
    """Return the module of the gradients of row kernels, likewise."""
    return _module(scores, row_gradients)


def _module(scores: Tensor, native: ModuleType) -> ModuleType:
    return import_module("softmaxkit.kernels.triton.rows") if scores.is_cuda or interprets() else native


@operator("cpu", "cuda")
def exponential(
    scores: Tensor,
    offset: Tensor,
    limit: float,
    base: float,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Clamped exponential, as `rows.exponential`; differentiable with respect to scores and offset."""
    _refuse_forward_mode()
    result: Tensor = _rows(scores).exponential(scores, offset, limit, base, mask, is_causal)
    return result


@operator("cpu", "cuda")
def exponential_backward(
    scores: Tensor,
    gradient: Tensor,
    offset: Tensor,
    limit: float,
    base: float,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """Gradient of the scores of `exponential`, and its row sums, as `row_gradients.exponential_backward`."""
    result: tuple[Tensor, Tensor] = _gradients(scores).exponential_backward(
        scores, gradient, offset, limit, base, mask, is_causal
    )
    return result


@operator("cpu", "cuda")
def logistic(scores: Tensor, bias: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """The logistic function of score plus bias, as `rows.logistic`; differentiable with respect to scores and bias."""
    _refuse_forward_mode()
    result: Tensor = _rows(scores).logistic(scores, bias, mask, is_causal)
    return result


@operator("cpu", "cuda")
def logistic_backward(
    scores: Tensor, gradient: Tensor, bias: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Gradient of the scores of `logistic`, and its row sums, as `row_gradients.logistic_backward`."""
    result: tuple[Tensor, Tensor] = _gradients(scores).logistic_backward(scores, gradient, bias, mask, is_causal)
    return result


@operator("cpu", "cuda")
def levels(
    scores: Tensor, clip: float, exponentials: list[float], mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """Softmax over a few levels, as `rows.levels`; differentiable, straight through the rounding."""
    _refuse_forward_mode()
    result: Tensor = _rows(scores).levels(scores, clip, exponentials, mask, is_causal)
    return result


@operator("cpu", "cuda")
def level_table(
    scores: Tensor, clip: float, entries: list[float], mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """Entries of a table by level, divided by their sum, as `rows.level_table`; differentiable as `levels`."""
    _refuse_forward_mode()
    result: Tensor = _rows(scores).level_table(scores, clip, entries, mask, is_causal)
    return result


@operator("cpu", "cuda")
def levels_backward(
    scores: Tensor,
    probabilities: Tensor,
    gradient: Tensor,
    clip: float,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Gradient of the scores of `levels` and `level_table`, as `row_gradients.levels_backward`."""
    result: Tensor = _gradients(scores).levels_backward(scores, probabilities, gradient, clip, mask, is_causal)
    return result


@operator("cpu")
def topk(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest probabilities and their indices, as `rows.topk`; not differentiable."""
    _refuse_forward_mode()
    return rows.topk(logits, k)


def _refuse_forward_mode() -> None:
    """Raise under forward-mode differentiation: an operator in an exported program would silently drop the tangent.

    Modules never get here: they choose torch in that case.
    """
    if torch.autograd.forward_ad._current_level >= 0:
        raise RuntimeError(
            "softmaxkit's kernels have no forward-mode derivative; differentiate the original module, or export it "
            f"with {VARIABLE}=none in the environment"
        )


def _like_the_first(first: Tensor, *rest: Any) -> Tensor:
    return torch.empty(first.shape, dtype=first.dtype, device=first.device)


for of_scores in (
    *(softmax, softmax_backward, softmax_to_base, softmax_to_base_backward),
    *(exponential, logistic, levels, level_table, levels_backward),
):
    of_scores.register_fake(_like_the_first)


def _gradient_and_sums(values: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _like_the_first(values), values.new_empty(values.shape[:-1], dtype=torch.float32)


for of_offset in (exponential_backward, logistic_backward):
    of_offset.register_fake(_gradient_and_sums)


@topk.register_fake
def _(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values = logits.new_empty(*logits.shape[:-1], k)
    return values, torch.empty_like(values, dtype=torch.int64)


def _keep_probabilities(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _softmax_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    (probabilities,) = ctx.saved_tensors
    if not torch.is_grad_enabled():
        return softmax_backward(probabilities, gradient), None, None
    # With create_graph the gradient itself is differentiated, which the kernel does not support.
    return differentiable_softmax_backward(probabilities, gradient), None, None


def _keep_probabilities_and_base(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.base = inputs[1]
    ctx.save_for_backward(output)


def _softmax_to_base_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
    (probabilities,) = ctx.saved_tensors
    if not torch.is_grad_enabled():
        return softmax_to_base_backward(probabilities, gradient, ctx.base), None, None, None
    return differentiable_softmax_backward(probabilities, gradient, ctx.base), None, None, None


def _keep_arguments(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    scores, offset, ctx.limit, ctx.base, mask, ctx.is_causal = inputs
    ctx.save_for_backward(scores, offset, mask)


def _exponential_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
    scores, offset, mask = ctx.saved_tensors
    arguments = (scores, gradient, offset, ctx.limit, ctx.base, mask, ctx.is_causal)
    compute = differentiable_exponential_backward if torch.is_grad_enabled() else exponential_backward
    result, sums = compute(*arguments)
    return result, -_sum_of_heads(sums, offset), None, None, None, None


def _sum_of_heads(sums: Tensor, offset: Tensor) -> Tensor:
    """Return row sums added up to the shape of an offset, () or (heads,), in its dtype."""
    heads = sums.ndim - 2 if offset.ndim else None  # the axis that the offset has
    return sums.sum([axis for axis in range(sums.ndim) if axis != heads]).to(offset.dtype)


def _keep_scores_and_bias(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    scores, bias, mask, ctx.is_causal = inputs
    ctx.save_for_backward(scores, bias, mask)


def _logistic_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
    scores, bias, mask = ctx.saved_tensors
    compute = differentiable_logistic_backward if torch.is_grad_enabled() else logistic_backward
    result, sums = compute(scores, gradient, bias, mask, ctx.is_causal)
    return result, _sum_of_heads(sums, bias), None, None


def _keep_scores_and_probabilities(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    scores, ctx.clip, _, mask, ctx.is_causal = inputs
    ctx.save_for_backward(scores, output, mask)


def _levels_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
    scores, probabilities, mask = ctx.saved_tensors
    compute = differentiable_levels_backward if torch.is_grad_enabled() else levels_backward
    return compute(scores, probabilities, gradient, ctx.clip, mask, ctx.is_causal), None, None, None, None


softmax.register_autograd(_softmax_gradient, setup_context=_keep_probabilities)
softmax_to_base.register_autograd(_softmax_to_base_gradient, setup_context=_keep_probabilities_and_base)
exponential.register_autograd(_exponential_gradient, setup_context=_keep_arguments)
for of_levels in (levels, level_table):
    of_levels.register_autograd(_levels_gradient, setup_context=_keep_scores_and_probabilities)
logistic.register_autograd(_logistic_gradient, setup_context=_keep_scores_and_bias)
