from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softmaxkit.formats import BF16, FP16, UQ, Fixed, Float, Q, parse_format
from softmaxkit.methods.base.constants import encode_scale

RNG = np.random.default_rng(0)


def test_half_precision_codes_are_those_of_ieee() -> None:
    values = RNG.normal(size=100_000) * np.exp(5 * RNG.normal(size=100_000))
    values = values[(np.abs(values) >= FP16.smallest) & (np.abs(values) < 65504)]
    ieee = values.astype(np.float16)
    assert (FP16.encode(values) == ieee.view(np.uint16)).all()
    assert (FP16.decode(FP16.encode(values)) == ieee.astype(np.float64)).all()


def test_bfloat16_codes_are_those_of_torch() -> None:
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 100
    rounded = values.float().bfloat16()
    exact = values == values.float()  # rounding twice is not rounding once
    values = torch.where(exact, values, values.float().double())
    assert (BF16.encode(values) == (rounded.view(torch.int16).long() & 0xFFFF)).all()


@pytest.mark.parametrize("number", [FP16, BF16, Float(4, 3), Float(2, 1), Float(8, 23)])
def test_every_float_code_survives_the_round_trip(number: Float) -> None:
    codes = np.arange(1 << min(number.bits, 16))
    normal = codes[((codes >> number.mantissa_bits) & ((1 << number.exponent_bits) - 1)) > 0]
    assert (number.encode(number.decode(normal)) == normal).all()
    if number.bits <= 16:
        assert number.decode(codes).max() == number.largest
        assert number.decode(normal)[number.decode(normal) > 0].min() == number.smallest


def test_small_floats_flush_and_saturate() -> None:
    values = np.array([FP16.smallest * 0.499, FP16.smallest * 0.9999, 1e9, -1e9, np.inf, -np.inf, np.nan, -0.0])
    top = FP16.largest
    assert FP16.decode(FP16.encode(values)).tolist() == [0, FP16.smallest, top, -top, top, -top, 0, 0]
    assert FP16.encode(np.array([FP16.smallest * 0.499, -FP16.smallest * 0.499, -0.0])).tolist() == [0, 0, 0]
    # Golden models join numbers that nothing has clipped before.
    wide = FP16.join(np.array([False, True]), np.array([(1 << 12) - 1] * 2), np.array([5, 6]))
    assert FP16.decode(wide).tolist() == [top, -top]


@given(st.floats(-1e6, 1e6), st.integers(-3, 10), st.integers(-3, 12), st.booleans())
def test_fixed_point_is_nearest_or_saturated(value: float, whole: int, fraction: int, signed: bool) -> None:
    if whole + fraction < 1:
        with pytest.raises(ValueError, match="bits wide"):
            Fixed(whole, fraction, signed)
        return
    number = Fixed(whole, fraction, signed)
    code = int(number.encode(np.array([value]))[0])
    expected = min(max(round(Fraction(value) * Fraction(2) ** fraction), number.min_code), number.max_code)
    assert code == expected
    assert int(number.encode(torch.tensor([value], dtype=torch.float64))[0]) == expected


def test_formats_print_and_parse() -> None:
    for number in (Q(6, 2), UQ(1, 15), UQ(-2, 8), Float(4, 3), FP16):
        assert parse_format(str(number)) == number
    assert parse_format("bf16") == BF16


@pytest.mark.parametrize("text", ["Q(6;2)", "", "Q(0,0)", "UQ(20,20)", "Float(9,2)", "int8"])
def test_bad_formats_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"format|bits"):
        parse_format(text)


def test_zero_width_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"Q\(0,0\) is 0 bits wide; a fixed-point format has 1 to 32 bits"):
        Q(0, 0)


@given(st.floats(1e-6, 1e6))
def test_scales_keep_sixteen_bits(scale: float) -> None:
    mantissa, exponent = encode_scale(scale)
    assert abs(mantissa * 2.0**exponent / scale - 1) <= 2.0**-16
    assert encode_scale(mantissa * 2.0**exponent) == (mantissa, exponent)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scales_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="positive, finite"):
        encode_scale(scale)
