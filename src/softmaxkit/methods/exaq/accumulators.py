"""Hardware for the sum of a row's exponentials: plain, from a histogram, or by packed look-ups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.adder_tree import adder_tree
from softmaxkit.blocks.configuration import Words, words_of
from softmaxkit.blocks.piecewise_linear import lookup
from softmaxkit.blocks.pipeline import Pipeline, named
from softmaxkit.methods.exaq.golden import CODES_PER_LOOKUP
from softmaxkit.methods.exaq.spec import Exaq


class Levels(NamedTuple):
    """The levels of a beat: level and mask of each lane, whether the row ends here, and the index of the row's set."""

    levels: list[Value]
    mask: list[Value]
    last: Value
    set: Value


def plain_sum(m: Module, pipe: Pipeline, spec: Exaq, beat: Levels, words: Words, max_row: int) -> Value:
    """Add the exponential of each level; return the running sum, in a register."""
    exponentials = [
        Mux(mask, lookup(m, f"exponential{lane}", words["exponentials"], level), 0)
        for lane, (level, mask) in enumerate(zip(beat.levels, beat.mask, strict=True))
    ]
    return _accumulate(m, pipe, adder_tree(m, "beat_sum", exponentials), beat.last, total_bits(spec, max_row))


def packed_sum(m: Module, pipe: Pipeline, spec: Exaq, beat: Levels, words: Words, max_row: int) -> Value:
    """Add several exponentials per look-up; masked ones count as level 0 and are subtracted. Return the running sum."""
    group = CODES_PER_LOOKUP[spec.bits]
    levels = [named(m, f"packed{lane}", Mux(mask, beat.levels[lane], 0)) for lane, mask in enumerate(beat.mask)]
    sums = []
    for index, first in enumerate(range(0, len(levels), group)):
        address = Cat(*levels[first : first + group])
        attended = adder_tree(m, f"attended{index}", beat.mask[first : first + group])
        missing = named(m, f"missing{index}", (group - attended)[: group.bit_length()])
        least = words["exponentials"][0]
        multiples = [least * count for count in range(group + 1)] if isinstance(least, int) else []
        surplus = lookup(m, f"surplus{index}", multiples, missing) if multiples else least * missing
        group_sum = lookup(m, f"sum{index}", words["sums"][: 1 << len(address)], address)
        sums.append(named(m, f"group{index}", (group_sum - surplus)[: len(group_sum)]))
    return _accumulate(m, pipe, adder_tree(m, "beat_sum", sums), beat.last, total_bits(spec, max_row))


def histogram(m: Module, pipe: Pipeline, spec: Exaq, beat: Levels, words: Words, max_row: int) -> Value:
    """Count the codes of each level; return the running counts, in registers. `HistogramSum` multiplies and adds."""
    counts = []
    for level in range(spec.levels):
        matches = [(code == level) & mask for code, mask in zip(beat.levels, beat.mask, strict=True)]
        added = adder_tree(m, f"found{level}", matches)
        counts.append(_accumulate(m, pipe, added, beat.last, max_row.bit_length(), f"count{level}"))
    return Cat(*counts)


ACCUMULATORS: dict[str, Callable[[Module, Pipeline, Exaq, Levels, Words, int], Value]] = {
    "plain": plain_sum,
    "packed": packed_sum,
    "histogram": histogram,
}


def packed_sums(spec: Exaq, lanes: int) -> int:
    """Return the size of the table of sums; codes of a group beyond the lanes are always 0, and need no entries."""
    return 1 << (min(lanes, CODES_PER_LOOKUP[spec.bits]) * spec.bits)


def total_bits(spec: Exaq, max_row: int) -> int:
    """Return the width of the sum of the longest row in bits."""
    return (max_row * spec.exponential.max_code).bit_length()


def state_bits(spec: Exaq, max_row: int) -> int:
    """Return the width of an accumulator's state in bits."""
    return spec.levels * max_row.bit_length() if spec.accumulator == "histogram" else total_bits(spec, max_row)


class HistogramSum(wiring.Component):
    """The sum over a histogram, `count * exponential` for one level per cycle.

    Args:
        spec: the spec.
        max_row: number of scores in the longest row.
        sets: the exponentials of each set, as constants or register values.

    Attributes:
        source: input stream of the counts; accepts one word every `spec.levels` cycles.
        sink: output stream of the sum.
        source_set, sink_set: with several sets, the index of the row's set, valid with the streams.
    """

    def __init__(self, spec: Exaq, max_row: int, sets: Sequence[Words]) -> None:
        self.sets, self.count_bits, self.levels = sets, max_row.bit_length(), spec.levels
        super().__init__(histogram_ports(spec, max_row, len(sets)))

    @staticmethod
    def cycles(spec: Exaq, max_row: int) -> int:
        """Return the cycles from the counts to the sum."""
        return spec.levels + 1

    def elaborate(self, platform: object) -> Module:
        """Build the component."""
        m = Module()
        source, sink = self.source, self.sink
        levels = self.levels
        counts = [Signal(self.count_bits, name=f"held{level}", reset_less=True) for level in range(levels)]
        level, busy, total = Signal(range(levels)), Signal(), Signal.like(sink.payload, reset_less=True)
        number = held_set(m, self, source.valid & source.ready)
        exponentials = exponentials_of(m, self.sets, number)
        count = lookup(m, "count", counts, level)
        added = named(m, "added", total + count * lookup(m, "exponential", exponentials, level))
        final = level == levels - 1
        moves = busy & (~final | ~sink.valid | sink.ready)
        m.d.comb += source.ready.eq(~busy | (moves & final))
        with m.If(sink.ready):
            m.d.sync += sink.valid.eq(0)
        with m.If(moves):
            m.d.sync += [level.eq(level + 1), total.eq(added)]
            with m.If(final):
                m.d.sync += [sink.payload.eq(added), sink.valid.eq(1), busy.eq(0)]
                if len(self.sets) > 1:
                    m.d.sync += self.sink_set.eq(number)
        with m.If(source.valid & source.ready):
            m.d.sync += [register.eq(source.payload[index]) for index, register in enumerate(counts)]
            m.d.sync += [level.eq(0), total.eq(0), busy.eq(1)]
        return m


