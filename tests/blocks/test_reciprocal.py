from __future__ import annotations

from itertools import product
from typing import get_args

import numpy as np
from amaranth.hdl import Module, Value
from bench import check, verilator

from softmaxkit.blocks.piecewise_linear import line, round_line
from softmaxkit.blocks.reciprocal import normalise
from softmaxkit.formats import Rounding
from softmaxkit.tables import Reciprocal

COUNT = 1 << 12
WIDTHS = (1, 2, 7, 12, 30, 40)
CASES = [
    *product((12,), (Reciprocal(1, 8), Reciprocal(4, 6), Reciprocal(8, 3), Reciprocal(16, 15)), get_args(Rounding)),
    *product((1, 2, 7, 30, 40), (Reciprocal(4, 6), Reciprocal(16, 10)), ("nearest",)),
]
"""Bits of the divisor, which reciprocal, and its rounding."""


@verilator
def test_every_divisor_of_12_bits_and_some_of_more() -> None:
    rng = np.random.default_rng(0)
    low, high = np.arange(COUNT), rng.integers(0, 1 << 40, COUNT) >> rng.integers(0, 41, COUNT)
    corners = [0, *(each for place in range(40) for each in (1 << place, (2 << place) - 1, (1 << place) | 1))]
    high[: len(corners)] = corners
    outputs, names = [], []
    for bits, reciprocal, rounding in CASES:
        divisor = (low if bits <= 12 else high) % (1 << bits)
        mantissa, exponent = reciprocal(divisor, rounding)
        outputs += [(mantissa, reciprocal.mantissa_bits + 2), (exponent, max((bits - 1).bit_length(), 1))]
        names += [f"{part} of {bits} bits, {reciprocal}, {rounding}" for part in ("mantissa", "exponent")]

    def build(m: Module, inputs: list[Value]) -> list[Value]:
        low, high = inputs
        found = []
        for at, (bits, reciprocal, rounding) in enumerate(CASES):
            divisor = (low if bits <= 12 else high)[:bits]
            argument, exponent = normalise(m, f"normal_{at}", reciprocal, divisor)
            value = line(m, f"line_{at}", reciprocal.table, argument, rounding)
            found += [round_line(m, f"mantissa_{at}", reciprocal.table, value, rounding), exponent]
        return found

    check([(low, 12), (high, 40)], outputs, build, names)
