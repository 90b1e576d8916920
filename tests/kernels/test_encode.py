"""Codes of a cache: their rounding errors, and the native kernel bit-identical to torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmaxkit import KeyValueCache
from softmaxkit.kernels import launch
from softmaxkit.kernels.backends import native
from softmaxkit.kernels.codes import BITS, CHANNELS_OF_STEP, Cached
from softmaxkit.kernels.encode import (
    _away_from_zero,
    _by_torch,
    check_finite,
    encode,
    encode_into,
    encode_into_slots,
)

pytestmark = pytest.mark.skipif(native() is None, reason="softmaxkit was installed without its native kernels")


def both(
    tokens: Tensor, bits: int, centre: Tensor | None = None, factor: Tensor | None = None
) -> tuple[Cached, Cached]:
    """Return the codes computed by the kernel and by torch."""
    return encode(tokens, bits, centre, factor), _by_torch(tokens, bits, centre, factor)


def assert_same(own: Cached, theirs: Cached) -> None:
    assert own.codes.dtype == theirs.codes.dtype
    assert own.steps.dtype == theirs.steps.dtype
    assert torch.equal(own.codes, theirs.codes)
    assert torch.equal(own.steps, theirs.steps)
    assert own.shape == theirs.shape


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", launch.DTYPES)
@pytest.mark.parametrize("channels", [1, 5, 31, 32, 33, 64, 80, 129])
@pytest.mark.parametrize("framed", [False, True])
def test_codes_equal_those_of_torch(bits: int, dtype: torch.dtype, channels: int, framed: bool) -> None:
    random = torch.Generator().manual_seed(channels)
    tokens = torch.randn(2, 3, 70, channels, generator=random)
    tokens *= torch.randn(2, 3, 70, 1, generator=random).mul(8).exp2()
    centre = torch.randn(2, 3, 1, channels, generator=random) if framed else None
    factor = torch.randint(0, 9, (2, 3, 1, channels), generator=random).float().exp2() if framed else None
    largest = torch.finfo(dtype).max
    assert_same(*both(tokens.clamp(-largest, largest).to(dtype), bits, centre, factor))


@pytest.mark.parametrize("bits", BITS)
def test_any_strides_and_no_tokens(bits: int) -> None:
    tokens = torch.randn(2, 40, 3, 48, generator=torch.Generator().manual_seed(0))
    for view in (
        tokens.transpose(1, 2),
        tokens.transpose(1, 2)[:, :, ::3, 4:41],
        tokens.transpose(2, 3),
        tokens[:, :1].expand(2, 5, 3, 48),
        tokens[:, :, :0],
        tokens[..., :0],
        tokens[:0],
    ):
        assert_same(*both(view, bits))


@pytest.mark.parametrize("bits", BITS)
def test_extreme_values(bits: int) -> None:
    """Ties between codes and between signs, zeros, steps without a finite inverse, subnormal and largest values."""
    rows = [
        torch.arange(-16.0, 16.0),
        torch.arange(16.0, -16.0, -1) / 2,
        torch.tensor([127.0, -127.0, *(index + 0.5 for index in range(30))]),
        torch.tensor([-8.0, 8.0, *(index / 2 for index in range(-15, 15))]),
        torch.tensor([8.0, -8.0, *(index / 2 for index in range(-15, 15))]),
        torch.zeros(32),
        torch.full((32,), -0.0),
        torch.full((32,), 1e-28),
        torch.full((32,), -1e-29),
        torch.full((32,), 1e-40),
        torch.full((32,), torch.finfo(torch.float32).max),
        torch.linspace(-1, 1, 32) * torch.finfo(torch.float32).max,
    ]
    assert_same(*both(torch.stack(rows)[None, None], bits))


def codes_in_a_frame(bits: int, heads: int, channels: int) -> Cached:
    """Return codes of 96 tokens in some frame, (2, heads, 96, channels)."""
    random = torch.Generator().manual_seed(bits)
    centre = torch.randn(1, heads, 1, channels, generator=random)
    return encode(torch.randn(2, heads, 96, channels, generator=random), bits, centre, 2 * torch.ones_like(centre))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("by_torch", [False, True])
def test_codes_are_written_where_there_is_room(bits: int, by_torch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    held = codes_in_a_frame(bits, 3, 40)
    tokens = torch.randn(2, 5, 3, 40, generator=torch.Generator().manual_seed(9)).transpose(1, 2)
    if by_torch:
        monkeypatch.setattr("softmaxkit.kernels.encode.native", lambda: None)
    codes, steps = held.codes.clone(), held.steps.clone()
    new = _by_torch(tokens, bits, held.centre, held.factor)
    codes[:, :, 70:75], steps[..., 70:75] = new.codes, new.steps
    encode_into(held, 70, tokens)
    assert torch.equal(held.codes, codes)
    assert torch.equal(held.steps, steps)
    with pytest.raises(ValueError, match="keys and values must be finite in float32"):
        encode_into(held, 0, torch.full_like(tokens, math.inf))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("by_torch", [False, True])
def test_codes_are_written_into_slots_of_pages(bits: int, by_torch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = codes_in_a_frame(bits, 3, 40)  # two pages of 96 tokens
    tokens = torch.randn(1, 4, 3, 40, generator=torch.Generator().manual_seed(9)).transpose(1, 2)
    if by_torch:
        monkeypatch.setattr("softmaxkit.kernels.encode.native", lambda: None)
    codes, steps = pool.codes.clone(), pool.steps.clone()
    new = _by_torch(tokens, bits, pool.centre, pool.factor)
    slots = torch.tensor([[191, 0], [5, 1], [96, 2], [7, 3]])[:, 0]
    for token, (page, place) in enumerate([(1, 95), (0, 5), (1, 0), (0, 7)]):
        codes[page, :, place], steps[page, ..., place] = new.codes[0, :, token], new.steps[0, ..., token]
    encode_into_slots(pool, slots, tokens)
    assert torch.equal(pool.codes, codes)
    assert torch.equal(pool.steps, steps)


@pytest.mark.parametrize("by_torch", [False, True])
def test_what_cannot_be_encoded_is_known_before(by_torch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = codes_in_a_frame(4, 3, 40)
    codes, steps = pool.codes.clone(), pool.steps.clone()
    if by_torch:
        monkeypatch.setattr("softmaxkit.kernels.encode.native", lambda: None)
    tokens = torch.randn(1, 3, 4, 40, generator=torch.Generator().manual_seed(9))
    check_finite(tokens, pool)
    for bad in (math.nan, math.inf):
        tokens[0, 2, 3, 39] = bad
        with pytest.raises(ValueError, match="keys and values must be finite in float32"):
            check_finite(tokens, pool)
    assert torch.equal(pool.codes, codes)
    assert torch.equal(pool.steps, steps)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("by_torch", [False, True])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_are_rejected(bits: int, by_torch: bool, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_torch:
        monkeypatch.setattr("softmaxkit.kernels.encode.native", lambda: None)
    tokens = torch.ones(1, 2, 3, 33)
    cache = KeyValueCache(tokens, tokens, bits)
    for channel in (0, 32):
        broken = tokens.clone()
        broken[0, 1, 2, channel] = bad
        for pair in ((broken, tokens), (tokens, broken)):
            with pytest.raises(ValueError, match="finite in float32"):
                cache.append(*pair)
    assert len(cache) == 3
    assert torch.equal(cache.keys, KeyValueCache(tokens, tokens, bits).keys)


@pytest.mark.parametrize("by_torch", [False, True])
def test_a_difference_beyond_float32_is_rejected(by_torch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_torch:
        monkeypatch.setattr("softmaxkit.kernels.encode.native", lambda: None)
    largest = torch.full((1, 1, 1, 4), torch.finfo(torch.float32).max)
    with pytest.raises(ValueError, match="finite in float32"):
        encode(largest, 4, -largest)


@pytest.mark.parametrize("channels", [1, 7, 32, 64, 80, 129])
def test_rounding_to_codes(channels: int) -> None:
    random = torch.Generator().manual_seed(channels)
    tokens = torch.randn(2, 3, 40, channels, generator=random) * torch.logspace(-20, 20, 40)[:, None]
    tokens[0, 0, 3] = 0.0
    tokens[0, 0, 4] = 3e38
    eight, four = (encode(tokens, bits) for bits in BITS)
    largest = tokens.abs().amax(-1, keepdim=True)
    assert (eight.shape, four.shape) == (tokens.shape, tokens.shape)
    assert ((eight.decoded(torch.float32) - tokens).abs() <= largest * (0.5001 / 127)).all()
    error = (four.decoded(torch.float32) - tokens).abs()
    for first in range(0, channels, CHANNELS_OF_STEP):
        some = slice(first, first + CHANNELS_OF_STEP)
        most = tokens[..., some].abs().amax(-1, keepdim=True)
        # Half a step of 1/8, which rounding up to bfloat16 enlarges by 2^-7 at most; a whole step for channels that are
        # as large as the largest but have the other sign.
        opposite = tokens[..., some].abs() > 0.93 * most
        assert (error[..., some] <= most / 8 * (1 + 2**-7) * torch.where(opposite, 1.0, 0.5) + 1e-30).all()


def test_error_of_4_bits_compared_with_8() -> None:
    """Normally distributed values err by 15 times as much; no 4-bit code could bring that below 1/16 of sigma.

    This limit, sigma * 2^-bits, is the rate-distortion function of a normal source, and 10 times the error of 8 bits.
    """
    tokens = torch.randn(1, 8, 500, 64, generator=torch.Generator().manual_seed(0))
    eight, four = ((encode(tokens, bits).decoded(torch.float32) - tokens).square().mean().sqrt() for bits in BITS)
    assert 2**-4 / eight >= 10
    assert 2**-4 <= four <= 15 * eight


def test_rounding_away_from_zero_gives_no_infinity() -> None:
    """Steps are an eighth of a finite number, so the next bfloat16 is finite too."""
    largest = torch.finfo(torch.float32).max
    values = torch.tensor([largest / 8, -largest / 8, 1.0, 1.00001, -1.00001, 0.0, -0.0, 1e-45, math.nan])
    expected = torch.tensor([2.0**125, -(2.0**125), 1.0, 1.0078125, -1.0078125, 0.0, -0.0, 9.2e-41, math.nan])
    assert torch.equal(_away_from_zero(values).view(torch.int16), expected.bfloat16().view(torch.int16))
