"""Signed numbers are rounded, shifted and saturated as in golden's arithmetic."""

from __future__ import annotations

import numpy as np
from amaranth.hdl import Module, Value, signed
from bench import check, verilator

from softmaxkit.blocks.requantise import round_places, round_shifted, saturate_to
from softmaxkit.formats import Fixed
from softmaxkit.rounding import shift_right

BITS, AMOUNT = 8, 4
PLACES = (0, 1, 2, 5, 8, 11)
SATURATED = (2, 5, 9)


@verilator
def test_every_shift_of_every_value() -> None:
    value, amount = (grid.ravel() for grid in np.meshgrid(np.arange(-128, 128), np.arange(1 << AMOUNT), indexing="ij"))
    outputs = [(shift_right(value, places), BITS + 2) for places in PLACES]
    outputs += [(shift_right(value, amount + places), BITS + 2) for places in PLACES]
    outputs += [(Fixed(bits, 0).saturate(value), bits) for bits in SATURATED]

    def build(m: Module, inputs: list[Value]) -> list[Value]:
        value, amount = inputs[0].as_signed(), inputs[1]
        results = [round_places(m, f"constant_{places}", value, places) for places in PLACES]
        results += [round_shifted(m, f"variable_{places}", value, amount, places) for places in PLACES]
        return results + [saturate_to(m, f"saturated_{bits}", value, signed(bits)) for bits in SATURATED]

    check([(value, BITS), (amount, AMOUNT)], outputs, build, [str(number) for number in (*PLACES, *PLACES, *SATURATED)])
