"""The reciprocal of positive integers: the hardware of `softmaxkit.tables.Reciprocal`."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from amaranth.hdl import Cat, Const, Module, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.leading_one import leading_one
from softmaxkit.blocks.piecewise_linear import line, lookup, round_line
from softmaxkit.blocks.pipeline import Pipeline, named, resized
from softmaxkit.blocks.queue import Queue
from softmaxkit.formats import Rounding
from softmaxkit.tables import Reciprocal

SERIAL_LANES = 4
"""Units of so many lanes or fewer take reciprocals serially: nearly all their rows have beats enough to hide that."""

PLAIN_BITS = 10
"""Bits of the longest argument for which a plain table takes fewer gates than lines and their multiplier."""


def normalise(m: Module, name: str, reciprocal: Reciprocal, divisor: Value, least: int = 0) -> tuple[Value, Value]:
    """Return `(argument, exponent)`: the argument of `reciprocal.table`, and the position of the leading one.

    Args:
        m: the module to build it in.
        name: prefix of its signals.
        reciprocal: which.
        divisor: unsigned; 0 gives an argument of 0, as 1 does.
        least: the lowest position at which a divisor other than 0 can have its leading one.
    """
    position, normalised = leading_one(m, name, divisor, least)
    below = normalised[:-1]
    bits = reciprocal.table.input_bits
    argument = below[-bits:] if len(below) >= bits else Cat(Const(0, bits - len(below)), below)
    return named(m, f"{name}_argument", argument), position


def reciprocal_ports(reciprocal: Reciprocal, divisor_bits: int, tag_bits: int) -> dict[str, wiring.Member]:
    """Return the ports of a unit that takes reciprocals, `source` and `sink`."""
    exponent_bits = max((divisor_bits - 1).bit_length(), 1)
    taken = {"divisor": divisor_bits, "tag": tag_bits}
    given = {"mantissa": reciprocal.mantissa_bits + 1, "exponent": exponent_bits, "tag": tag_bits}
    return {
        "source": In(stream.Signature(data.StructLayout(taken))),
        "sink": Out(stream.Signature(data.StructLayout(given))),
    }


class ReciprocalUnit(wiring.Component):
    """Takes the reciprocal of one integer after the other, and passes a tag along with each.

    A queue at its end lets the next ones come through while one waits to be taken.

    Args:
        reciprocal: which.
        divisor_bits: width of the integers.
        tag_bits: width of what goes along.
        rounding: of the table.
        registers: cuts that hold a register, of `CUTS`; one more always stands at the end, before the queue.
        least: the lowest position at which an integer other than 0 can have its leading one.
        queue: how many can wait to be taken; with 0 one that waits holds up the next, through gates.
        plain: with a table of all mantissas in place of lines.

    Attributes:
        source: stream in, of `divisor` and `tag`.
        sink: stream out, of `mantissa`, `exponent` (see `softmaxkit.tables.Reciprocal`) and `tag`.
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
        """Build it."""
        m = Module()
        source = self.source.p
        found = stream.Signature(self.sink.payload.shape()).create(path=("found",)) if self.queue else self.sink
        pipe = Pipeline(m, "reciprocal", self.source.valid, found, self.registers)
        m.d.comb += self.source.ready.eq(pipe.advance)
        argument, exponent = normalise(m, "divisor", self.reciprocal, source.divisor, self.least)
        argument, exponent, tag = pipe.cut("argument", (argument, exponent, source.tag))
        table = self.reciprocal.table
        if self.plain:
            # Of a short divisor's argument the low bits are 0.
            bits = min(len(source.divisor) - 1, table.input_bits)
            arguments = np.arange(1 << bits) << (table.input_bits - bits)
            rising = lookup(
                m, "mantissa", table(arguments, self.rounding).tolist(), argument[table.input_bits - bits :]
            )
        else:
            rising = line(m, "mantissa_line", table, argument, self.rounding)
        rising, exponent, tag = pipe.cut("line", (rising, exponent, tag))
        mantissa = rising if self.plain else round_line(m, "mantissa", table, rising, self.rounding)
        fields = self.sink.p
        widths = (len(fields.mantissa), len(fields.exponent))
        pipe.finish(Cat(resized(mantissa, widths[0]), resized(exponent, widths[1]), tag))
        if self.queue:
            m.submodules.queue = queue = Queue(len(Value.cast(found.payload)), self.queue)
            m.d.comb += [
                queue.source.valid.eq(found.valid),
                queue.source.payload.eq(found.payload),
                found.ready.eq(queue.source.ready),
                self.sink.valid.eq(queue.sink.valid),
                Value.cast(self.sink.payload).eq(queue.sink.payload),
                queue.sink.ready.eq(self.sink.ready),
            ]
        return m
