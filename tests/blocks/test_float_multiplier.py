from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Cat, Const, Module, Value
from bench import Field, check, verilator

from softmaxkit import rounding
from softmaxkit.blocks.float_multiplier import Number, multiply, round_product

SHIFTS = 6
"""Width of a shift, signed."""


def rounded(significand: np.ndarray, exponent: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Round with golden's function, and normalise the highest bit to place `bits - 1`."""
    significand, exponent = rounding.round_significand(significand, exponent, bits)
    missing = bits - 1 - rounding.leading_one(significand)  # -1 where it came back as 2**bits
    return np.where(missing < 0, significand >> 1, significand << np.clip(missing, 0, None)), exponent - missing


def number(significand: np.ndarray, exponent: np.ndarray, bits: int, zero: np.ndarray) -> list[Field]:
    """Return the fields of a number: its fraction, its shift, and whether it is 0."""
    return [(significand, bits), (-exponent - bits, SHIFTS + 7), (zero, 1)]


def signed_number(mantissa: Value, shift: Value, zero: Value) -> Number:
    return Number(Cat(mantissa, Const(1)), shift.as_signed(), zero)


@verilator
@pytest.mark.parametrize("count", [1 << 15, pytest.param(1 << 20, marks=pytest.mark.slow)], ids=["some", "all"])
def test_pairs_of_mantissas(count: int) -> None:
    """Products of two BF16 and of two FP16 significands, rounded and exact; and of three, rounded twice."""
    rng = np.random.default_rng(0)
    pair = rng.permutation(1 << 20)[:count]
    low, high = pair % 1024, pair // 1024
    small, third = [pair % 128, pair // 128 % 128], rng.integers(0, 128, count)
    shifts = rng.integers(-(1 << (SHIFTS - 1)), 1 << (SHIFTS - 1), (3, count))
    zeros = (rng.random((3, count)) < 0.1).astype(np.int64)
    either, any_ = zeros[0] | zeros[1], zeros[0] | zeros[1] | zeros[2]

    exact = (small[0] | 128) * (small[1] | 128), -shifts[0] - shifts[1] - 16
    wide = (low | 1024) * (high | 1024), -shifts[0] - shifts[1] - 22
    first = rounded(*exact, 8)
    second = rounded(first[0] * (third | 128), first[1] - shifts[2] - 8, 8)
    outputs = [
        *number(*first, 8, either),
        *number(*second, 8, any_),
        *number(*rounded(*exact, 16), 16, either),
        *number(*rounded(*wide, 11), 11, either),
        *number(*rounded(*wide, 22), 22, either),
    ]

    def build(m: Module, inputs: list[Value]) -> list[Value]:
        pair, third, *rest = inputs
        shifts, zeros = rest[:3], rest[3:]
        small = [signed_number(*fields) for fields in zip((pair[:7], pair[7:14], third), shifts, zeros, strict=True)]
        large = [signed_number(*fields) for fields in zip((pair[:10], pair[10:]), shifts[:2], zeros[:2], strict=True)]
        exact, wide = multiply(m, "small", *small[:2]), multiply(m, "large", *large)
        first = round_product(m, "first", exact, 8)
        second = round_product(m, "second", multiply(m, "chained", first, small[2]), 8)
        return [
            *first,
            *second,
            *round_product(m, "exact", exact, 24),
            *round_product(m, "large_rounded", wide, 11),
            *round_product(m, "large_exact", wide, 24),
        ]

    inputs = [(pair, 20), (third, 7), *((values, SHIFTS) for values in shifts), *((values, 1) for values in zeros)]
    names = [f"{of}, {part}" for of in ("BF16", "three", "BF16 exact", "FP16", "FP16 exact") for part in Number._fields]
    check(inputs, outputs, build, names)
