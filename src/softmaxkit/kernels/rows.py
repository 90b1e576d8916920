"""Softmax of rows by native kernels: float32 and bfloat16 on the CPU, any strides, masks, the causal form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from softmaxkit.kernels import native

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
HUGE = 4 << 20
"""Bytes from which on a result's memory comes in huge pages."""

AXES = 5
"""Axes that a kernel knows: four, of which the last is that of the queries, and the keys."""


def can_run(scores: Tensor) -> bool:
    """Return whether kernels are built and take such scores; if not, torch does the same."""
    return scores.device.type == "cpu" and scores.dtype in DTYPES and native() is not None


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
    return _run("exact", scores, mask, is_causal, out)


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
    return _run("consmax", scores, mask, is_causal, out, offsets.data_ptr(), offset.ndim == 1, limit)


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
    if len(exponentials) not in (4, 8, 16) or not clip < 0:
        raise ValueError(f"EXAQ has 4, 8 or 16 levels and a negative clip, not {len(exponentials)} and {clip}")
    return _run("exaq", scores, mask, is_causal, out, clip, list(exponentials))


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
    kernels = _kernels(logits)
    given = logits.contiguous()
    size = given.shape[-1]
    values = torch.empty(*given.shape[:-1], k, dtype=given.dtype)
    indices = torch.empty(values.shape, dtype=torch.int64)
    told = torch.empty(given.shape[:-1], dtype=torch.bool)
    run = getattr(kernels, f"topk_{DTYPES[given.dtype]}")
    pointers = (tensor.data_ptr() for tensor in (given, values, indices, told))
    run(*pointers, told.numel(), size, k, torch.get_num_threads())
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
    sums = torch.zeros(probabilities.shape[:-1], dtype=torch.float32)
    return _backward("consmax_backward", probabilities, gradient, sums.data_ptr(), ceiling), sums


def _backward(name: str, probabilities: Tensor, gradient: Tensor, *parameters: Any) -> Tensor:
    p, g = probabilities.contiguous(), gradient.to(probabilities.dtype).contiguous()
    result = empty(p.shape, p.dtype)
    if p.numel():
        run = getattr(_kernels(p), f"{name}_{DTYPES[p.dtype]}")
        rows, keys = p.numel() // p.shape[-1], p.shape[-1]
        run(p.data_ptr(), g.data_ptr(), result.data_ptr(), rows, keys, torch.get_num_threads(), *parameters)
    return result


def empty(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return new memory, in huge pages where it is large: 4 KiB pages take longer to come than a kernel to fill them."""
    found = torch.empty(shape, dtype=dtype)
    kernels = native()
    if kernels is not None and found.nbytes >= HUGE:
        kernels.huge_pages(found.data_ptr(), found.nbytes)
    return found


def _kernels(scores: Tensor) -> ModuleType:
    kernels = native()
    if kernels is None:
        raise RuntimeError("softmaxkit was installed without its native kernels; torch does the same, slower")
    if scores.device.type != "cpu" or scores.dtype not in DTYPES:
        raise TypeError(f"kernels take float32 or bfloat16 on the CPU, not {scores.dtype} on {scores.device}")
    return kernels


def _run(name: str, scores: Tensor, mask: Tensor | None, is_causal: bool, out: Tensor | None, *parameters: Any) -> Tensor:
    kernels = _kernels(scores)
    if scores.ndim < 1 or (is_causal and scores.ndim < 2):
        raise ValueError("scores are (..., queries, keys)")
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"a mask is boolean, True where attended, not {mask.dtype}")
    result = empty(scores.shape, scores.dtype) if out is None else out
    if result.shape != scores.shape or result.dtype != scores.dtype or not result.is_contiguous():
        raise ValueError(
            f"out is contiguous, {scores.dtype}, {tuple(scores.shape)}, not {result.dtype}, {tuple(result.shape)}"
        )
    if scores.numel() == 0:
        return result
    given = _axes(scores if scores.stride(-1) == 1 or scores.shape[-1] == 1 else scores.contiguous())
    given = given if given.stride(-1) == 1 or given.shape[-1] == 1 else given.contiguous()
    masked = None if mask is None else _mask(mask, scores)
    layout = kernels.Layout(
        list(given.shape[:-1]),
        list(given.stride()[:-1]),
        list(_axes(result).stride()[:-1]),
        [0] * (AXES - 1) if masked is None else list(masked.stride()[:-1]),
        given.shape[-1],
        0 if masked is None else masked.stride(-1),
        is_causal,
        masked is not None,
    )
    pointer = 0 if masked is None else masked.data_ptr()
    run = getattr(kernels, f"{name}_{DTYPES[scores.dtype]}")
    run(given.data_ptr(), result.data_ptr(), pointer, layout, torch.get_num_threads(), *parameters)
    return result


def _axes(values: Tensor) -> Tensor:
    """Return a view with exactly `AXES` axes; more are joined, by a copy if it has to be."""
    if values.ndim <= AXES:
        return values.reshape((1,) * (AXES - values.ndim) + values.shape) if values.ndim < AXES else values
    return values.flatten(0, values.ndim - AXES)


def _mask(mask: Tensor, scores: Tensor) -> Tensor:
    try:
        wide = mask.broadcast_to(scores.shape)
    except RuntimeError:
        raise ValueError(f"a mask broadcasts to the scores, {tuple(scores.shape)}; it is {tuple(mask.shape)}") from None
    wide = _axes(wide)
    return wide if wide.stride(-1) in (0, 1) else wide.contiguous()
