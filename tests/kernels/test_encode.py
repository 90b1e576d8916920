"""Codes of a cache: their rounding errors, and the native kernel bit-identical to torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from softmaxkit import KeyValueCache
from softmaxkit.kernels import codes
from softmaxkit.kernels.backends import native
from softmaxkit.kernels.codes import Cached, encode

pytestmark = pytest.mark.skipif(native() is None, reason="softmaxkit was installed without its native kernels")


def both(
    tokens: Tensor, bits: int, centre: Tensor | None = None, factor: Tensor | None = None
) -> tuple[Cached, Cached]:
    """Return the codes computed by the kernel and by torch."""
    kernels = native()
    assert kernels is not None
    own, theirs = codes._natively(kernels, tokens, bits, centre, factor), codes._by_torch(tokens, bits, centre, factor)
    assert own is not None
    assert theirs is not None
    return own, theirs


def assert_same(own: Cached, theirs: Cached) -> None:
    assert own.codes.dtype == theirs.codes.dtype
    assert own.steps.dtype == theirs.steps.dtype
    assert torch.equal(own.codes, theirs.codes)
    assert torch.equal(own.steps, theirs.steps)
    assert own.shape == theirs.shape


@pytest.mark.parametrize("bits", codes.BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 5, 31, 32, 33, 64, 80, 129])
@pytest.mark.parametrize("framed", [False, True])
def test_codes_equal_those_of_torch(bits: int, dtype: torch.dtype, channels: int, framed: bool) -> None:
    random = torch.Generator().manual_seed(channels)
    tokens = torch.randn(2, 3, 70, channels, generator=random)
    tokens *= torch.randn(2, 3, 70, 1, generator=random).mul(8).exp2()
    centre = torch.randn(2, 3, 1, channels, generator=random) if framed else None
    factor = torch.randint(0, 9, (2, 3, 1, channels), generator=random).float().exp2() if framed else None
    assert_same(*both(tokens.to(dtype), bits, centre, factor))


@pytest.mark.parametrize("bits", codes.BITS)
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


@pytest.mark.parametrize("bits", codes.BITS)
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


@pytest.mark.parametrize("bits", codes.BITS)
@pytest.mark.parametrize("by_torch", [False, True])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_are_rejected(bits: int, by_torch: bool, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_torch:
        monkeypatch.setattr(codes, "native", lambda: None)
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
        monkeypatch.setattr(codes, "native", lambda: None)
    largest = torch.full((1, 1, 1, 4), torch.finfo(torch.float32).max)
    with pytest.raises(ValueError, match="finite in float32"):
        encode(largest, 4, -largest)


@pytest.mark.parametrize("channels", [1, 7, 32, 64, 80, 129])
def test_rounding_to_codes(channels: int) -> None:
    random = torch.Generator().manual_seed(channels)
    tokens = torch.randn(2, 3, 40, channels, generator=random) * torch.logspace(-20, 20, 40)[:, None]
    tokens[0, 0, 3] = 0.0
    tokens[0, 0, 4] = 3e38
    eight, four = (encode(tokens, bits) for bits in codes.BITS)
    largest = tokens.abs().amax(-1, keepdim=True)
    assert (eight.shape, four.shape) == (tokens.shape, tokens.shape)
    assert ((eight.decoded(torch.float32) - tokens).abs() <= largest * (0.5001 / 127)).all()
    error = (four.decoded(torch.float32) - tokens).abs()
    for first in range(0, channels, codes.CHANNELS_OF_STEP):
        some = slice(first, first + codes.CHANNELS_OF_STEP)
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
    eight, four = ((encode(tokens, bits).decoded(torch.float32) - tokens).square().mean().sqrt() for bits in codes.BITS)
    assert 2**-4 / eight >= 10
    assert 2**-4 <= four <= 15 * eight


def test_rounding_away_from_zero_gives_no_infinity() -> None:
    """Steps are an eighth of a finite number, so the next bfloat16 is finite too."""
    largest = torch.finfo(torch.float32).max
    values = torch.tensor([largest / 8, -largest / 8, 1.0, 1.00001, -1.00001, 0.0, -0.0, 1e-45, math.nan])
    expected = torch.tensor([2.0**125, -(2.0**125), 1.0, 1.0078125, -1.0078125, 0.0, -0.0, 9.2e-41, math.nan])
    assert torch.equal(codes._away_from_zero(values).view(torch.int16), expected.bfloat16().view(torch.int16))
