"""How a native kernel is called: which it takes, where its rows lie, and memory for what it returns."""

from __future__ import annotations

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
    return scores.device.type == "cpu" and scores.dtype in DTYPES and instructions() is not None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def instructions() -> str | None:
    """Return the instruction set whose kernels run, one of `softmaxkit.kernels.SETS`; None where none are built."""
    kernels = native()
    return None if kernels is None else kernels.__name__.rsplit("_")[-1]


def empty(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return new memory, in huge pages where it is large: small ones take longer to come than a kernel to fill them."""
    found = torch.empty(shape, dtype=dtype, device="cpu")
    kernels = native()
    if kernels is not None and found.nbytes >= HUGE:
        kernels.huge_pages(found.data_ptr(), found.nbytes)
    return found


def loaded() -> ModuleType:
    """Return the kernels.

    Raises:
        RuntimeError: none are built, see `can_run`.
    """
    kernels = native()
    if kernels is None:
        raise RuntimeError("softmaxkit was installed without its native kernels; torch does the same, slower")
    return kernels


def kernels_for(scores: Tensor) -> ModuleType:
    """Return the kernels for such scores.

    Raises:
        RuntimeError: none are built, see `can_run`.
        TypeError: they do not take these.
    """
    kernels = loaded()
    if scores.device.type != "cpu" or scores.dtype not in DTYPES:
        raise TypeError(f"kernels take float32 or bfloat16 on the CPU, not {scores.dtype} on {scores.device}")
    return kernels


def run(
    name: str, scores: Tensor, mask: Tensor | None, is_causal: bool, *parameters: Any, out: Tensor | None = None
) -> Tensor:
    """Run the kernel of a name on rows of scores; arguments and errors as `exact`, and the kernel's own parameters."""
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
    kernel = getattr(kernels, f"{name}_{DTYPES[scores.dtype]}")
    kernel(given.data_ptr(), result.data_ptr(), pointer, layout, torch.get_num_threads(), *parameters)
    return result


def _axes(values: Tensor) -> Tensor:
    """Return a view with exactly `AXES` axes; more are joined, by a copy if it has to be."""
    if values.ndim <= AXES:
        return values.reshape((1,) * (AXES - values.ndim) + values.shape) if values.ndim < AXES else values
    return values.flatten(0, values.ndim - AXES)


def broadcast_mask(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a mask in the shape of the scores.

    Raises:
        ValueError: it does not fit.
    """
    try:
        return mask.broadcast_to(shape)
    except RuntimeError:
        raise ValueError(f"a mask broadcasts to the scores, {shape}; it is {tuple(mask.shape)}") from None


def _mask(mask: Tensor, scores: Tensor) -> Tensor:
    wide = _axes(broadcast_mask(mask, tuple(scores.shape)))
    return wide if wide.stride(-1) in (0, 1) else wide.contiguous()
