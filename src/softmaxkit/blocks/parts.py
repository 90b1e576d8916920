"""Parts of a unit that are small enough to test exhaustively, with their expected results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from amaranth.hdl import Cat, Const, Module, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.float_multiplier import Number, multiply, round_product
from softmaxkit.blocks.piecewise_linear import line, round_line
from softmaxkit.blocks.pipeline import Pipeline, resized
from softmaxkit.formats import Float
from softmaxkit.rounding import Rounding, leading_one, round_significand
from softmaxkit.tables import PiecewiseLinear

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Part:
    """A combinational part, all of its possible inputs, and the results that golden's arithmetic gives for them.

    Attributes:
        name: shown in messages.
        build: adds the part to a module; takes and returns an unsigned value.
        input_bits, output_bits: widths of that input and output.
        inputs, expected: every input and its result; int64, (inputs,).
    """

    name: str
    build: Callable[[Module, Value], Value]
    input_bits: int
    output_bits: int
    inputs: NDArray[np.int64]
    expected: NDArray[np.int64]


class Streamed(wiring.Component):
    """A part between two streams named `scores` and `results`, so that it can be driven like a unit."""

    def __init__(self, part: Part) -> None:
        self.part = part
        super().__init__(
            {"scores": In(stream.Signature(part.input_bits)), "results": Out(stream.Signature(part.output_bits))}
        )

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        pipe = Pipeline(m, "part", self.scores.valid, self.results, ())
        m.d.comb += self.scores.ready.eq(pipe.advance)
        pipe.finish(resized(self.part.build(m, self.scores.payload), self.part.output_bits))
        return m


def table_part(name: str, table: PiecewiseLinear, rounding: Rounding = "nearest") -> Part:
    """Return the evaluation of a piecewise-linear table, with every argument."""

    def build(m: Module, argument: Value) -> Value:
        return round_line(m, "value", table, line(m, "line", table, argument, rounding), rounding)

    inputs = np.arange(1 << table.input_bits)
    expected = np.asarray(table(inputs, rounding), np.int64)
    return Part(name, build, max(table.input_bits, 1), int(expected.max()).bit_length(), inputs, expected)


def multiplier_part(number: Float, bits: int) -> Part:
    """Return the float multiplier, with every pair of mantissas; products are rounded to `bits` significant bits."""
    width = number.mantissa_bits
    whole, kept = 2 * width + 2, min(bits, 2 * width + 2)
    inputs = np.arange(1 << (2 * width))
    one = 1 << width
    exact = (one | (inputs & (one - 1))) * (one | (inputs >> width))
    rounded, exponent = round_significand(exact, np.zeros_like(exact), bits)
    value = rounded << exponent
    leading = leading_one(value)
    # The bits shifted out are all 0.
    fraction = (value << 2) >> (leading - (kept - 1) + 2)
    expected = fraction | (((whole - 1 - leading) & 3) << kept)

    def build(m: Module, pair: Value) -> Value:
        numbers = [Number(Cat(pair[at : at + width], Const(1)), Const(0), Const(0)) for at in (0, width)]
        product = round_product(m, "rounded", multiply(m, "product", *numbers), bits)
        return Cat(product.fraction, resized(product.shift.as_unsigned(), 2))

    return Part(f"{number} multiplier", build, 2 * width, kept + 2, inputs, expected)
