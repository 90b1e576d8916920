"""The results of a row's levels from its sum, one or two bits per cycle: one adder computes reciprocal and products.

With few lanes a row takes more cycles than this, and multipliers would be idle most of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.configuration import Words
from softmaxkit.blocks.piecewise_linear import lookup
from softmaxkit.blocks.pipeline import named
from softmaxkit.blocks.shifter import saturate
from softmaxkit.methods.exaq.accumulators import exponentials_of, held_set, source_of_set
from softmaxkit.methods.exaq.passes import Passes


class SerialResults(wiring.Component):
    """The results of a row's levels, computed serially.

    Args:
        passes: the passes of the adder.
        sets: the exponentials of each set, as constants or register values.

    Attributes:
        source: input stream of a row's sum; accepts one word every `passes.cycles` cycles.
        source_set: with several sets, the index of the row's set, valid with the stream.
        sink: output stream of the results of all levels.
    """

    def __init__(self, passes: Passes, sets: Sequence[Words]) -> None:
        self.passes, self.sets = passes, sets
        results = data.ArrayLayout(passes.spec.output.bits, passes.spec.levels)
        ports = {"source": In(stream.Signature(passes.sum_bits)), "sink": Out(stream.Signature(results))}
        super().__init__(ports | source_of_set(len(sets)))

    def elaborate(self, platform: object) -> Module:
        """Build the component."""
        m = Module()
        passes, spec, source = self.passes, self.passes.spec, self.source
        longest = max(passes.shifts + passes.line_cycles, passes.product_cycles)
        final = (1 << longest.bit_length()) - 1  # the step that rounds
        step, level = Signal(range(final + 1), name="step", init=final), Signal(range(spec.levels), name="level")
        busy, line, ends = Signal(name="busy"), Signal(name="line"), Signal(name="ends")
        taken, moves, complete = Signal(name="taken"), Signal(name="moves"), Signal(name="complete")
        rank = Signal(range(passes.shifts + 1), reset_less=True)
        exponentials = exponentials_of(m, self.sets, held_set(m, self, taken))

        # The sum, inverted because the line falls; after the pass along the line, the mantissa.
        table, digit, zeros = spec.reciprocal_table.table, passes.digit, passes.product_zeros - passes.line_zeros
        low = max(passes.sum_bits - 1 - table.input_bits, -zeros, 0)
        held = Signal(low + table.input_bits + 1, name="held", reset_less=True)
        rest, segment = held[low : low + table.rest_bits], ~held[low + table.rest_bits : -1]
        mantissa = held[min(low + zeros, table.input_bits + low - spec.reciprocal.fraction_bits) :]
        mantissa = mantissa[: spec.reciprocal.fraction_bits + 1]

        along = (step * digit, (passes.line_cycles - final) * digit)
        across = (step * digit + rank, (passes.product_cycles - final) * digit - passes.shifts)
        operands = []
        for place in range(digit):
            slope = _bit(m, f"slope{place}", [-gradient for gradient in table.slopes], segment, along, place)
            height = _bit(m, f"height{place}", passes.ends, segment, along, place)
            factor = _bit(m, f"factor{place}", exponentials, level, across, place)
            # A value on a line is its end plus slope * (~rest + 1), since the remaining way is the complement of rest.
            falling = Cat(slope.replicate(passes.line_zeros), rest & slope.replicate(len(rest)), height)
            rising = Cat(Const(0, passes.product_zeros), Mux(factor, mantissa, 0))
            operands.append((Mux(line, falling, rising), line & slope))
        rounded = self._add(m, operands, ends, moves | ~busy)

        ready = ~self.sink.valid | self.sink.ready
        m.d.comb += [
            source.ready.eq(~busy),
            taken.eq(source.valid & ~busy),
            ends.eq(step == final),
            complete.eq(busy & ends & ~line & (level == spec.levels - 1)),
            moves.eq(busy & (~complete | ready)),
        ]
        ones = Const(1, 1).replicate(len(held))
        with m.If(~ends):
            m.d.sync += step.eq(step + 1)
        with m.Elif(busy & ~complete):
            m.d.sync += step.eq(final - passes.product_cycles)
        with m.Elif(taken):
            m.d.sync += step.eq(final - passes.shifts - passes.line_cycles)
        with m.If(moves):
            with m.If(line & held[-1] & (rank != 0)):
                m.d.sync += [held.eq(Cat(ones[0], held)), rank.eq(rank - 1)]
            with m.If(ends):
                m.d.sync += [line.eq(0), busy.eq(~complete)]
                with m.If(line):
                    m.d.sync += mantissa.eq(rounded)
                with m.Else():
                    m.d.sync += level.eq(level + 1)
        with m.If(taken):
            m.d.sync += [
                held.eq(Cat(ones[: len(held) - passes.sum_bits], ~source.payload)),
                rank.eq(passes.shifts),
                line.eq(1),
                busy.eq(1),
            ]
        self._give(m, rounded, moves & ends, level, complete, exponentials)
        return m

    def _add(self, m: Module, operands: Sequence[tuple[Value, Value]], ends: Value, moves: Value) -> Value:
        """Add the operands and their carries in turn, shifting down after each; return the rounded sum."""
        total = Signal(max(len(operand) for operand, _ in operands), name="total", reset_less=True)
        half, sticky = Signal(name="half", reset_less=True), Signal(name="sticky", reset_less=True)
        rounded: Value = Const(0)
        whole, below, left = (Value.cast(register) for register in (total, half, sticky))
        for place, (operand, carry) in enumerate(operands):
            if place == 0:  # the last cycle has no operand, only the carry that rounds to nearest, ties to even
                carry = carry | (ends & half & (sticky | total[0]))
            added = (Cat(Const(1, 1), whole) + Cat(carry, operand))[1 : len(total) + 2]
            added = named(m, f"added{place}", added)
            if place == 0:
                rounded = added
            whole, below, left = added[1:], added[0], left | below
        with m.If(moves):
            m.d.sync += [
                total.eq(Mux(ends, 0, whole)),
                half.eq(~ends & below),
                sticky.eq(~ends & left),
            ]
        return rounded

    def _give(
        self,
        m: Module,
        rounded: Value,
        ends: Value,
        level: Value,
        complete: Value,
        exponentials: Sequence[int] | Sequence[Value],
    ) -> None:
        """Hold the results until the last one is complete, then output all of them at once."""
        sink, passes = self.sink, self.passes
        result = saturate(m, "result", rounded, passes.spec.output.bits)
        widths = [passes.result_bits(exponential) for exponential in exponentials]
        waiting = [Signal(bits, name=f"waiting{index}", reset_less=True) for index, bits in enumerate(widths[:-1])]
        shown = [Signal(bits, name=f"shown{index}", reset_less=True) for index, bits in enumerate(widths)]
        for index, register in enumerate(waiting):
            with m.If(ends & (level == index)):
                m.d.sync += register.eq(result)
        with m.If(~sink.valid | sink.ready):
            m.d.sync += sink.valid.eq(complete)
            with m.If(complete):
                m.d.sync += [register.eq(value) for register, value in zip(shown, [*waiting, result], strict=True)]
        m.d.comb += [output.eq(value) for output, value in zip(sink.payload, shown, strict=True)]


def _bit(
    m: Module,
    name: str,
    words: Sequence[int] | Sequence[Value],
    which: Value,
    at: tuple[Value, int],
    place: int,
) -> Value:
    """Return bit `sum(at) + place` of the word `which`; 0 if it has no such bit."""
    index, first = at[0], at[1] + place
    shifted = [word << -first if first < 0 else word >> first for word in words]
    selected = lookup(m, f"{name}_word", shifted, which)
    return named(m, name, Cat(selected, Const(0, max((1 << len(index)) - len(selected), 0))).bit_select(index, 1))
