"""Autocast: attention casts its operands as torch's own does, and computes the rest in their dtype."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from softmaxkit.kernels.codes import Cached

Operand = TypeVar("Operand", bound=Tensor | Cached)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_autocast(kind: str) -> bool:
    """Return whether a type of device has autocast; Dynamo of torch 2.9 does not trace the question."""
    return torch.amp.is_autocast_available(kind)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which products keep the dtype of their operands, which autocast would narrow."""
    return torch.autocast(device.type, enabled=False) if has_autocast(device.type) else nullcontext()


def autocast(query: Tensor, key: Operand, value: Operand) -> tuple[Tensor, Operand, Operand]:
    """Return queries, keys and values in the dtype of autocast where it is on, as for torch's attention; codes stay."""
    kind = query.device.type
    if not has_autocast(kind) or not torch.is_autocast_enabled(kind):
        return query, key, value
    dtype, narrow = torch.get_autocast_dtype(kind), (torch.float32, torch.bfloat16, torch.float16)

    def cast(x: Any) -> Any:
        return x.to(dtype) if isinstance(x, Tensor) and x.dtype in narrow else x

    return cast(query), cast(key), cast(value)
