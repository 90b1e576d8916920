"""Quantisation of keys and values to the codes of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from softmaxkit.kernels.backends import is_traced, native
from softmaxkit.kernels.codes import CHANNELS_OF_STEP, LEAST_STEP, Cached, batch_stride
from softmaxkit.kernels.launch import DTYPES, address, side_by_side, untraced


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
    return (_encode_on_cpu if tokens.is_cpu else _by_torch)(tokens, bits, centre, factor)


def encode_into(held: Cached, begin: int, tokens: Tensor) -> None:
    """Encode keys or values into codes that have room for them from token `begin` on, in their frame.

    Raises:
        ValueError: as `encode`; the codes from there on are then arbitrary.
    """
    if tokens.is_cpu:
        _encode_into_on_cpu(held, begin, tokens)
    else:
        _put(held, begin, _by_torch(tokens, held.bits, held.centre, held.factor))


def encode_into_slots(pool: Cached, slots: Tensor, tokens: Tensor) -> None:
    """Encode keys or values into slots of a pool of pages, in its frame.

    Args:
        pool: codes, (pages, key heads, tokens per page, ...).
        slots: int64, (tokens,), on the device of the pool; a slot is a page times the tokens per page, plus a place.
        tokens: as in `encode`, (1, key heads, tokens, channels); on the CPU, finite as `check_finite` requires.
    """
    if tokens.is_cpu:
        _encode_into_slots_on_cpu(pool, slots, tokens)
    else:
        _put_into_slots(pool, slots, _by_torch(tokens, pool.bits, pool.centre, pool.factor))


def pages_of(slots: Tensor, pool: Cached) -> tuple[Tensor, Tensor]:
    """Return the page of every slot of a pool, and its place in the page."""
    block_size = pool.codes.shape[2]
    return slots // block_size, slots % block_size


@untraced
def check_finite(tokens: Tensor, frame: Cached) -> None:
    """Check, on the CPU, that keys or values can be encoded in a frame.

    Raises:
        ValueError: as `encode`.
    """
    if tokens.device.type != "cpu":
        return
    if (kernels := _kernels_for(tokens)) is not None:
        is_finite = _natively(kernels, tokens, frame.bits, frame.centre, frame.factor)
    else:
        is_finite = bool(_framed(tokens, frame.centre, frame.factor).isfinite().all())
    _require(is_finite)


@untraced
def _encode_on_cpu(tokens: Tensor, bits: int, centre: Tensor | None, factor: Tensor | None) -> Cached:
    if (kernels := _kernels_for(tokens)) is None:
        encoded = _by_torch(tokens, bits, centre, factor)
        _require(not encoded.steps.isnan().any())
        return encoded
    *places, channels = tokens.shape
    if bits == 8:
        codes = tokens.new_empty((*places, channels), dtype=torch.int8)
        steps = tokens.new_empty((*places[:2], 1, places[2]), dtype=torch.float32)
    else:
        codes = tokens.new_empty((*places, (channels + 1) // 2), dtype=torch.uint8)
        groups = -(-channels // CHANNELS_OF_STEP)
        steps = tokens.new_empty((*places[:2], groups, places[2]), dtype=torch.bfloat16)
    _require(_natively(kernels, tokens, bits, centre, factor, codes, steps))
    return Cached(codes, steps, channels, centre, factor)


@untraced
def _encode_into_on_cpu(held: Cached, begin: int, tokens: Tensor) -> None:
    if (kernels := _kernels_for(tokens)) is None:
        _put(held, begin, encode(tokens, held.bits, held.centre, held.factor))
        return
    _require(_natively(kernels, tokens, held.bits, held.centre, held.factor, held.codes, held.steps, begin))


@untraced
def _encode_into_slots_on_cpu(pool: Cached, slots: Tensor, tokens: Tensor) -> None:
    if (kernels := _kernels_for(tokens)) is None:
        _put_into_slots(pool, slots, encode(tokens, pool.bits, pool.centre, pool.factor))
    else:
        _natively(
            kernels, tokens, pool.bits, pool.centre, pool.factor, pool.codes, pool.steps, slots=slots.contiguous()
        )


def _put(held: Cached, begin: int, new: Cached) -> None:
    end = begin + new.shape[2]
    held.codes[:, :, begin:end], held.steps[..., begin:end] = new.codes, new.steps


def _put_into_slots(pool: Cached, slots: Tensor, new: Cached) -> None:
    pages, places = pages_of(slots, pool)
    pool.codes[pages, :, places] = new.codes[0].transpose(0, 1)
    pool.steps[pages, :, :, places] = new.steps[0].permute(2, 0, 1)


def _require(is_finite: bool) -> None:
    if not is_finite:
        raise ValueError("keys and values must be finite in float32: codes represent neither NaN nor infinity")


def _kernels_for(tokens: Tensor) -> ModuleType | None:
    return native() if tokens.dtype in DTYPES and not is_traced() else None


def _natively(
    kernels: ModuleType,
    tokens: Tensor,
    bits: int,
    centre: Tensor | None,
    factor: Tensor | None,
    codes: Tensor | None = None,
    steps: Tensor | None = None,
    begin: int = 0,
    slots: Tensor | None = None,
) -> bool:
    """Encode with a native kernel into codes and steps, if there are any; return False if a number is not finite.

    They are those of token `begin` and later ones, or of slots.
    """
    tokens = side_by_side(tokens)
    centre, factor = (None if x is None else x.contiguous() for x in (centre, factor))
    is_finite: bool = getattr(kernels, f"encode{bits}_{DTYPES[tokens.dtype]}")(
        tokens.shape,
        address(tokens),
        tokens.stride()[:3],
        address(centre),
        address(factor),
        batch_stride(centre, factor),
        *_from_token(begin, codes, 2),
        *_from_token(begin, steps, 3),
        address(slots),
        1 if codes is None else codes.shape[2],
        torch.get_num_threads(),
    )
    return is_finite


def _from_token(begin: int, held: Tensor | None, axis: int) -> tuple[int, Sequence[int]]:
    """Return the address of a token in codes or steps, with tokens along an axis, and their first three strides."""
    if held is None:
        return 0, (0, 0, 0)
    strides = held.stride()
    return address(held) + begin * strides[axis] * held.element_size(), strides[:3]


def _framed(tokens: Tensor, centre: Tensor | None, factor: Tensor | None) -> Tensor:
    wide = tokens.float() if centre is None else tokens.float() - centre
    return wide if factor is None else wide / factor


def _by_torch(tokens: Tensor, bits: int, centre: Tensor | None, factor: Tensor | None) -> Cached:
    """Encode with torch; numbers that are not finite get a step of NaN."""
    wide = _framed(tokens, centre, factor)
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
