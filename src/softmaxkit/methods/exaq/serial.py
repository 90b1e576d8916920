"""The results of a row's levels from its sum, a bit or two a cycle: one adder for the reciprocal and all products.

At few lanes a row takes more cycles than that, and multipliers would stand still for most of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.configuration import Words
from softmaxkit.blocks.piecewise_linear import lookup
from softmaxkit.blocks.pipeline import named
from softmaxkit.blocks.shifter import saturate
from softmaxkit.blocks.stream import beats
from softmaxkit.methods.exaq.accumulators import exponentials_of, held_set, source_of_set
from softmaxkit.methods.exaq.spec import Exaq
from softmaxkit.tables import GUARD_BITS

LANES = 2
"""The most lanes at which results are made serially: at more, the levels that wait meanwhile cost what it saves."""
DIGITS = (1, 2)
"""Bits a cycle, the fewest first."""


@dataclass(frozen=True)
class Passes:
    """How long the passes of the adder are.

    The first goes along a line of the reciprocal's table, after the sum has been shifted up to its leading one; then
    comes a product for each level. A pass adds an operand for every set bit of a multiplier, the lowest first, and
    shifts what it has down by a place a bit; its last cycle rounds. Operands that are shifted up first make it longer.

    Args:
        spec: the method.
        sum_bits: width of a row's sum, which is at least 1 where anything is attended.
        digit: bits a cycle.
    """

    spec: Exaq
    sum_bits: int
    digit: int

    @property
    def shifts(self) -> int:
        """Cycles until the leading one of any sum comes first."""
        return self.sum_bits - 1 - self.spec.exponential.fraction_bits

    @property
    def ends(self) -> list[int]:
        """Values at the ends of the lines."""
        table = self.spec.reciprocal_table.table
        return [offset + slope for offset, slope in zip(table.offsets, table.slopes, strict=True)]

    @property
    def line_zeros(self) -> int:
        """Places by which the rest along a line is shifted up, so that the pass lasts for all bits of `ends`."""
        return self.digit * self.line_cycles - self._line_places

    @property
    def line_cycles(self) -> int:
        """Cycles along a line, without the rounding."""
        return -(-max(self._line_places, max(self.ends).bit_length()) // self.digit)

    @property
    def product_zeros(self) -> int:
        """Places by which the mantissa is shifted up, so that the pass lasts for all bits of an exponential."""
        return self.digit * self.product_cycles - self._product_places

    @property
    def product_cycles(self) -> int:
        """Cycles of a product, without the rounding."""
        return -(-max(self._product_places, self.shifts + self.spec.exponential.bits) // self.digit)

    @property
    def cycles(self) -> int:
        """Cycles from the taking of a sum to the giving of its results, and to the taking of the next."""
        return 1 + self.shifts + self.line_cycles + 1 + self.spec.levels * (self.product_cycles + 1)

    @property
    def _line_places(self) -> int:
        return self.spec.reciprocal_table.table.rest_bits + GUARD_BITS

    @property
    def _product_places(self) -> int:
        return self.shifts + self._least_places

    @property
    def _least_places(self) -> int:
        spec = self.spec
        return spec.exponential.fraction_bits + spec.reciprocal.fraction_bits - spec.output.fraction_bits

    def result_bits(self, exponential: int | Value) -> int:
        """Width of the results of a level."""
        output = self.spec.output
        if not isinstance(exponential, int):
            return output.bits
        largest = Fraction(exponential << self.spec.reciprocal.fraction_bits) / Fraction(2) ** self._least_places
        return max(min(round(largest), output.max_code).bit_length(), 1)


def choose_passes(spec: Exaq, sum_bits: int, lanes: int, max_row: int) -> Passes | None:
    """Return the slowest passes that are done in the time of the longest row; None where multipliers are in place."""
    found = [Passes(spec, sum_bits, digit) for digit in DIGITS]
    fitting = [passes for passes in found if lanes <= LANES and passes.cycles <= beats(max_row, lanes)]
    return fitting[0] if fitting else None


class SerialResults(wiring.Component):
    """The results of the levels of a row.

    Args:
        passes: of the adder.
        sets: the exponentials of the levels of each set, constant or held elsewhere.

    Attributes:
        source: stream in, of a row's sum; one is taken every `passes.cycles` cycles.
        source_set: with several sets, the number of the row's, beside the stream.
        sink: stream out, of the results of the levels.
    """

    def __init__(self, passes: Passes, sets: Sequence[Words]) -> None:
        self.passes, self.sets = passes, sets
        results = data.ArrayLayout(passes.spec.output.bits, passes.spec.levels)
        ports = {"source": In(stream.Signature(passes.sum_bits)), "sink": Out(stream.Signature(results))}
        super().__init__(ports | source_of_set(len(sets)))

    def elaborate(self, platform: object) -> Module:
        """Build it."""
        m = Module()
        passes, spec, source = self.passes, self.passes.spec, self.source
        longest = max(passes.shifts + passes.line_cycles, passes.product_cycles)
        final = (1 << longest.bit_length()) - 1  # the step that rounds
        step, level = Signal(range(final + 1), name="step", init=final), Signal(range(spec.levels), name="level")
        busy, line, ends = Signal(name="busy"), Signal(name="line"), Signal(name="ends")
        taken, moves, complete = Signal(name="taken"), Signal(name="moves"), Signal(name="complete")
        rank = Signal(range(passes.shifts + 1), reset_less=True)
        exponentials = exponentials_of(m, self.sets, held_set(m, self, taken))

        # The sum, inverted since the line falls; from the end of the line on, the mantissa.
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
            slope = _bit(m, f"slope{place}", [-each for each in table.slopes], segment, along, place)
            height = _bit(m, f"height{place}", passes.ends, segment, along, place)
            factor = _bit(m, f"factor{place}", exponentials, level, across, place)
            # A line is its end and slope * (~rest + 1), as what is left of it is the rest's complement.
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
        """Add operands and their carries one after the other, and shift down after each; return what is rounded."""
        total = Signal(max(len(operand) for operand, _ in operands), name="total", reset_less=True)
        half, sticky = Signal(name="half", reset_less=True), Signal(name="sticky", reset_less=True)
        rounded: Value = Const(0)
        whole, below, left = (Value.cast(each) for each in (total, half, sticky))
        for place, (operand, carry) in enumerate(operands):
            if place == 0:  # at the end there is no operand, but what rounds to nearest, ties to even
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
        """Let the results wait for the last one, then show all of them at once."""
        sink, passes = self.sink, self.passes
        result = saturate(m, "result", rounded, passes.spec.output.bits)
        widths = [passes.result_bits(each) for each in exponentials]
        waiting = [Signal(bits, name=f"waiting{index}", reset_less=True) for index, bits in enumerate(widths[:-1])]
        shown = [Signal(bits, name=f"shown{index}", reset_less=True) for index, bits in enumerate(widths)]
        for index, each in enumerate(waiting):
            with m.If(ends & (level == index)):
                m.d.sync += each.eq(result)
        with m.If(~sink.valid | sink.ready):
            m.d.sync += sink.valid.eq(complete)
            with m.If(complete):
                m.d.sync += [each.eq(value) for each, value in zip(shown, [*waiting, result], strict=True)]
        m.d.comb += [each.eq(value) for each, value in zip(sink.payload, shown, strict=True)]


def _bit(
    m: Module,
    name: str,
    words: Sequence[int] | Sequence[Value],
    which: Value,
    at: tuple[Value, int],
    place: int,
) -> Value:
    """Return bit `sum(at) + place` of a word, constant or held elsewhere; 0 where it has no such bit."""
    index, first = at[0], at[1] + place
    shifted = [each << -first if first < 0 else each >> first for each in words]
    found = lookup(m, f"{name}_word", shifted, which)
    return named(m, name, Cat(found, Const(0, max((1 << len(index)) - len(found), 0))).bit_select(index, 1))
