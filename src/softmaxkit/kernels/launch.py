"""How a native kernel is called: which scores it accepts, where its rows lie, and memory for its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from softmaxkit.kernels.backends import native
from softmaxkit.masks import expand_mask

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""What the native kernels of floats take."""
GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels of GPUs take."""
HUGE = 4 << 20
"""Bytes from which on a result's memory comes in huge pages."""

AXES = 5
"""Axes that a kernel knows: four, of which the last is that of the queries, and the keys."""


def empty(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return new memory, in huge pages where it is large: faults on small ones cost more than the kernel itself."""
    result = torch.empty(shape, dtype=dtype, device="cpu")
    kernels = native()
    if kernels is not None and result.nbytes >= HUGE:
        kernels.huge_pages(result.data_ptr(), result.nbytes)
    return result


def loaded() -> ModuleType:
    """Return the kernels.

    Raises:
        RuntimeError: none run here, see `softmaxkit.kernels.backends`.
    """
    kernels = native()
    if kernels is None:
        raise RuntimeError("softmaxkit was installed without its native kernels; torch does the same, slower")
    return kernels


def kernels_for(scores: Tensor) -> ModuleType:
    """Return the kernels for such scores.

    Raises:
        RuntimeError: none run here, see `softmaxkit.kernels.backends`.
        TypeError: they do not accept these.
    """
    kernels = loaded()
    if scores.device.type != "cpu" or scores.dtype not in DTYPES:
        raise TypeError(f"kernels take float32 or bfloat16 on the CPU, not {scores.dtype} on {scores.device}")
    return kernels


def run(
    name: str, scores: Tensor, mask: Tensor | None, is_causal: bool, *parameters: Any, out: Tensor | None = None
) -> Tensor:
    """Run a kernel on rows of scores; arguments and errors as `rows.softmax`, and the kernel's own parameters."""
    kernels = kernels_for(scores)
    if scores.ndim < 1 or (is_causal and scores.ndim < 2):
        raise ValueError("scores are (..., queries, keys)")
    if mask is not None and (mask.dtype != torch.bool or mask.device != scores.device):
        raise TypeError(f"a mask is boolean, True where attended, not {mask.dtype} on {mask.device}")
    result = empty(scores.shape, scores.dtype) if out is None else out
    if result.shape != scores.shape or result.dtype != scores.dtype or not result.is_contiguous():
        raise ValueError(
            f"out is contiguous, {scores.dtype}, {tuple(scores.shape)}, not {result.dtype}, {tuple(result.shape)}"
        )
    if scores.numel() == 0:
        return result
    source = _axes(scores if scores.stride(-1) == 1 or scores.shape[-1] == 1 else scores.contiguous())
    source = source if source.stride(-1) == 1 or source.shape[-1] == 1 else source.contiguous()
    masked = None if mask is None else _mask(mask, scores)
    layout = kernels.Layout(
        list(source.shape[:-1]),
        list(source.stride()[:-1]),
        list(_axes(result).stride()[:-1]),
        [0] * (AXES - 1) if masked is None else list(masked.stride()[:-1]),
        source.shape[-1],
        0 if masked is None else masked.stride(-1),
        is_causal,
        masked is not None,
    )
    pointer = 0 if masked is None else masked.data_ptr()
    kernel = getattr(kernels, f"{name}_{DTYPES[scores.dtype]}")
    kernel(source.data_ptr(), result.data_ptr(), pointer, layout, torch.get_num_threads(), *parameters)
    return result


def run_heads(
    calls: Sequence[Callable[[Tensor, Tensor | None], Tensor]], scores: Tensor, mask: Tensor | None
) -> Tensor:
    """Run each head by a call of its own.

    Args:
        calls: one a head; each takes scores and a mask.
        scores: (..., heads, queries, keys).
        mask: broadcasts to them; or None.

    Raises:
        ValueError: the scores have another number of heads.
    """
    if scores.ndim < 3 or scores.shape[-3] != len(calls):
        raise ValueError(f"scores are (..., {len(calls)}, queries, keys), not {tuple(scores.shape)}")
    masks = [None] * len(calls) if mask is None else mask.expand(scores.shape).unbind(-3)
    of_heads = zip(calls, scores.unbind(-3), masks, strict=True)
    return torch.stack([call(of_head, attended) for call, of_head, attended in of_heads], dim=-3)


def _axes(values: Tensor) -> Tensor:
    """Return a view with exactly `AXES` axes; more are joined, by a copy where strides require it."""
    if values.ndim <= AXES:
        return values.reshape((1,) * (AXES - values.ndim) + values.shape) if values.ndim < AXES else values
    return values.flatten(0, values.ndim - AXES)


def _mask(mask: Tensor, scores: Tensor) -> Tensor:
    wide = _axes(expand_mask(mask, tuple(scores.shape)))
    return wide if wide.stride(-1) in (0, 1) else wide.contiguous()
