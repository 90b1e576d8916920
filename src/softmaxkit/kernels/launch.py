"""Launching native row kernels: argument checks, the memory layout of the rows, and allocation of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from softmaxkit.kernels.backends import is_traced, native
from softmaxkit.kernels.builds import VARIABLE
from softmaxkit.masks import expand_mask

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""Dtypes that the floating-point kernels accept, with the suffix of the native functions' names."""
HUGE = 4 << 20
"""Size in bytes from which a tensor is allocated in huge pages."""

AXES = 5
"""Axes of a kernel's layout: four outer ones, of which the last indexes queries, and the keys."""


Function = TypeVar("Function", bound=Callable[..., Any])


def untraced(function: Function) -> Function:
    """Make torch.compile call a function instead of tracing it; with fullgraph=True it raises an error there."""
    disabled: Function = torch.compiler.disable(function)
    return disabled


def empty(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Allocate a CPU tensor, in huge pages if it is large: page faults on small ones cost more than the kernel."""
    return in_huge_pages(torch.empty(shape, dtype=dtype, device="cpu"))


def address(tensor: Tensor | None) -> int:
    """Return the address of a tensor's elements, 0 for None.

    Raises:
        TypeError: it has no memory, like the fake tensors of a trace and subclasses that wrap other tensors.
    """
    if tensor is None:
        return 0
    pointer: int = tensor.data_ptr()
    if pointer == 0 and tensor.numel():
        raise TypeError(f"native kernels read and write memory, of which a {type(tensor).__name__} has none")
    return pointer


def side_by_side(tensor: Tensor) -> Tensor:
    """Return the tensor with a last-axis stride of 1, copied if necessary."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def in_huge_pages(fresh: Tensor) -> Tensor:
    """Request huge pages for a large CPU tensor that has not been written yet, and return it."""
    kernels = native()
    if kernels is not None and fresh.device.type == "cpu" and fresh.nbytes >= HUGE:
        kernels.huge_pages(address(fresh), fresh.nbytes)
    return fresh


def loaded() -> ModuleType:
    """Return the module of native kernels that runs here.

    Raises:
        RuntimeError: no native kernels run here, see `softmaxkit.kernels.backends`; or a trace would not record what
            they write. It does record operators, and is not at work inside of them.
    """
    if is_traced():
        raise RuntimeError("a trace (torch.jit.trace, make_fx) does not record what native kernels write")
    kernels = native()
    if kernels is None:
        raise RuntimeError(
            f"no native kernels run here: softmaxkit was installed without them, or {VARIABLE} selects another back end"
        )
    return kernels


def kernels_for(scores: Tensor) -> ModuleType:
    """Return the module of native kernels, after checking that it accepts the scores.

    Raises:
        RuntimeError: no native kernels run here, see `softmaxkit.kernels.backends`.
        TypeError: the scores are not float32, bfloat16 or float16 on the CPU.
    """
    kernels = loaded()
    if scores.device.type != "cpu" or scores.dtype not in DTYPES:
        accepted = "float32, bfloat16 or float16 on the CPU"
        raise TypeError(f"native kernels accept {accepted}, got {scores.dtype} on {scores.device}")
    return kernels


def run(
    name: str, scores: Tensor, mask: Tensor | None, is_causal: bool, *parameters: Any, out: Tensor | None = None
) -> Tensor:
    """Run a kernel on rows of scores.

    Arguments and errors are those of `rows.softmax`; the kernel's own parameters follow them.
    """
    kernels = kernels_for(scores)
    if scores.ndim < 1 or (is_causal and scores.ndim < 2):
        axes = "(..., queries, keys), as is_causal requires" if is_causal else "(..., keys)"
        raise ValueError(f"scores must be {axes}, got {tuple(scores.shape)}")
    masked = None if mask is None else _flattened(readable_mask(mask, scores.shape, scores.device))
    result = empty(scores.shape, scores.dtype) if out is None else out
    if out is not None:
        _check_out(out, scores)
    if scores.numel() == 0:
        return result
    source = _flattened(scores if scores.stride(-1) == 1 or scores.shape[-1] == 1 else scores.contiguous())
    source = source if source.stride(-1) == 1 or source.shape[-1] == 1 else source.contiguous()
    layout = kernels.Layout(
        _outer(source.shape, 1),
        _outer(source.stride(), 0),
        _outer(_flattened(result).stride(), 0),
        [0] * (AXES - 1) if masked is None else _outer(masked.stride(), 0),
        source.shape[-1],
        0 if masked is None else masked.stride(-1),
        is_causal,
        masked is not None,
    )
    kernel = getattr(kernels, f"{name}_{DTYPES[scores.dtype]}")
    kernel(address(source), address(result), address(masked), layout, torch.get_num_threads(), *parameters)
    return result


def check_boolean(mask: Tensor, device: torch.device) -> None:
    """Check that a mask is boolean and on a device.

    Raises:
        TypeError: it is not.
    """
    if mask.dtype != torch.bool or mask.device != device:
        raise TypeError(f"mask must be boolean, True where attended, on {device}, got {mask.dtype} on {mask.device}")


def readable_mask(mask: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return a mask in the shape of the scores as kernels read it: keys adjacent in memory, or one byte for all.

    Raises:
        TypeError: it is not boolean, or on another device.
        ValueError: it does not broadcast to the shape.
    """
    check_boolean(mask, device)
    wide: Tensor = expand_mask(mask, tuple(shape))
    return wide if wide.stride(-1) in (0, 1) else wide.contiguous()


def run_heads(
    calls: Sequence[Callable[[Tensor, Tensor | None], Tensor]], scores: Tensor, mask: Tensor | None
) -> Tensor:
    """Run a separate call for each head and stack the results.

    Args:
        calls: one per head, called with the head's scores and its mask or None.
        scores: (..., heads, queries, keys).
        mask: boolean, broadcasts to the scores; or None.

    Raises:
        ValueError: the number of heads differs from the number of calls.
    """
    if scores.ndim < 3 or scores.shape[-3] != len(calls):
        raise ValueError(f"scores must be (..., {len(calls)}, queries, keys), got {tuple(scores.shape)}")
    masks = [None] * len(calls) if mask is None else mask.expand(scores.shape).unbind(-3)
    of_heads = zip(calls, scores.unbind(-3), masks, strict=True)
    return torch.stack([call(of_head, attended) for call, of_head, attended in of_heads], dim=-3)


def _check_out(out: Tensor, scores: Tensor) -> None:
    if (out.shape, out.dtype, out.device) != (scores.shape, scores.dtype, scores.device) or not out.is_contiguous():
        expected, actual = (f"{tuple(x.shape)} {x.dtype} on {x.device}" for x in (scores, out))
        layout = "" if out.is_contiguous() else ", not contiguous"
        raise ValueError(f"out must be contiguous, {expected}, got {actual}{layout}")
    (begin, end), (first, last) = _addresses(out), _addresses(scores)
    if max(begin, first) < min(end, last):
        raise ValueError("out must not share memory with the scores, which kernels may read again; pass another tensor")


def _addresses(values: Tensor) -> tuple[int, int]:
    """Return the address of the first element, and that beyond the last."""
    steps = sum((size - 1) * stride for size, stride in zip(values.shape, values.stride(), strict=True))
    begin = address(values)
    return begin, begin + (steps + 1) * values.element_size() if values.numel() else begin


def _flattened(values: Tensor) -> Tensor:
    """Return values with at most `AXES` axes; surplus leading ones are flattened, with a copy if strides require it."""
    return values if values.ndim <= AXES else values.flatten(0, values.ndim - AXES)


def _outer(of_axes: Sequence[int], of_missing: int) -> list[int]:
    """Return the sizes or strides of all axes but the last, with the same number for leading axes that are missing."""
    return [of_missing] * (AXES - len(of_axes)) + list(of_axes[:-1])
