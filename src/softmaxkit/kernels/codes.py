"""Codes of a key-value cache: 8 bits with one step per token, or 4 bits with one step per 32 channels of a token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

BITS = (8, 4)
"""Bits of a code."""
CHANNELS_OF_STEP = 32
"""Channels that share a step with 4-bit codes."""
FLOAT16_LARGEST = torch.finfo(torch.float16).max
LEAST_STEP = 1e-30
"""Step below which numbers are encoded as 0: the inverse of a smaller one may overflow float32."""


def check_bits(bits: int) -> None:
    """Check the number of bits of a code.

    Raises:
        ValueError: it is not the integer 8 or 4.
    """
    if not isinstance(bits, int) or bits not in BITS:
        raise ValueError(f"bits must be {' or '.join(map(str, BITS))}, got {bits!r}")


@dataclass(frozen=True)
class Cached:
    """Keys or values as codes; an element is code times step, times `factor`, plus `centre`.

    Attributes:
        codes: int8, (batch, key heads, tokens, channels); or uint8, (batch, key heads, tokens, bytes), two 4-bit
            codes per byte, each plus 8, the first in the lower half.
        steps: (batch, key heads, groups of channels, tokens), tokens adjacent in memory; float32 and one group with
            8-bit codes, bfloat16 and one group per `CHANNELS_OF_STEP` channels with 4-bit codes.
        channels: channels of each token.
        centre: float32, (batch, key heads, 1, channels), subtracted before encoding; None for 0.
        factor: float32, same shape, powers of 2 that codes times steps are multiplied by; None for 1.
            See `softmaxkit.kernels.frame.frame`.
    """

    codes: Tensor
    steps: Tensor
    channels: int
    centre: Tensor | None = None
    factor: Tensor | None = None

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Restore a copy or an unpickled object: its cache may grow in any mode, whatever mode it is restored in."""
        for name, x in state.items():
            object.__setattr__(self, name, ordinary(x) if isinstance(x, Tensor) else x)

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return 8 if self.codes.dtype == torch.int8 else 4

    @property
    def shape(self) -> torch.Size:
        """(batch, key heads, tokens, channels)."""
        return torch.Size((*self.codes.shape[:3], self.channels))

    @property
    def device(self) -> torch.device:
        """Device of the codes."""
        return self.codes.device

    @property
    def nbytes(self) -> int:
        """Bytes of codes and steps."""
        return self.codes.nbytes + self.steps.nbytes

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """Return the decoded keys or values, (batch, key heads, tokens, channels)."""
        about = self.about_centre() * (1.0 if self.factor is None else self.factor)
        wide = about + (0.0 if self.centre is None else self.centre)
        if dtype == torch.float16:  # steps are rounded up, so the largest numbers may come out above its range
            wide = wide.clamp(-FLOAT16_LARGEST, FLOAT16_LARGEST)
        return wide.to(dtype)

    def sequences(self, which: slice) -> Cached:
        """Return the keys or values of some sequences of the batch, as views."""
        frame = (None if x is None else x[which] for x in (self.centre, self.factor))
        return Cached(self.codes[which], self.steps[which], self.channels, *frame)

    def times_factors(self, query: Tensor) -> Tensor:
        """Return queries, (batch, heads, queries, channels), multiplied by the key factors: exact if finite."""
        if self.factor is None:
            return query
        wide = query.float() if query.dtype == torch.float16 else query  # factors may well exceed its range
        return (_by_key_head(wide, self.factor) * self.factor.to(wide.dtype)).reshape(query.shape)

    def shifts(self, query: Tensor) -> Tensor | None:
        """Return what the centre adds to every product of a query, float32, (batch, heads, queries); None for 0."""
        if self.centre is None:
            return None
        return (_by_key_head(query.float(), self.centre) * self.centre).sum(-1).reshape(query.shape[:3])

    def about_centre(self) -> Tensor:
        """Return codes times steps, float32, (batch, key heads, tokens, channels): without factors and centre."""
        if self.bits == 8:
            return self.codes.float() * self.steps[:, :, 0, :, None]
        pairs = torch.stack([self.codes & 15, self.codes >> 4], dim=-1).flatten(-2)[..., : self.channels]
        steps = self.steps.mT.float().repeat_interleave(CHANNELS_OF_STEP, dim=-1)[..., : self.channels]
        return (pairs.float() - 8) * steps


@dataclass(frozen=True)
class Paged(Cached):
    """Keys or values of sequences as codes in pages, which sequences may share.

    Attributes:
        codes: as in `Cached`, (pages, key heads, tokens per page, channels or bytes).
        steps: as in `Cached`, (pages, key heads, groups of channels, tokens per page).
        centre: (1, key heads, 1, channels).
        factor: same shape.
        table: int32 or int64, (sequences, pages of the longest), the pages of each sequence, in order. Indices are
            checked against the number of pages, except where a GPU kernel reads and checks them itself.
        tokens: tokens of the longest sequence, or an upper bound.
    """

    table: Tensor = field(kw_only=True)
    tokens: int = field(kw_only=True)

    @property
    def shape(self) -> torch.Size:
        """(sequences, key heads, tokens, channels)."""
        return torch.Size((self.table.shape[0], self.codes.shape[1], self.tokens, self.channels))

    def sequences(self, which: slice) -> Paged:
        """Return the keys or values of some sequences, as views."""
        return replace(self, table=self.table[which])

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """Return the decoded keys or values, (sequences, key heads, tokens, channels)."""
        codes = self.codes[self.table].transpose(1, 2).flatten(2, 3)[:, :, : self.tokens]
        steps = self.steps[self.table].permute(0, 2, 3, 1, 4).flatten(3, 4)[..., : self.tokens]
        return Cached(codes, steps, self.channels, self.centre, self.factor).decoded(dtype)


def _by_key_head(query: Tensor, frame: Tensor) -> Tensor:
    """Return queries, (batch, heads, queries, channels), by key head: (batch, key heads, ..., channels)."""
    batch, heads, queries, channels = query.shape
    key_heads = frame.shape[1]
    return query.reshape(batch, key_heads, heads // key_heads * queries, channels)


def batch_stride(*frame: Tensor | None) -> int:
    """Return the distance of the sequences' centres and factors in memory, contiguous ones; 0 if all share them."""
    return max((x.stride(0) for x in frame if x is not None and x.shape[0] > 1), default=0)


def ordinary(tensor: Tensor) -> Tensor:
    """Return the tensor, or a clone of one made in inference mode: such a one cannot be written to elsewhere."""
    with torch.inference_mode(False):
        return tensor.clone() if tensor.is_inference() else tensor
