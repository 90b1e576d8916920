"""Multiplier for small positive floats, split in two so that a pipeline register can be placed in between.

`multiply` forms the exact product; `round_product` rounds it to a number of significant bits like
`softmaxkit.rounding.round_significand`. Exponents are unbounded.
"""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Cat, Module, Mux, Value

from softmaxkit.blocks.pipeline import named
from softmaxkit.blocks.shifter import shift_right


class Number(NamedTuple):
    """A non-negative number: `fraction * 2**-shift`, or 0.

    Attributes:
        fraction: unsigned, with the binary point above its top bit; the top bit is 1 in a normalised number.
        shift: an integer, signed or unsigned.
        zero: the number is 0 regardless of the other fields.
    """

    fraction: Value
    shift: Value
    zero: Value


def multiply(m: Module, name: str, first: Number, second: Number) -> Number:
    """Return the exact product of two normalised numbers; its top bit may be 0 until `round_product` normalises it."""
    return Number(
        named(m, f"{name}_fraction", first.fraction * second.fraction),
        named(m, f"{name}_shift", first.shift + second.shift),
        named(m, f"{name}_zero", first.zero | second.zero),
    )


def round_product(m: Module, name: str, product: Number, bits: int) -> Number:
    """Normalise a product from `multiply` and round it to `bits` significant bits, to nearest, ties to even.

    A product that fits in `bits` bits stays exact. The top bit of the result's fraction is 1.
    """
    fraction = product.fraction
    low = ~fraction[-1]
    fraction = named(m, f"{name}_normal", Mux(low, (fraction << 1)[: len(fraction)], fraction))
    shift = product.shift + low
    excess = len(fraction) - bits
    if excess <= 0:
        return Number(fraction, named(m, f"{name}_shift", shift), product.zero)
    rounded = shift_right(m, f"{name}_rounded", fraction, excess)
    carry = rounded[bits]  # rounded up to a power of two: all other bits are 0
    rounded = Cat(rounded[: bits - 1], rounded[bits - 1] | carry)
    return Number(rounded, named(m, f"{name}_shift", shift - carry), product.zero)
