"""Codes of a cache of keys and values: 8 bits with a step for each token, or 4 bits with one for every 32 channels."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from softmaxkit.kernels.backends import native
from softmaxkit.kernels.launch import DTYPES

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


def encode(tokens: Tensor, bits: int, centre: Tensor | None = None) -> Cached:
    """Round keys or values to codes, to nearest.

    Args:
        tokens: floating, finite in float32, (batch, key heads, tokens, channels).
        bits: 8 or 4. A step of 8 bits is the 127th part of a token's largest magnitude. Of 4 bits it is the 8th part of
            the largest of its channels, with the sign that makes this one the code -8, and rounded up to bfloat16.
        centre: what is taken from the tokens first, as in `Cached`.

    Raises:
        ValueError: a number is NaN or infinite in float32, or becomes so less the centre.
    """
    kernels = native() if tokens.device.type == "cpu" and tokens.dtype in DTYPES else None
    found = _by_torch(tokens, bits, centre) if kernels is None else _natively(kernels, tokens, bits, centre)
    if found is None:
        raise ValueError("keys and values are finite in float32; codes stand for neither NaN nor infinity")
    return found


def _natively(kernels: ModuleType, tokens: Tensor, bits: int, centre: Tensor | None) -> Cached | None:
    """As `encode`, by a kernel; None where a number is not finite."""
    *places, channels = tokens.shape
    tokens = tokens.detach() if tokens.stride(-1) == 1 else tokens.detach().contiguous()
    if bits == 8:
        codes = torch.empty((*places, channels), dtype=torch.int8)
        steps = torch.empty((*places[:2], 1, places[2]))
    else:
        codes = torch.empty((*places, (channels + 1) // 2), dtype=torch.uint8)
        steps = torch.empty((*places[:2], -(-channels // CHANNELS_OF_STEP), places[2]), dtype=torch.bfloat16)
    finite = getattr(kernels, f"encode{bits}_{DTYPES[tokens.dtype]}")(
        list(tokens.shape),
        tokens.data_ptr(),
        list(tokens.stride()[:3]),
        0 if centre is None else centre.contiguous().data_ptr(),
        codes.data_ptr(),
        list(codes.stride()[:3]),
        steps.data_ptr(),
        list(steps.stride()[:3]),
        torch.get_num_threads(),
    )
    return Cached(codes, steps, channels, centre) if finite else None


def _by_torch(tokens: Tensor, bits: int, centre: Tensor | None) -> Cached | None:
    """As `encode`; None where a number is not finite."""
    wide = tokens.float() if centre is None else tokens.float() - centre
    channels = wide.shape[3]
    if not wide.isfinite().all():
        return None
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
