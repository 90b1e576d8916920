from __future__ import annotations

from itertools import product
from typing import get_args

import numpy as np
from amaranth.hdl import Module, Value
from bench import Field, check, verilator

from softmaxkit import rounding
from softmaxkit.blocks.shifter import saturate, shift_right

CASES = list(product(range(-3, 9), get_args(rounding.Rounding)))
"""Fraction bits, and rounding."""
SATURATED = (1, 5, 8, 9)


def right(value: np.ndarray, amount: np.ndarray | int, bits: int, point: int, mode: rounding.Rounding) -> Field:
    """Return the results of golden's shift, one bit wider than the integer part if rounding can go up."""
    width = max(bits - point, 1) + (mode != "floor")
    return rounding.shift_right(value, amount + np.full_like(value, point), mode, least=-3), width


@verilator
def test_every_shift_of_every_value() -> None:
    """By a variable amount (8 bits), by a constant one (6 bits), and saturated."""
    value, amount = (grid.ravel() for grid in np.meshgrid(np.arange(256), np.arange(16), indexing="ij"))
    outputs = [right(value, amount, 8, *case) for case in CASES]
    outputs += [right(value % 64, 0, 6, point + 2, mode) for point, mode in CASES]
    outputs += [(np.minimum(value, (1 << bits) - 1), bits) for bits in SATURATED]

    def build(m: Module, inputs: list[Value]) -> list[Value]:
        value, amount = inputs
        results = [
            shift_right(m, f"variable_{at}", value, amount, mode, point) for at, (point, mode) in enumerate(CASES)
        ]
        results += [
            shift_right(m, f"constant_{at}", value[:6], 2, mode, point) for at, (point, mode) in enumerate(CASES)
        ]
        return results + [saturate(m, f"saturated_{bits}", value, bits) for bits in SATURATED]

    check([(value, 8), (amount, 4)], outputs, build, [str(case) for case in [*CASES, *CASES, *SATURATED]])
