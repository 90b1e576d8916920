"""Kernels of rows: float32 and bfloat16 on the CPU, any strides, masks, the causal form.

Masked keys and scores of -inf have the result 0, whatever else is in the row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from softmaxkit.kernels.launch import DTYPES, empty, kernels_for, run


def softmax(scores: Tensor, mask: Tensor | None = None, is_causal: bool = False, out: Tensor | None = None) -> Tensor:
    """Return softmax over the last axis; zeros where nothing is attended, NaN where NaN or +inf is.

    Args:
        scores: float32 or bfloat16 on the CPU, (..., queries, keys).
        mask: boolean, True where attended, broadcasts to the scores.
        is_causal: a query attends to the keys up to its own place, the last query to all.
        out: receives the result; contiguous, shape and dtype of the scores. New memory costs more than the kernels do.

    Raises:
        RuntimeError: no kernels are built, see `can_run`.
        TypeError: scores of another kind, or a mask that is not boolean.
        ValueError: the mask or `out` does not fit.
    """
    return run("softmax", scores, mask, is_causal, out=out)


def softmax_backward(probabilities: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of the scores of `softmax`, from its result and the gradient of that, of the same shape."""
    p, g = probabilities.contiguous(), gradient.to(probabilities.dtype).contiguous()
    result = empty(p.shape, p.dtype)
    if p.numel():
        kernel = getattr(kernels_for(p), f"softmax_backward_{DTYPES[p.dtype]}")
        rows, keys = p.numel() // p.shape[-1], p.shape[-1]
        kernel(p.data_ptr(), g.data_ptr(), result.data_ptr(), rows, keys, torch.get_num_threads())
    return result


def exponential(
    scores: Tensor,
    offset: Tensor,
    limit: float = math.inf,
    base: float = math.e,
    mask: Tensor | None = None,
    is_causal: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Return `min(base**(score - offset), limit)`, every element by itself.

    Args:
        scores: as `softmax`, (..., heads, queries, keys) where there is an offset for each head.
        offset: float32, () or (heads,).
        limit: the largest result, positive.
        base: above 1.
        mask: as `softmax`.
        is_causal: as `softmax`.
        out: as `softmax`.

    Raises:
        RuntimeError, TypeError, ValueError: as `softmax`; or an offset, limit or base that does not fit.
    """
    offsets, parameters = _exponential_parameters(scores, offset, limit, base)
    return run("exponential", scores, mask, is_causal, offsets.data_ptr(), *parameters, out=out)


def exponential_backward(
    scores: Tensor,
    gradient: Tensor,
    offset: Tensor,
    limit: float = math.inf,
    base: float = math.e,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the scores of `exponential`, 0 where the score is above the limit's, and its row sums.

    Args:
        scores: as given to `exponential`, as are all but the next.
        gradient: of its result, of the same shape.
        offset: as there.
        limit: as there.
        base: as there.
        mask: as there.
        is_causal: as there.

    Returns:
        The gradient, shape and dtype of the scores, and the sums, float32, their shape without the last axis.

    Raises:
        RuntimeError, TypeError, ValueError: as `exponential`; or a gradient of another shape.
    """
    if gradient.shape != scores.shape:
        raise ValueError(f"the gradient is {tuple(scores.shape)} as the scores, not {tuple(gradient.shape)}")
    offsets, parameters = _exponential_parameters(scores, offset, limit, base)
    g = gradient.to(scores.dtype).contiguous()
    sums = torch.zeros(scores.shape[:-1], dtype=torch.float32, device="cpu")
    pointers = (g.data_ptr(), sums.data_ptr())
    return run("exponential_backward", scores, mask, is_causal, offsets.data_ptr(), *parameters, *pointers), sums


def log_limit(limit: float, base: float) -> float:
    """Return the logarithm of a limit to a base.

    Raises:
        ValueError: the limit is not positive, or the base not above 1.
    """
    if not (limit > 0 and 1 < base < math.inf):
        raise ValueError(f"an exponential has a positive limit and a base above 1, not {limit} and {base}")
    if limit == math.inf:
        return math.inf
    return math.log2(limit) if base == 2 else math.log(limit) / math.log(base)


def _exponential_parameters(
    scores: Tensor, offset: Tensor, limit: float, base: float
) -> tuple[Tensor, tuple[Any, ...]]:
    """Return the offsets, float32, and what the kernels need to know besides their address."""
    if offset.ndim > 1 or (offset.ndim == 1 and (scores.ndim < 3 or scores.shape[-3] != len(offset))):
        raise ValueError(f"offsets are (heads,) or one number, not {tuple(offset.shape)} for {tuple(scores.shape)}")
    offsets = offset.detach().to(torch.float32).reshape(-1).contiguous()
    return offsets, (offset.ndim == 1, log_limit(limit, base), math.log2(base))


def levels(
    scores: Tensor,
    clip: float,
    exponentials: Sequence[float],
    mask: Tensor | None = None,
    is_causal: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Return softmax of scores less their row's maximum, rounded to even levels from `clip` to 0.

    Args:
        scores: as `softmax`.
        clip: the lowest level, negative.
        exponentials: of the levels; 4, 8 or 16.
        mask: as `softmax`.
        is_causal: as `softmax`.
        out: as `softmax`.

    Raises:
        RuntimeError, TypeError, ValueError: as `softmax`; or as `check_levels`.
    """
    check_levels(clip, exponentials)
    return run("levels", scores, mask, is_causal, clip, list(exponentials), out=out)


def check_levels(clip: float, exponentials: Sequence[float]) -> None:
    """Refuse levels that there is no kernel for.

    Raises:
        ValueError: another number of levels than 4, 8 or 16, or a clip that is not negative and finite.
    """
    if len(exponentials) not in (4, 8, 16) or not -math.inf < clip < 0:
        raise ValueError(f"there are 4, 8 or 16 levels and a negative clip, not {len(exponentials)} and {clip}")


def topk(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest probabilities of softmax over the last axis and their indices, best first, in one pass.

    Args:
        logits: float32 or bfloat16 on the CPU, (..., vocabulary).
        k: from 1 to vocabulary.

    Returns:
        Probabilities in the dtype of the logits, and int64 indices, both (..., k); as `torch.softmax` and `topk`, NaN
        for a row of -inf alone.

    Raises:
        RuntimeError, TypeError: as `softmax`.
    """
    kernels = kernels_for(logits)
    source = logits.contiguous()
    size = source.shape[-1]
    values = torch.empty(*source.shape[:-1], k, dtype=source.dtype, device="cpu")
    indices = torch.empty_like(values, dtype=torch.int64)
    is_done = torch.empty(source.shape[:-1], dtype=torch.bool, device="cpu")
    kernel = getattr(kernels, f"topk_{DTYPES[source.dtype]}")
    pointers = (tensor.data_ptr() for tensor in (source, values, indices, is_done))
    kernel(*pointers, is_done.numel(), size, k, torch.get_num_threads())
    if not is_done.all():  # infinity and NaN, where torch's order is kept
        rest = torch.softmax(source[~is_done], -1).topk(k)
        values[~is_done], indices[~is_done] = rest.values, rest.indices
    return values, indices
