"""Attention as a call: how scores become weights, and which kinds of kernels can run it on some tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from softmaxkit.kernels.backends import Support, has_tiles
from softmaxkit.kernels.codes import BITS, Cached, Paged
from softmaxkit.kernels.launch import DTYPES, GPU_DTYPES
from softmaxkit.kernels.rows import check_levels
from softmaxkit.kernels.weights import Weights, exponential_weights, level_weights

WIDEST = {"native": 2**14, "triton": 256, "flex": 256}
"""Channels, by kind of kernel: those whose products of 8 bits are sure to fit 32; and what a program holds."""
CACHED_BITS = {"native": {0, *BITS}, "triton": {0, 8}, "flex": {0}}
"""Bits of the caches that each kind of kernel reads; 0 for keys and values as they come."""
LEAST_FLEX_CHANNELS = 16
"""Channels from which on FlexAttention is compiled."""
FEW = 12
"""Queries of one key head up to which keys and values are read as they come: to bring them to 8 bits takes longer."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """How scores become weights; made by `by_levels` or `by_exponential`.

    Attributes:
        clip: the lowest level; not used without levels.
        exponentials: of the levels; none where weights are exponentials.
        offset: () or (heads,), of exponentials; None with levels.
        log_limit: logarithm of the largest exponential.
        base: of softmax itself; 0 where weights are others.
    """

    clip: float = -1.0
    exponentials: tuple[float, ...] = ()
    offset: Tensor | None = None
    log_limit: float = 0.0
    base: float = 0.0

    @classmethod
    def by_levels(cls, clip: float, exponentials: Sequence[float]) -> Self:
        """Let scores less their row's maximum have one of some levels, and divide by their sum.

        Args:
            clip: the lowest level, negative.
            exponentials: of the levels, which lie evenly from the clip to 0; 4, 8 or 16.

        Raises:
            ValueError: another number of levels, or a clip that is not negative and finite.
        """
        check_levels(clip, exponentials)
        return cls(clip=clip, exponentials=tuple(exponentials))

    @classmethod
    def by_exponential(cls, offset: Tensor, limit: float) -> Self:
        """Let weights be `exp(score - offset)`, at most `limit`, not divided by their sum.

        Args:
            offset: () or (heads,).
            limit: the largest weight, positive and finite.

        Raises:
            ValueError: another limit.
        """
        if not 0 < limit < math.inf:
            raise ValueError(f"the largest weight is positive and finite, not {limit}")
        return cls(offset=offset, log_limit=math.log(limit))

    @classmethod
    def by_softmax(cls, base: float) -> Self:
        """Let weights be softmax to a base: on GPUs for a few queries of an 8-bit cache, natively for many by AMX."""
        return cls(base=base)

    kernel: ClassVar[str] = "attention"

    def support(self, kind: str) -> Support | None:
        """Say what the kernels can: on GPUs with gradients, and FlexAttention only without levels."""
        if kind == "native":
            return None if self.base and not has_tiles() else Support(tuple(DTYPES))
        return None if kind == "flex" and (self.exponentials or self.base) else Support(GPU_DTYPES, differentiable=True)

    @staticmethod
    def reasons(kind: str, query: Tensor, key: Tensor | Cached, value: Tensor | Cached) -> list[str]:
        """Return why a kind of kernels cannot run on such queries, keys and values, besides device and dtype."""
        reasons = []
        widest = WIDEST[kind]
        if (channels := max(query.shape[-1], 0 if kind == "native" else value.shape[-1])) > widest:
            reasons.append(f"it takes up to {widest} channels, not {channels}")
        bits = {x.bits if isinstance(x, Cached) else 0 for x in (key, value)}
        if len(bits) > 1:
            reasons.append("keys and values are both in caches of as many bits, or neither is")
        elif unread := bits - CACHED_BITS[kind]:
            reasons.append(f"it does not read {max(unread)}-bit caches")
        if kind != "native" and isinstance(key, Paged):
            reasons.append("it does not read pages")
        if kind == "flex" and min(query.shape[-1], value.shape[-1]) < LEAST_FLEX_CHANNELS:
            reasons.append(f"it takes {LEAST_FLEX_CHANNELS} channels or more")
        if any(x.device != query.device for x in (key, value)):
            reasons.append("query, key and value are on different devices")
        if any(isinstance(x, Tensor) and x.dtype != query.dtype for x in (key, value)):
            reasons.append("query, key and value have different dtypes")
        return reasons

    @property
    def weights(self) -> Weights:
        """The 8-bit weights for many queries."""
        return level_weights(self.clip, self.exponentials) if self.exponentials else exponential_weights()

    def offsets(self, heads: int) -> Tensor | None:
        """Return the offset of every head, float32; None with levels.

        Raises:
            ValueError: it is for another number of heads.
        """
        if self.offset is None:
            return None
        if self.offset.shape not in ((), (heads,)):
            raise ValueError(f"offsets are ({heads},) or one number, not {tuple(self.offset.shape)}")
        return self.offset.detach().to(torch.float32).expand(heads).contiguous()


def are_few(query: Tensor, keys: Tensor | Cached) -> bool:
    """Are queries so few for each key head that keys and values are read as they come?"""
    return query.shape[1] // keys.shape[1] * query.shape[2] <= FEW


def reasons_against_bfloat16(query: Tensor, key: Tensor) -> list[str]:
    """Return why softmax itself is not for a kernel with products of bfloat16."""
    reasons = []
    if query.dtype == torch.float32 and torch.get_float32_matmul_precision() != "medium":
        reasons.append(
            "it multiplies float32 in bfloat16, which torch.set_float32_matmul_precision('medium') would allow"
        )
    if are_few(query, key):
        reasons.append(f"for up to {FEW} queries of a head of keys torch's own is as good")
    return reasons


def default_scale(query: Tensor) -> float:
    """Return 1/sqrt(channels), and 1 where there are none."""
    return float(max(query.shape[-1], 1) ** -0.5)


def check_shapes(query: Tensor, key: Tensor | Cached, value: Tensor | Cached) -> None:
    """Refuse queries, keys and values that do not go together.

    Raises:
        ValueError: they do not.
    """
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if not len(query.shape) == len(key.shape) == len(value.shape) == 4:
        raise ValueError(f"query, key and value are (batch, heads, tokens, channels), not {shapes}")
    if key.shape[:3] != value.shape[:3] or query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"keys have the batch and channels of the queries, values the tokens of the keys; got {shapes}"
        )
    if key.shape[1] == 0 or query.shape[1] % key.shape[1]:
        raise ValueError(f"the heads of the queries are a multiple of those of the keys; got {shapes}")
