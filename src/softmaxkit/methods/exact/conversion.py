"""Conversion between the floats of the exact unit and the integers of the surrounding arrays."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed, unsigned

from softmaxkit.blocks.leading_one import leading_one
from softmaxkit.blocks.pipeline import named
from softmaxkit.blocks.shifter import saturate, shift_right
from softmaxkit.formats import Float
from softmaxkit.methods.base.takes_scores import TakesScores
from softmaxkit.methods.exact.spec import WEIGHT, Exact


class TakesFloats(TakesScores):
    """Base of the components whose input is scores in the float format."""

    spec: Exact
    conversion_cycles = 1

    @property
    def code_shape(self) -> Shape:
        """Shape of a score code: the bits of a float."""
        return unsigned(self.spec.format.bits)

    def score_code(self, m: Module, name: str, product: Value, places: int) -> Value:
        """Build the logic of `Exact.scores_of`; return the float code of a signed product."""
        return float_code(m, name, self.spec.format, product, places)


def float_code(m: Module, name: str, number: Float, product: Value, places: int) -> Value:
    """Return the float code of `product * 2**-places`, signed, as `Float.join` does: to nearest, ties to even."""
    negative = named(m, f"{name}_negative", product < 0)
    size = named(m, f"{name}_size", abs(product).as_unsigned())
    significant = number.mantissa_bits + 1
    padded = Cat(Const(0, max(significant - len(size), 0)), size)
    position, normal = leading_one(m, f"{name}_leading", padded)
    excess = len(padded) - significant
    rounded = shift_right(m, f"{name}_rounded", normal, excess) if excess else normal
    carry = rounded[significant] if len(rounded) > significant else Const(0)
    # An exponent field of 1 is that of the smallest normal.
    offset = number.bias - places - (len(padded) - len(size))
    field = Signal(signed(max(number.exponent_bits, len(position), abs(offset).bit_length()) + 2), name=f"{name}_field")
    m.d.comb += field.eq(position + offset + carry)
    largest = (1 << (number.bits - 1)) - 1
    # If rounding carries to a power of two, these mantissa bits are 0 as well.
    code = Cat(rounded[: number.mantissa_bits], field[: number.exponent_bits])
    code = Mux(field >= 1 << number.exponent_bits, largest, code)
    nothing = (field < 1) | (size == 0)
    return named(m, name, Mux(nothing, 0, Cat(code[: number.bits - 1], negative)))


def fixed_weight(m: Module, name: str, number: Float, result: Value) -> Value:
    """Return a non-negative result in fixed point, rounded once, as `Exact.weights` does."""
    mantissa, field = result[: number.mantissa_bits], result[number.mantissa_bits : number.bits - 1]
    significand = Cat(mantissa, field.any())
    # The exponent field of 1 is `bias`, and no result exceeds 1.
    down = named(m, f"{name}_down", (number.bias - field).as_unsigned()[: number.exponent_bits])
    fraction_bits = number.mantissa_bits - WEIGHT.fraction_bits
    rounded = shift_right(m, f"{name}_rounded", significand, down, fraction_bits=fraction_bits)
    return saturate(m, name, Mux(field.any(), rounded, 0), WEIGHT.bits)
