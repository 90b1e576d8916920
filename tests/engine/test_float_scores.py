"""Conversion of integers to a unit's floats, and of its results to weights, equals golden's for every input."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module, Value

from blocks.bench import check, verilator
from softmaxkit import Exact
from softmaxkit.formats import FP16, Float
from softmaxkit.methods.exact.conversion import fixed_weight, float_code

BITS = 13
CASES = [(number, places) for number in (FP16, Float(4, 3), Float(5, 12)) for places in (0, 4, 17, 30)]
"""Formats, and fraction bits of products that reach the smallest and the largest numbers and go beyond both."""


@pytest.mark.slow
@verilator
def test_every_product_as_a_float_and_every_result_as_a_weight() -> None:
    product = np.arange(-(1 << (BITS - 1)), 1 << (BITS - 1))
    outputs = [(Exact(format=number).scores_of(product, places), number.bits) for number, places in CASES]
    formats = [number for number, places in CASES if places == 0]
    codes = {}
    for number in formats:
        # Codes from 0 to that of 1, evenly spaced: as many as there are products.
        one = number.bias << number.mantissa_bits
        codes[number] = np.linspace(0, one, len(product)).round().astype(np.int64)
        outputs.append((Exact(format=number).weights(codes[number]), 8))

    def build(m: Module, inputs: list[Value]) -> list[Value]:
        floats = [
            float_code(m, f"float_{at}", number, inputs[0].as_signed(), places)
            for at, (number, places) in enumerate(CASES)
        ]
        weights = [fixed_weight(m, f"weight_{at}", number, inputs[1 + at]) for at, number in enumerate(formats)]
        return floats + weights

    inputs = [(product, BITS), *((codes[number], number.bits) for number in formats)]
    check(inputs, outputs, build, [str(case) for case in [*CASES, *formats]])
