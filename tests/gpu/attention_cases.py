"""Queries, keys and values for attention tests, and the same attention in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softmaxkit import ConSmax, Exaq, Index, Sigmoid, Spec


@dataclass(frozen=True)
class Case:
    """One attention: shapes, and what is seen; `mask` is a shape that broadcasts."""

    batch: int = 1
    heads: int = 2
    queries: int = 33
    keys: int = 33
    channels: int = 16
    values: int = 16
    key_heads: int = 2
    is_causal: bool = False
    mask: tuple[int, ...] = ()
    scale: float | None = None

    def tensors(self, device: torch.device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        random = torch.Generator().manual_seed(0)
        shapes = [
            (self.batch, self.heads, self.queries, self.channels),
            (self.batch, self.key_heads, self.keys, self.channels),
            (self.batch, self.key_heads, self.keys, self.values),
        ]
        return [torch.randn(shape, generator=random).to(device, dtype).requires_grad_() for shape in shapes]

    def seen(self, device: torch.device) -> Tensor | None:
        """Return the mask; the first query of it attends to nothing."""
        if not self.mask:
            return None
        mask = torch.rand(self.mask, generator=torch.Generator().manual_seed(1)) < 0.6
        mask[..., :1, :] = False
        return mask.to(device)


CASES = [
    Case(),
    Case(queries=70, keys=100, channels=32, values=32, key_heads=1),
    Case(batch=2, heads=4, queries=33, keys=70, channels=24, values=40, is_causal=True),
    Case(queries=70, keys=20, is_causal=True, scale=-0.3),
    Case(batch=2, queries=20, keys=130, mask=(2, 1, 20, 130)),
    Case(heads=4, key_heads=2, queries=17, keys=65, mask=(4, 17, 65)),
    Case(queries=1, keys=1, channels=1, values=3),
]
WEIGHTS: list[tuple[Spec, dict[str, Any]]] = [
    (ConSmax(ceiling=0.5), {"beta": 1.0, "gamma": 1.5}),
    *((Exaq(bits=bits), {"clip": -4.0}) for bits in (2, 3, 4)),  # type: ignore[arg-type]
]
LOGISTIC: tuple[Spec, dict[str, Any]] = (Sigmoid(), {"bias": -1.5})
FROM_ZERO: tuple[Spec, dict[str, Any]] = (Index(), {})
OF_HEADS: tuple[Spec, dict[str, Any]] = (Exaq(share="head"), {"clip": [-4.0, -1.0, -9.0, -2.5]})
"""With a clip for each of four heads."""
FORMS = [*WEIGHTS[:2], LOGISTIC, FROM_ZERO]
"""One method for each form of weights: exponentials, levels, the logistic function, levels of which the lowest is 0."""


def float64_attention(
    tensors: list[Tensor], spec: Spec, numbers: dict[str, Any], mask: Tensor | None, case: Case
) -> Tensor:
    """Return attention with the whole matrix of scores, in the dtype of the tensors."""
    query, key, value = tensors
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).mT * (case.scale or query.shape[-1] ** -0.5)
    if case.is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    module = spec.module(heads=query.shape[1], **numbers).to(query.device)
    attended = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand(scores.shape)
    result: Tensor = module.float_forward(torch.where(attended, scores, 0.0), attended)
    return result @ value.repeat_interleave(groups, 1)