class SerialHistogramSum(wiring.Component):
    """The sum over a histogram, one bit of one level's count per cycle.

    Args:
        spec: the spec.
        max_row: number of scores in the longest row.
        sets: the exponentials of each set, as constants or register values.

    Attributes:
        source: input stream of the counts; accepts one word every `cycles(spec, max_row)` cycles.
        sink: output stream of the sum.
        source_set, sink_set: with several sets, the index of the row's set, valid with the streams.
    """

    def __init__(self, spec: Exaq, max_row: int, sets: Sequence[Words]) -> None:
        self.sets, self.count_bits, self.levels = sets, max_row.bit_length(), spec.levels
        super().__init__(histogram_ports(spec, max_row, len(sets)))

    @staticmethod
    def cycles(spec: Exaq, max_row: int) -> int:
        """Return the cycles from the counts to the sum."""
        return spec.levels * max_row.bit_length() + 1

    def elaborate(self, platform: object) -> Module:
        """Build the component."""
        m = Module()
        source, sink, total = self.source, self.sink, self.sink.payload
        levels = self.levels
        counts = [Signal(self.count_bits, name=f"held{level}", reset_less=True) for level in range(levels)]
        place, level, busy = Signal(range(self.count_bits)), Signal(range(levels)), Signal()
        m.d.comb += source.ready.eq(~busy & (~sink.valid | sink.ready))
        number = held_set(m, self, source.valid & source.ready)
        exponentials = exponentials_of(m, self.sets, number)
        if len(self.sets) > 1:  # a row is accepted only after the previous sum has left
            m.d.comb += self.sink_set.eq(number)
        counted = lookup(m, "count", counts, level).bit_select(place, 1)
        # Starting from the highest bits of the counts.
        above = Mux(level == 0, total << 1, total)
        with m.If(sink.ready):
            m.d.sync += sink.valid.eq(0)
        with m.If(busy):
            m.d.sync += total.eq(above + Mux(counted, lookup(m, "exponential", exponentials, level), 0))
            m.d.sync += level.eq(level + 1)
            with m.If(level == levels - 1):
                m.d.sync += [place.eq(place - 1), busy.eq(place != 0), sink.valid.eq(place == 0)]
        with m.If(source.valid & source.ready):
            m.d.sync += [register.eq(source.payload[index]) for index, register in enumerate(counts)]
            m.d.sync += [place.eq(self.count_bits - 1), total.eq(0), busy.eq(1)]
        return m


def histogram_ports(spec: Exaq, max_row: int, sets: int) -> dict[str, wiring.Member]:
    """Return the ports of a component that sums over a histogram."""
    counts = data.ArrayLayout(max_row.bit_length(), spec.levels)
    ports = {"source": In(stream.Signature(counts)), "sink": Out(stream.Signature(total_bits(spec, max_row)))}
    return ports | source_of_set(sets) | ({"sink_set": Out((sets - 1).bit_length())} if sets > 1 else {})


def source_of_set(sets: int) -> dict[str, wiring.Member]:
    """Return the port for the index of a row's set, next to an input stream of one word per row; none with one set."""
    return {"source_set": In((sets - 1).bit_length())} if sets > 1 else {}


def held_set(m: Module, part: Any, taken: Value) -> Value:
    """Return the index of the set of the row in progress, for a component with `source_of_set`; 0 with one set.

    Args:
        m: the module of the component.
        part: the component; has the attribute `sets`.
        taken: high in the cycle in which a row is accepted.
    """
    if len(part.sets) == 1:
        return Const(0)
    number = Signal.like(part.source_set, name="own_set", reset_less=True)
    with m.If(taken):
        m.d.sync += number.eq(part.source_set)
    return number


def exponentials_of(m: Module, sets: Sequence[Words], number: Value) -> Sequence[int] | Sequence[Value]:
    """Return the exponentials of the set with index `number`."""
    return words_of(m, "own", sets, number, "exponentials")["exponentials"]


def _accumulate(m: Module, pipe: Pipeline, added: Value, last: Value, bits: int, name: str = "total") -> Value:
    """Return a register that accumulates over the beats of a row."""
    total, first = Signal(bits, name=name, reset_less=True), Signal(init=1, name=f"{name}_first")
    with m.If(pipe.fire):
        m.d.sync += [total.eq(Mux(first, 0, total) + added), first.eq(last)]
    return total
