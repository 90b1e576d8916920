from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softmaxkit.rounding import leading_one, round_significand, shift_right


@settings(deadline=None)  # the first call imports the array API of torch
@given(st.integers(-(2**50), 2**50), st.integers(-8, 60), st.sampled_from(["nearest", "floor", "ceil"]))
def test_shift_right_rounds_as_fractions_do(code: int, shift: int, rounding: str) -> None:
    exact = Fraction(code) / Fraction(2) ** shift
    expected = {"nearest": round, "floor": math.floor, "ceil": math.ceil}[rounding](exact)
    assert int(shift_right(np.array([code]), shift, rounding)[0]) == expected  # type: ignore[arg-type]
    assert int(shift_right(torch.tensor([code]), torch.tensor([shift]), rounding, least=-8)[0]) == expected  # type: ignore[arg-type]


@given(st.integers(1, 2**61))
def test_leading_one(code: int) -> None:
    assert int(leading_one(np.array([code]))[0]) == code.bit_length() - 1


@given(st.integers(1, 2**50), st.integers(2, 24))
def test_round_significand_is_within_half_a_unit(significand: int, bits: int) -> None:
    rounded, exponent = (int(x[0]) for x in round_significand(np.array([significand]), np.array([0]), bits))
    assert rounded <= 1 << bits
    assert abs(rounded * 2**exponent - significand) * 2 <= 2**exponent * (exponent > 0)
