"""Codes of a key-value cache: 8 bits with one step per token, or 4 bits with one step per 32 channels of a token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from softmaxkit.kernels.backends import is_traced, native
from softmaxkit.kernels.launch import DTYPES, address, untraced

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
        return wide * self.factor.repeat_interleave(query.shape[1] // self.factor.shape[1], dim=1).to(wide.dtype)

    def shifts(self, query: Tensor) -> Tensor | None:
        """Return what the centre adds to every product of a query, float32, (batch, heads, queries); None for 0."""
        if self.centre is None:
            return None
        centre = self.centre.repeat_interleave(query.shape[1] // self.centre.shape[1], dim=1)
        return (query.float() * centre).sum(-1)

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


def ordinary(tensor: Tensor) -> Tensor:
    """Return the tensor, or a clone of one made in inference mode: such a one cannot be written to elsewhere."""
    with torch.inference_mode(False):
        return tensor.clone() if tensor.is_inference() else tensor


def encode(tokens: Tensor, bits: int, centre: Tensor | None = None, factor: Tensor | None = None) -> Cached:
    """Encode keys or values, rounding to nearest.

    Args:
        tokens: floating-point, finite in float32, (batch, key heads, tokens, channels).
        bits: 8 or 4. With 8 bits, a step is 1/127 of the token's largest magnitude. With 4 bits it is 1/8 of the
            largest in its group of channels, signed so that this one has code -8, and rounded up to bfloat16.
        centre: subtracted from the tokens first, as in `Cached`.
        factor: divides the difference, as in `Cached`.

    Raises:
        ValueError: on the CPU, a number is NaN or infinite in float32, or becomes so when the centre is subtracted. On
            other devices a check would have to synchronise: the step is NaN instead, as is attention to the token.
    """
    return (_encode_on_cpu if tokens.device.type == "cpu" else _by_torch)(tokens, bits, centre, factor)


@untraced
def _encode_on_cpu(tokens: Tensor, bits: int, centre: Tensor | None, factor: Tensor | None) -> Cached:
    kernels = native() if tokens.dtype in DTYPES and not is_traced() else None
    encoded: Cached | None
    if kernels is None:
        encoded = _by_torch(tokens, bits, centre, factor)
        encoded = None if encoded.steps.isnan().any() else encoded
    else:
        encoded = _natively(kernels, tokens, bits, centre, factor)
    if encoded is None:
        raise ValueError("keys and values must be finite in float32: codes represent neither NaN nor infinity")
    return encoded


def _natively(
    kernels: ModuleType, tokens: Tensor, bits: int, centre: Tensor | None, factor: Tensor | None
) -> Cached | None:
    """Encode with a native kernel; return None if a number is not finite."""
    *places, channels = tokens.shape
    tokens = tokens.detach() if tokens.stride(-1) == 1 else tokens.detach().contiguous()
    if bits == 8:
        codes = tokens.new_empty((*places, channels), dtype=torch.int8)
        steps = tokens.new_empty((*places[:2], 1, places[2]), dtype=torch.float32)
    else:
        codes = tokens.new_empty((*places, (channels + 1) // 2), dtype=torch.uint8)
        groups = -(-channels // CHANNELS_OF_STEP)
        steps = tokens.new_empty((*places[:2], groups, places[2]), dtype=torch.bfloat16)
    frame = [None if x is None else x.expand(*places[:2], 1, channels).contiguous() for x in (centre, factor)]
    finite = getattr(kernels, f"encode{bits}_{DTYPES[tokens.dtype]}")(
        list(tokens.shape),
        address(tokens),
        list(tokens.stride()[:3]),
        *(address(x) for x in frame),
        address(codes),
        list(codes.stride()[:3]),
        address(steps),
        list(steps.stride()[:3]),
        torch.get_num_threads(),
    )
    return Cached(codes, steps, channels, centre, factor) if finite else None


def _by_torch(tokens: Tensor, bits: int, centre: Tensor | None, factor: Tensor | None) -> Cached:
    """Encode with torch; numbers that are not finite get a step of NaN."""
    wide = tokens.float() if centre is None else tokens.float() - centre
    wide = wide if factor is None else wide / factor
    channels = wide.shape[3]
    wide = torch.where(wide.isfinite(), wide, torch.nan)
    if bits == 8:
        steps = wide.abs().amax(-1, keepdim=True) / 127 if channels else wide.new_zeros((*wide.shape[:3], 1))
        codes = (wide * _inverse(steps)).round().nan_to_num(0.0).to(torch.int8)
        return Cached(codes, steps.mT.contiguous(), channels, centre, factor)
    padded = functional.pad(wide, (0, -channels % CHANNELS_OF_STEP))
    groups = padded.unflatten(-1, (padded.shape[3] // CHANNELS_OF_STEP, CHANNELS_OF_STEP))
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))  # argmax prefers NaN
    steps = _away_from_zero(largest / -8)
    codes = (groups * _inverse(steps.float())).round().nan_to_num(0.0).clamp(-8, 7).add(8).to(torch.uint8).flatten(-2)
    codes = codes[..., : channels + channels % 2]
    return Cached(codes[..., 0::2] | codes[..., 1::2] << 4, steps[..., 0].mT.contiguous(), channels, centre, factor)


def _inverse(steps: Tensor) -> Tensor:
    return torch.where(steps.abs() > LEAST_STEP, 1 / steps, 0.0)


def _away_from_zero(values: Tensor) -> Tensor:
    """Round float32 to bfloat16 away from zero. NaN stays NaN; an eighth of a finite number stays finite."""
    rounded = ((values.contiguous().view(torch.int32) + 0xFFFF) & -0x10000).view(torch.float32)
    return torch.where(values.isnan(), torch.nan, rounded).to(torch.bfloat16)
