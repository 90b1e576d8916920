"""Reciprocals of positive integers in hardware, matching `softmaxkit.tables.Reciprocal`."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from amaranth.hdl import Cat, Const, Module, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.leading_one import leading_one
from softmaxkit.blocks.piecewise_linear import line, round_line
from softmaxkit.blocks.pipeline import Pipeline, named, resized
from softmaxkit.blocks.queue import connect_by_queue
from softmaxkit.blocks.two_tables import two_tables
from softmaxkit.rounding import Rounding
from softmaxkit.tables import Reciprocal

SERIAL_LANES = 4
"""Units with up to this many lanes use the serial reciprocal: nearly all of their rows are long enough to hide it."""

PLAIN_BITS = 10
"""Widest argument, in bits, for which a full table takes fewer gates than interpolation with its multiplier."""


def normalise(m: Module, name: str, reciprocal: Reciprocal, divisor: Value, least: int = 0) -> tuple[Value, Value]:
    """Return `(argument, exponent)`: the argument for `reciprocal.table`, and the position of the leading one.

    Args:
        m: module to add the logic to.
        name: prefix of the signal names.
        reciprocal: defines the tables and widths.
        divisor: unsigned; 0 and 1 both give the argument 0.
        least: the lowest position that the leading one of a non-zero divisor can have.
    """
    position, normalised = leading_one(m, name, divisor, least)
    below = normalised[:-1]
    bits = reciprocal.table.input_bits
    argument = below[-bits:] if len(below) >= bits else Cat(Const(0, bits - len(below)), below)
    return named(m, f"{name}_argument", argument), position


def reciprocal_ports(reciprocal: Reciprocal, divisor_bits: int, tag_bits: int) -> dict[str, wiring.Member]:
    """Return the ports of a reciprocal unit, `source` and `sink`."""
    exponent_bits = max((divisor_bits - 1).bit_length(), 1)
    operand = {"divisor": divisor_bits, "tag": tag_bits}
    result = {"mantissa": reciprocal.mantissa_bits + 1, "exponent": exponent_bits, "tag": tag_bits}
    return {
        "source": In(stream.Signature(data.StructLayout(operand))),
        "sink": Out(stream.Signature(data.StructLayout(result))),
    }


class ReciprocalUnit(wiring.Component):
    """Pipelined reciprocal: one integer per cycle, with a tag that accompanies it.

    A queue at the output keeps the pipeline moving while a result waits.

    Args:
        reciprocal: defines the tables and widths.
        divisor_bits: width of the integers.
        tag_bits: width of the tag.
        rounding: of the table.
        registers: the `CUTS` that get a register, in addition to the one in front of the queue.
        least: the lowest position that the leading one of a non-zero divisor can have.
        queue: capacity in results; with 0, a waiting result stalls the pipeline combinationally.
        plain: use a table of all mantissas instead of interpolation.

    Attributes:
        source: input stream of `divisor` and `tag`.
        sink: output stream of `mantissa`, `exponent` (see `softmaxkit.tables.Reciprocal`) and `tag`.
        latency: cycles from an integer to its reciprocal.
        interval: cycles between integers.
    """

    CUTS = ("argument", "line")
    interval = 1

    def __init__(
        self,
        reciprocal: Reciprocal,
        divisor_bits: int,
        tag_bits: int,
        rounding: Rounding,
        registers: Collection[str],
        least: int = 0,
        queue: int = 2,
        plain: bool = False,
    ) -> None:
        self.reciprocal, self.rounding, self.registers = reciprocal, rounding, registers
        self.least, self.queue, self.plain = least, queue, plain
        self.latency = 1 + sum(cut in registers for cut in self.CUTS) + (queue > 0)
        super().__init__(reciprocal_ports(reciprocal, divisor_bits, tag_bits))

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        source = self.source.p
        result = stream.Signature(self.sink.payload.shape()).create(path=("result",)) if self.queue else self.sink
        pipe = Pipeline(m, "reciprocal", self.source.valid, result, self.registers)
        m.d.comb += self.source.ready.eq(pipe.advance)
        argument, exponent = normalise(m, "divisor", self.reciprocal, source.divisor, self.least)
        argument, exponent, tag = pipe.cut("argument", (argument, exponent, source.tag))
        table = self.reciprocal.table
        if self.plain:
            # A narrow divisor leaves the low bits of the argument at 0.
            bits = min(len(source.divisor) - 1, table.input_bits)
            arguments = np.arange(1 << bits) << (table.input_bits - bits)
            rising = two_tables(
                m,
                "mantissa",
                table(arguments, self.rounding).tolist(),
                argument[table.input_bits - bits :],
                min(table.input_bits - table.rest_bits, bits),
                part_bits=2,
            )
        else:
            rising = line(m, "mantissa_line", table, argument, self.rounding)
        rising, exponent, tag = pipe.cut("line", (rising, exponent, tag))
        mantissa = rising if self.plain else round_line(m, "mantissa", table, rising, self.rounding)
        fields = self.sink.p
        widths = (len(fields.mantissa), len(fields.exponent))
        pipe.finish(Cat(resized(mantissa, widths[0]), resized(exponent, widths[1]), tag))
        if self.queue:
            connect_by_queue(m, "queue", result, self.sink, self.queue)
        return m
