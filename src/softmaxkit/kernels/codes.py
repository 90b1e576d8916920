"""Codes of a cache of keys and values: 8 bits with a step for each token, or 4 bits with one for every 32 channels."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

BITS = (8, 4)
"""Bits of a code."""
CHANNELS_OF_STEP = 32
"""Channels that share a step where codes have 4 bits."""
LEAST_STEP = 1e-30
"""Step below which numbers are 0: the inverse of a smaller one is no float32."""


@dataclass(frozen=True)
class Cached:
    """Keys or values as codes; a code times its step is a number.

    Attributes:
        codes: int8, (batch, key heads, tokens, channels); or uint8, (batch, key heads, tokens, bytes), two codes of 4
            bits a byte, plus 8, the first in its lower half.
        steps: (batch, key heads, groups of channels, tokens), token by token; float32 and one group of codes of 8 bits,
            bfloat16 and a group for every `CHANNELS_OF_STEP` channels of codes of 4.
        channels: that each token has.
        centre: float32, (batch, key heads, 1, channels), what the codes are set about; None for 0.
    """

    codes: Tensor
    steps: Tensor
    channels: int
    centre: Tensor | None = None

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
        """Where the codes are."""
        return self.codes.device

    @property
    def nbytes(self) -> int:
        """Bytes of codes and steps."""
        return self.codes.nbytes + self.steps.nbytes

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """Return what the codes stand for, (batch, key heads, tokens, channels)."""
        return (self._about_centre() + (0.0 if self.centre is None else self.centre)).to(dtype)

    def _about_centre(self) -> Tensor:
        if self.bits == 8:
            return self.codes.float() * self.steps[:, :, 0, :, None]
        pairs = torch.stack([self.codes & 15, self.codes >> 4], dim=-1).flatten(-2)[..., : self.channels]
        steps = self.steps.mT.float().repeat_interleave(CHANNELS_OF_STEP, dim=-1)[..., : self.channels]
        return (pairs.float() - 8) * steps


@dataclass(frozen=True)
class Paged(Cached):
    """Keys or values of sequences as codes in pages, which sequences may share.

    Attributes:
        codes: as of `Cached`, (pages, key heads, tokens of a page, channels or bytes).
        steps: likewise, (pages, key heads, groups of channels, tokens of a page).
        centre: (1, key heads, 1, channels).
        table: int64, (sequences, pages of the longest), which pages a sequence has, in order; all are among the pages.
        tokens: of the longest sequence.
    """

    table: Tensor = field(kw_only=True)
    tokens: int = field(kw_only=True)

    @property
    def shape(self) -> torch.Size:
        """(sequences, key heads, tokens, channels)."""
        return torch.Size((self.table.shape[0], self.codes.shape[1], self.tokens, self.channels))

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """Return what the codes stand for, (sequences, key heads, tokens, channels)."""
        codes = self.codes[self.table].transpose(1, 2).flatten(2, 3)[:, :, : self.tokens]
        steps = self.steps[self.table].permute(0, 2, 3, 1, 4).flatten(3, 4)[..., : self.tokens]
        return Cached(codes, steps, self.channels, self.centre).decoded(dtype)


def encode(tokens: Tensor, bits: int, centre: Tensor | None = None) -> Cached:
    """Round keys or values to codes, to nearest.

    Args:
        tokens: floating, finite in float32, (batch, key heads, tokens, channels).
        bits: 8 or 4. A step of 8 bits is the 127th part of a token's largest magnitude. Of 4 bits it is the 8th part of
            the largest of its channels, with the sign that makes this one the code -8, and rounded up to bfloat16.
        centre: what is taken from the tokens first, as in `Cached`.
    """
    wide = tokens.float() if centre is None else tokens.float() - centre
    channels = wide.shape[3]
    if bits == 8:
        steps = wide.abs().amax(-1, keepdim=True) / 127 if channels else wide.new_zeros((*wide.shape[:3], 1))
        return Cached((wide * _inverse(steps)).round().to(torch.int8), steps.mT.contiguous(), channels, centre)
    padded = functional.pad(wide, (0, -channels % CHANNELS_OF_STEP))
    groups = padded.unflatten(-1, (padded.shape[3] // CHANNELS_OF_STEP, CHANNELS_OF_STEP))
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    steps = _away_from_zero(largest / -8)
    codes = (groups * _inverse(steps.float())).round().clamp(-8, 7).add(8).to(torch.uint8).flatten(-2)
    codes = codes[..., : channels + channels % 2]
    return Cached(codes[..., 0::2] | codes[..., 1::2] << 4, steps[..., 0].mT.contiguous(), channels, centre)


def _inverse(steps: Tensor) -> Tensor:
    return torch.where(steps.abs() > LEAST_STEP, 1 / steps, 0.0)


def _away_from_zero(values: Tensor) -> Tensor:
    """Round float32 to bfloat16 so that no magnitude becomes smaller, and none infinite."""
    bits = values.contiguous().view(torch.int32)
    up = ((bits + 0xFFFF) & -0x10000).view(torch.float32)
    return torch.where(up.isfinite(), up, (bits & -0x10000).view(torch.float32)).to(torch.bfloat16)
