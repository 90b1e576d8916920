"""Softmax of rows by native kernels: float32 and bfloat16 on the CPU, any strides, masks, the causal form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from softmaxkit.kernels.launch import DTYPES, empty, kernels_for, run


def exact(scores: Tensor, mask: Tensor | None = None, is_causal: bool = False, out: Tensor | None = None) -> Tensor:
    """Return softmax over the last axis; a row with nothing attended is all zeros.

    Args:
        scores: float32 or bfloat16 on the CPU, (..., queries, keys).
        mask: boolean, True where attended, broadcasts to the scores.
        is_causal: a query attends to the keys up to its own place, the last query to all.
        out: takes the result; contiguous, shape and dtype of the scores. New memory costs more than the kernels do.

    Raises:
        RuntimeError: no kernels are built, see `can_run`.
        TypeError: scores of another kind, or a mask that is not boolean.
        ValueError: the mask or `out` does not fit.
    """
    return run("exact", scores, mask, is_causal, out=out)


def consmax(
    scores: Tensor,
    offset: Tensor,
    ceiling: float = math.inf,
    mask: Tensor | None = None,
    is_causal: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Return `exp(score - offset)`, at most `ceiling`.

    Args:
        scores: as `exact`, (..., heads, queries, keys) where there is an offset for each head.
        offset: beta + log(gamma), float32, () or (heads,).
        ceiling: the largest probability.
        mask: as `exact`.
        is_causal: as `exact`.
        out: as `exact`.

    Raises:
        RuntimeError, TypeError, ValueError: as `exact`; or offsets that do not fit.
    """
    if offset.ndim > 1 or (offset.ndim == 1 and (scores.ndim < 3 or scores.shape[-3] != len(offset))):
        raise ValueError(f"offsets are (heads,) or one number, not {tuple(offset.shape)} for {tuple(scores.shape)}")
    offsets = offset.detach().to(torch.float32).reshape(-1).contiguous()
    limit = math.log(ceiling) if ceiling < math.inf else math.inf
    return run("consmax", scores, mask, is_causal, offsets.data_ptr(), offset.ndim == 1, limit, out=out)


def exaq(
    scores: Tensor,
    clip: float,
    exponentials: Sequence[float],
    mask: Tensor | None = None,
    is_causal: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Return softmax of scores less their row's maximum, rounded to even levels from `clip` to 0.

    Args:
        scores: as `exact`.
        clip: the lowest level, negative.
        exponentials: of the levels; 4, 8 or 16.
        mask: as `exact`.
        is_causal: as `exact`.
        out: as `exact`.

    Raises:
        RuntimeError, TypeError, ValueError: as `exact`; or another number of levels.
    """
    check_levels(clip, exponentials)
    return run("exaq", scores, mask, is_causal, clip, list(exponentials), out=out)


def check_levels(clip: float, exponentials: Sequence[float]) -> None:
    """Refuse levels that EXAQ does not have.

    Raises:
        ValueError: another number of levels than 4, 8 or 16, or a clip that is not negative and finite.
    """
    if len(exponentials) not in (4, 8, 16) or not -math.inf < clip < 0:
        raise ValueError(f"EXAQ has 4, 8 or 16 levels and a negative clip, not {len(exponentials)} and {clip}")


def topk(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest probabilities of softmax over the last axis and their indices, best first, in one pass.

    Args:
        logits: float32 or bfloat16 on the CPU, (..., vocabulary).
        k: from 1 to vocabulary.

    Returns:
        Probabilities in the dtype of the logits, and int64 indices, both (..., k).

    Raises:
        RuntimeError, TypeError: as `exact`.
    """
    kernels = kernels_for(logits)
    given = logits.contiguous()
    size = given.shape[-1]
    values = torch.empty(*given.shape[:-1], k, dtype=given.dtype, device="cpu")
    indices = torch.empty_like(values, dtype=torch.int64)
    told = torch.empty(given.shape[:-1], dtype=torch.bool, device="cpu")
    kernel = getattr(kernels, f"topk_{DTYPES[given.dtype]}")
    pointers = (tensor.data_ptr() for tensor in (given, values, indices, told))
    kernel(*pointers, told.numel(), size, k, torch.get_num_threads())
    if not told.all():  # infinity and NaN, where torch's order is kept
        rest = torch.softmax(given[~told], -1).topk(k)
        values[~told], indices[~told] = rest.values, rest.indices
    return values, indices


def exact_backward(probabilities: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of the scores of `exact`, from its result and the gradient of that, of the same shape."""
    return _backward("exact_backward", probabilities, gradient)


def consmax_backward(probabilities: Tensor, gradient: Tensor, ceiling: float) -> tuple[Tensor, Tensor]:
    """Return the gradient of the scores of `consmax`, which is 0 where the ceiling holds, and its sum for each row.

    Args:
        probabilities: what `consmax` returned.
        gradient: of these, of the same shape.
        ceiling: as given there.

    Returns:
        The gradient, shape and dtype of the probabilities, and the sums, float32, their shape without the last axis.
    """
    sums = torch.zeros(probabilities.shape[:-1], dtype=torch.float32, device="cpu")
    return _backward("consmax_backward", probabilities, gradient, sums.data_ptr(), ceiling), sums


def _backward(name: str, probabilities: Tensor, gradient: Tensor, *parameters: Any) -> Tensor:
    p, g = probabilities.contiguous(), gradient.to(probabilities.dtype).contiguous()
    result = empty(p.shape, p.dtype)
    if p.numel():
        kernel = getattr(kernels_for(p), f"{name}_{DTYPES[p.dtype]}")
        rows, keys = p.numel() // p.shape[-1], p.shape[-1]
        kernel(p.data_ptr(), g.data_ptr(), result.data_ptr(), rows, keys, torch.get_num_threads(), *parameters)
    return result
