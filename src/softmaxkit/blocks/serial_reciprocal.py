"""Reciprocal for low throughput: it interpolates two bits per cycle in a single adder."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring

from softmaxkit.blocks.piecewise_linear import lookup
from softmaxkit.blocks.pipeline import resized
from softmaxkit.blocks.reciprocal import normalise, reciprocal_ports
from softmaxkit.blocks.shifter import cut_rounded, rounding_addend
from softmaxkit.rounding import Rounding
from softmaxkit.tables import GUARD_BITS, Reciprocal


class SerialReciprocalUnit(wiring.Component):
    """Reciprocal of one integer at a time, in a fixed number of cycles, with a tag that accompanies it.

    It accepts the next integer while a result waits at the output.

    Args:
        reciprocal: defines the tables and widths.
        divisor_bits: width of the integers.
        tag_bits: width of the tag.
        rounding: of the table.
        least: the lowest position that the leading one of a non-zero divisor can have.

    Attributes:
        source: input stream of `divisor` and `tag`.
        sink: output stream, the same as that of `ReciprocalUnit`.
        latency: cycles from an integer to its reciprocal.
        interval: cycles between integers.
    """

    def __init__(
        self, reciprocal: Reciprocal, divisor_bits: int, tag_bits: int, rounding: Rounding, least: int = 0
    ) -> None:
        self.reciprocal, self.rounding, self.least = reciprocal, rounding, least
        self.steps = -(-reciprocal.table.rest_bits // 2)
        self.latency = self.interval = 2 + self.steps
        super().__init__(reciprocal_ports(reciprocal, divisor_bits, tag_bits))

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        source, sink, table = self.source, self.sink, self.reciprocal.table
        working, step = Signal(), Signal(range(self.steps + 1))
        argument = Signal(table.input_bits, reset_less=True)
        exponent = Signal(len(sink.p.exponent), reset_less=True)
        tag = Signal(len(sink.p.tag), reset_less=True)
        operand, position = normalise(m, "divisor", self.reciprocal, source.p.divisor, self.least)
        m.d.comb += source.ready.eq(~working)
        with m.If(source.valid & source.ready):
            m.d.sync += [argument.eq(operand), exponent.eq(position), tag.eq(source.p.tag), working.eq(1), step.eq(0)]

        segment, rest = argument[table.rest_bits :], argument[: table.rest_bits]
        if self.steps:
            mantissa = self._along(m, segment, rest, working, step)
        else:
            mantissa = lookup(m, "mantissa", table.results(self.rounding), argument)
        done = working & (step == self.steps)
        with m.If(sink.ready):
            m.d.sync += sink.valid.eq(0)
        held = Signal(len(Value.cast(sink.payload)), name="held", reset_less=True)
        with m.If(done & (~sink.valid | sink.ready)):
            m.d.sync += [
                held.eq(Cat(resized(mantissa, len(sink.p.mantissa)), exponent, tag)),
                sink.valid.eq(1),
                working.eq(0),
            ]
        m.d.comb += Value.cast(sink.payload).eq(held)
        return m

    def _along(self, m: Module, segment: Value, rest: Value, working: Signal, step: Signal) -> Value:
        """Multiply the slope by the rest, lowest bits first; return the mantissa, valid after the last step."""
        table = self.reciprocal.table
        slope = lookup(m, "slope", [-slope for slope in table.slopes], segment)
        digits = Cat(Const(0, 2 * self.steps - len(rest)), rest)
        digit = digits.word_select(step, 2)
        # A sticky bit replaces the bits that are shifted out.
        along, below = Signal(len(slope) + 1, reset_less=True), Signal(reset_less=True)
        risen = Signal(len(along) + 2)
        m.d.comb += risen.eq(along + Mux(digit[0], slope, 0) + (Mux(digit[1], slope, 0) << 1))
        with m.If(working & (step != self.steps)):
            m.d.sync += [along.eq(risen[2:]), below.eq(below | risen[:2].any()), step.eq(step + 1)]
        with m.If(~working):
            m.d.sync += [along.eq(0), below.eq(0)]
        addend = rounding_addend(GUARD_BITS, self.rounding)
        offset = lookup(m, "offset", [offset + addend for offset in table.offsets], segment)
        exact = Signal(len(offset))
        # "ceil" rounds up regardless of the bits below.
        m.d.comb += exact.eq(offset - along - (Const(0) if self.rounding == "ceil" else below))
        return cut_rounded(m, "mantissa", exact, GUARD_BITS, self.rounding, below)
