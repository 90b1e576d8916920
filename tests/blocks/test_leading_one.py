from __future__ import annotations

import numpy as np
from amaranth.hdl import Module, Value
from bench import check, verilator

from softmaxkit import rounding
from softmaxkit.blocks.leading_one import leading_one

SMALL = 12
WIDTHS = (*range(1, SMALL + 1), 16, 24, 37)


@verilator
def test_every_value_of_small_widths_and_some_of_large_ones() -> None:
    rng = np.random.default_rng(0)
    value = rng.integers(0, 1 << 37, 1 << SMALL) >> rng.integers(0, 38, 1 << SMALL)
    corners = [corner for place in range(37) for corner in (1 << place, (1 << place) - 1, (1 << place) + 1)]
    value[: len(corners)] = corners
    low = np.arange(1 << SMALL)
    outputs, names = [], []
    for width in WIDTHS:
        taken = (low if width <= SMALL else value) % (1 << width)
        position = rounding.leading_one(taken)
        outputs += [(position, max((width - 1).bit_length(), 1)), (taken << (width - 1 - position), width)]
        names += [f"{kind} of {width} bits" for kind in ("position", "normalised")]

    def build(m: Module, inputs: list[Value]) -> list[Value]:
        low, value = inputs
        return [
            output
            for width in WIDTHS
            for output in leading_one(m, f"one_{width}", (low if width <= SMALL else value)[:width])
        ]

    check([(low, SMALL), (value, 37)], outputs, build, names)
