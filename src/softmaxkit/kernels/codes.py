"""Codes of a cache of keys and values: 8 bits with a step for each token, or 4 bits with one for every 32 channels."""

from __future__ import annotations

from dataclasses import dataclass, field
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
OUTLIER = {8: 4, 4: 8}
"""By bits, times the middle channel's size from which on a channel of keys is an outlier. In models, those that are a
little larger have larger queries, too, and would lose more by a factor than others gain; of 4 bits most, where 32
channels alone share a step (`benchmarks/cache_accuracy.py`)."""
SEEN_BEFORE = 4
"""Tokens in which a channel counts as having been as large as the middle one: few tokens say little of a channel."""
LARGEST_FACTOR = 24
"""As a power of 2; the other channels' share of a score beside one so large is beyond float32."""
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
        factor: float32, likewise, powers of 2 that multiply codes times steps; None for 1. See `frame`.
    """

    codes: Tensor
    steps: Tensor
    channels: int
    centre: Tensor | None = None
    factor: Tensor | None = None

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
        about = self._about_centre() * (1.0 if self.factor is None else self.factor)
        return (about + (0.0 if self.centre is None else self.centre)).to(dtype)

    def taken_up(self, query: Tensor) -> Tensor:
        """Return queries, (batch, heads, queries, channels), times the factors of their keys: exact, if finite."""
        if self.factor is None:
            return query
        wide = query.float() if query.dtype == torch.float16 else query  # whose range factors may well pass
        return wide * self.factor.repeat_interleave(query.shape[1] // self.factor.shape[1], dim=1).to(wide.dtype)

    def shifts(self, query: Tensor) -> Tensor | None:
        """Return what the centre adds to all products of a query, float32, (batch, heads, queries); None for 0."""
        if self.centre is None:
            return None
        centre = self.centre.repeat_interleave(query.shape[1] // self.centre.shape[1], dim=1)
        return (query.float() * centre).sum(-1)

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
        factor: likewise.
        table: int32 or int64, (sequences, pages of the longest), which pages a sequence has, in order. All are
            checked to be among the pages, except where a kernel of GPUs reads them, which checks them itself.
        tokens: of the longest sequence, or more.
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
        return Cached(codes, steps, self.channels, self.centre, self.factor).decoded(dtype)


def frame(keys: Tensor, bits: int) -> tuple[Tensor | None, Tensor | None]:
    """Return the centre and the factors of keys to come, from the first that came.

    Codes of 4 bits are set about the mean. A channel whose root mean square, about the centre, is r times that of the
    head's middle channel, and r no less than `OUTLIER`, is divided by the largest power of 2 up to r/2: so that it is 2
    to 4 times the middle one, and a token's step at most twice that of ordinary channels. Queries are multiplied
    instead. Where they are as much smaller in that channel, it costs scores nothing more; where they are not, its own
    error is to its share of the scores no more than those of other channels are to theirs.

    Args:
        keys: floating, (batch, key heads, tokens, channels), one token or more.
        bits: of their codes.

    Returns:
        centre and factors, as in `Cached`.

    Source: as SmoothQuant, arXiv 2211.10438, section 4, has activations and weights; of keys and queries QServe, arXiv
    2405.04532, section 4.2.
    """
    wide = keys.float()
    centre = wide.mean(2, keepdim=True) if bits == 4 else None
    if keys.shape[3] == 0:
        return centre, None
    rest = wide if centre is None else wide - centre
    largest = rest.abs().amax(2, keepdim=True)  # whose square may be no float32
    sizes = largest * (rest / largest.clamp(min=LEAST_STEP)).square().mean(2, keepdim=True).sqrt()
    middle = sizes.masked_fill(sizes == 0, torch.nan).nanmedian(-1, keepdim=True).values
    tokens = keys.shape[2]
    squares = ((sizes / middle).square() * tokens + SEEN_BEFORE) / (tokens + SEEN_BEFORE)
    ratio = squares.sqrt()
    powers = (ratio.log2() - 1).floor().clamp(0, LARGEST_FACTOR).where(ratio >= OUTLIER[bits], 0.0)
    return centre, torch.ldexp(torch.ones_like(powers), powers) if powers.any() else None


def encode(tokens: Tensor, bits: int, centre: Tensor | None = None, factor: Tensor | None = None) -> Cached:
    """Round keys or values to codes, to nearest.

    Args:
        tokens: floating, finite in float32, (batch, key heads, tokens, channels).
        bits: 8 or 4. A step of 8 bits is the 127th part of a token's largest magnitude. Of 4 bits it is the 8th part of
            the largest of its channels, with the sign that makes this one the code -8, and rounded up to bfloat16.
        centre: what is taken from the tokens first, as in `Cached`.
        factor: what they are then divided by, as in `Cached`.

    Raises:
        ValueError: on the CPU, a number is NaN or infinite in float32, or becomes so less the centre. Elsewhere, where
            it would take a wait to know, it gets a step of NaN: whoever attends to it gets NaN.
    """
    is_on_cpu = tokens.device.type == "cpu"
    kernels = native() if is_on_cpu and tokens.dtype in DTYPES else None
    encoded: Cached | None
    if kernels is None:
        encoded = _by_torch(tokens, bits, centre, factor)
        if is_on_cpu and encoded.steps.isnan().any():
            encoded = None
    else:
        encoded = _natively(kernels, tokens, bits, centre, factor)
    if encoded is None:
        raise ValueError("keys and values are finite in float32; codes stand for neither NaN nor infinity")
    return encoded


def _natively(
    kernels: ModuleType, tokens: Tensor, bits: int, centre: Tensor | None, factor: Tensor | None
) -> Cached | None:
    """As `encode`, by a kernel; None where a number is not finite."""
    *places, channels = tokens.shape
    tokens = tokens.detach() if tokens.stride(-1) == 1 else tokens.detach().contiguous()
    if bits == 8:
        codes = torch.empty((*places, channels), dtype=torch.int8)
        steps = torch.empty((*places[:2], 1, places[2]))
    else:
        codes = torch.empty((*places, (channels + 1) // 2), dtype=torch.uint8)
        steps = torch.empty((*places[:2], -(-channels // CHANNELS_OF_STEP), places[2]), dtype=torch.bfloat16)
    frame = [None if x is None else x.expand(*places[:2], 1, channels).contiguous() for x in (centre, factor)]
    finite = getattr(kernels, f"encode{bits}_{DTYPES[tokens.dtype]}")(
        list(tokens.shape),
        tokens.data_ptr(),
        list(tokens.stride()[:3]),
        *(0 if x is None else x.data_ptr() for x in frame),
        codes.data_ptr(),
        list(codes.stride()[:3]),
        steps.data_ptr(),
        list(steps.stride()[:3]),
        torch.get_num_threads(),
    )
    return Cached(codes, steps, channels, centre, factor) if finite else None


def _by_torch(tokens: Tensor, bits: int, centre: Tensor | None, factor: Tensor | None) -> Cached:
    """As `encode`, with steps of NaN for numbers that are not finite."""
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
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))  # NaN is the largest
    steps = _away_from_zero(largest / -8)
    codes = (groups * _inverse(steps.float())).round().nan_to_num(0.0).clamp(-8, 7).add(8).to(torch.uint8).flatten(-2)
    codes = codes[..., : channels + channels % 2]
    return Cached(codes[..., 0::2] | codes[..., 1::2] << 4, steps[..., 0].mT.contiguous(), channels, centre, factor)


def _inverse(steps: Tensor) -> Tensor:
    return torch.where(steps.abs() > LEAST_STEP, 1 / steps, 0.0)


def _away_from_zero(values: Tensor) -> Tensor:
    """Round float32 to bfloat16 so that no magnitude becomes smaller, and none infinite."""
    bits = values.contiguous().view(torch.int32)
    up = ((bits + 0xFFFF) & -0x10000).view(torch.float32)
    rounded = torch.where(up.isfinite(), up, (bits & -0x10000).view(torch.float32))
    return torch.where(values.isnan(), torch.nan, rounded).to(torch.bfloat16)
