"""The reciprocal of a positive integer: the hardware of `softmaxkit.tables.Reciprocal`, in three steps.

`normalise`, `line` and `round_line` may have registers between them.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Value

from softmaxkit.blocks.leading_one import leading_one
from softmaxkit.blocks.pipeline import named
from softmaxkit.tables import Reciprocal


def normalise(m: Module, name: str, reciprocal: Reciprocal, divisor: Value) -> tuple[Value, Value]:
    """Return `(argument, exponent)`: the argument of `reciprocal.table`, and the position of the leading one.

    Args:
        m: the module to build it in.
        name: prefix of its signals.
        reciprocal: which.
        divisor: unsigned; 0 gives an argument of 0, as 1 does.
    """
    position, normalised = leading_one(m, name, divisor)
    below = normalised[:-1]
    bits = reciprocal.table.input_bits
    argument = below[-bits:] if len(below) >= bits else Cat(Const(0, bits - len(below)), below)
    return named(m, f"{name}_argument", argument), position
