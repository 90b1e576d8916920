"""The multiplier of small positive floats, in two steps with room for a register between them.

`multiply` gives the exact product, `round_product` its rounding to so many significant bits: the hardware of
`softmaxkit.formats.round_significand`. Exponents have no limits.
"""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Cat, Module, Mux, Value

from softmaxkit.blocks.pipeline import named
from softmaxkit.blocks.shifter import shift_right


class Number(NamedTuple):
    """A number that is not negative: `fraction * 2**-shift`, or 0.

    Attributes:
        fraction: unsigned, the point before its highest bit. From a float that bit is set.
        shift: an integer, signed or not.
        zero: the number is 0, whatever the rest says.
    """

    fraction: Value
    shift: Value
    zero: Value


def multiply(m: Module, name: str, first: Number, second: Number) -> Number:
    """Return the exact product of two numbers. Its fraction can begin with a 0, which `round_product` takes off."""
    return Number(
        named(m, f"{name}_fraction", first.fraction * second.fraction),
        named(m, f"{name}_shift", first.shift + second.shift),
        named(m, f"{name}_zero", first.zero | second.zero),
    )


def round_product(m: Module, name: str, product: Number, bits: int) -> Number:
    """Round what `multiply` gives of two floats to `bits` significant bits, to nearest, ties to even.

    A product of no more than `bits` bits is exact. The highest bit of the result's fraction is set.
    """
    fraction = product.fraction
    low = ~fraction[-1]
    fraction = named(m, f"{name}_normal", Mux(low, (fraction << 1)[: len(fraction)], fraction))
    shift = product.shift + low
    excess = len(fraction) - bits
    if excess <= 0:
        return Number(fraction, named(m, f"{name}_shift", shift), product.zero)
    rounded = shift_right(m, f"{name}_rounded", fraction, excess)
    carry = rounded[bits]  # to the next power of two, whose other bits are 0
    rounded = Cat(rounded[: bits - 1], rounded[bits - 1] | carry)
    return Number(rounded, named(m, f"{name}_shift", shift - carry), product.zero)
