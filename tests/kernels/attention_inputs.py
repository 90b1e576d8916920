"""Random inputs of attention, methods with parameters that suit them, and the result in float64."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from softmaxkit import ConSmax, Exaq, Index, Sigmoid

CLIP = -5.0


def inputs(*shape: int, keys: int = 0, key_heads: int = 0, values: int = 0, spread: float = 2.0) -> list[Tensor]:
    """Return random queries, keys and values; `spread` scales the scores, and keys and values have non-zero means."""
    batch, heads, queries, channels = shape
    random = torch.Generator().manual_seed(sum(shape) + keys)
    size = (batch, key_heads or heads, keys or queries, channels)
    query = torch.randn(*shape, generator=random) * spread
    key = torch.randn(size, generator=random) + torch.randn(*size[:2], 1, channels, generator=random)
    value = torch.randn(*size[:3], values or channels, generator=random)
    return [query, key, value + torch.randn(*size[:2], 1, values or channels, generator=random) / 2]


def random_mask(*shape: int) -> Tensor:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[..., :1, :] = False  # a fully masked query
    return mask


def truth(
    spec: Any, operands: list[Tensor], mask: Tensor | None = None, scale: float | None = None, **parameters: Any
) -> Tensor:
    """Return attention in float64 with the whole matrix of scores."""
    query, key, value = (x.double() for x in operands)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    result: Tensor = spec.module(heads=query.shape[1], **parameters)(scores, mask) @ value
    return result.detach()


def rms(values: Tensor) -> float:
    return values.double().pow(2).mean().sqrt().item()


def methods(operands: list[Tensor]) -> list[tuple[Any, dict[str, Any]]]:
    """Return a method for each form of weights, with offsets that make rows sum to about 1, as training does."""
    query, key, _ = operands
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    total = (query.double() @ key.double().mT / math.sqrt(query.shape[-1])).logsumexp(-1).mean((0, 2))
    return [
        (Exaq(), {"clip": CLIP}),
        (ConSmax(), {"beta": total.float(), "gamma": 1.0}),
        (Index(), {}),
        (Sigmoid(), {"bias": -total.float()}),
    ]
