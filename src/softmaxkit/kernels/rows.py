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
AXES = 5
"""Axes that a kernel knows: four, of which the last is that of the queries, and the keys."""


def can_run(scores: Tensor) -> bool:
    """Return whether kernels are built and take such scores; if not, torch does the same."""
    return scores.device.type == "cpu" and scores.dtype in DTYPES and native() is not None


def exact(scores: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Return softmax over the last axis; a row with nothing attended is all zeros.

    Args:
        scores: float32 or bfloat16 on the CPU, (..., queries, keys).
        mask: boolean, True where attended, broadcasts to the scores.
        is_causal: a query attends to the keys up to its own place, the last query to all.

    Raises:
        RuntimeError: no kernels are built, see `can_run`.
        TypeError: scores of another kind, or a mask that is not boolean.
        ValueError: the mask does not fit.
    """
    return run("exact", scores, mask, is_causal)


def consmax(
    scores: Tensor, offset: Tensor, ceiling: float = math.inf, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """Return `exp(score - offset)`, at most `ceiling`.

    Args:
        scores: as `exact`, (..., heads, queries, keys) where there is an offset for each head.
        offset: beta + log(gamma), float32, () or (heads,).
        ceiling: the largest probability.
        mask: as `exact`.
        is_causal: as `exact`.

    Raises:
        RuntimeError, TypeError, ValueError: as `exact`; or offsets that do not fit.
    """
    if offset.ndim > 1 or (offset.ndim == 1 and (scores.ndim < 3 or scores.shape[-3] != len(offset))):
        raise ValueError(f"offsets are (heads,) or one number, not {tuple(offset.shape)} for {tuple(scores.shape)}")
    offsets = offset.detach().to(torch.float32).reshape(-1).contiguous()
    limit = math.log(ceiling) if ceiling < math.inf else math.inf
    return run("consmax", scores, mask, is_causal, offsets.data_ptr(), offset.ndim == 1, limit)


def exaq(
    scores: Tensor,
    thresholds: Sequence[float],
    exponentials: Sequence[float],
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Return softmax of scores less their row's maximum that have taken one of some levels.

    Args:
        scores: as `exact`.
        thresholds: ascending, the least difference of each level but the lowest.
        exponentials: of the levels; 4, 8 or 16.
        mask: as `exact`.
        is_causal: as `exact`.

    Raises:
        RuntimeError, TypeError, ValueError: as `exact`; or another number of levels.
    """
    if len(exponentials) not in (4, 8, 16) or len(thresholds) != len(exponentials) - 1:
        raise ValueError(
            f"EXAQ has 4, 8 or 16 levels and one threshold fewer, not {len(exponentials)} and {len(thresholds)}"
        )
    return run("exaq", scores, mask, is_causal, list(thresholds), list(exponentials))


def loaded() -> ModuleType:
    """Return the kernels.

    Raises:
        RuntimeError: none are built, see `can_run`.
    """
    kernels = native()
    if kernels is None:
        raise RuntimeError("softmaxkit was installed without its native kernels; torch does the same, slower")
    return kernels


def run(name: str, scores: Tensor, mask: Tensor | None, is_causal: bool, *parameters: Any) -> Tensor:
    """Run the kernel of a name on rows of scores; arguments and errors as `exact`, and the kernel's own parameters."""
    kernels = loaded()
    if scores.device.type != "cpu" or scores.dtype not in DTYPES:
        raise TypeError(f"kernels take float32 or bfloat16 on the CPU, not {scores.dtype} on {scores.device}")
    if scores.ndim < 1 or (is_causal and scores.ndim < 2):
        raise ValueError("scores are (..., queries, keys)")
    if mask is not None and (mask.dtype != torch.bool or mask.device != scores.device):
        raise TypeError(f"a mask is boolean, True where attended, not {mask.dtype} on {mask.device}")
    result = torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)
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
