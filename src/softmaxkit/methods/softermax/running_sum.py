"""The running sum of powers, relative to a running maximum: one step per slice."""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.adder_tree import adder_tree
from softmaxkit.blocks.pipeline import Pipeline, named
from softmaxkit.blocks.shifter import saturate, shift
from softmaxkit.blocks.shifter import shift_right as shifted_right
from softmaxkit.methods.softermax.powers import power_layout, slices_of, summand, summed_bits, whole_shape
from softmaxkit.methods.softermax.spec import Softermax
from softmaxkit.rounding import shift_right


def largest_sum(spec: Softermax, max_row: int, rises: bool = False) -> int:
    """Return an upper bound of the sum of a row; with `rises`, of a partial sum whose maximum rises afterwards.

    Each slice adds at most its largest powers, rounded up; rounding a sum that is shifted down cannot raise the bound.
    """
    entries = spec.power_table(np.arange(1 << spec.power_table.input_bits), spec.rounding)
    # With "ceil" powers exceed 1 only for scores above the largest integer, and that maximum cannot rise further.
    largest = entries[0] if rises and spec.integer_maximum == "ceil" else entries.max()
    width = spec.slice_width if spec.maximum == "online" else max_row
    change = spec.unnormalised.fraction_bits - spec.power_sum.fraction_bits
    a_slice = shift_right(np.minimum(largest, spec.unnormalised.max_code) * width, change, "ceil")
    return int(a_slice) * (-(-max_row // width) - rises)


def total_layout(spec: Softermax, max_row: int) -> data.StructLayout:
    """Return the layout of a complete row: `total`, its sum, and `highest`, the maximum to which it is relative."""
    highest = whole_shape(spec) if spec.maximum == "online" else unsigned(0)
    bits = min(largest_sum(spec, max_row).bit_length(), spec.power_sum.bits)
    return data.StructLayout({"total": bits, "highest": highest})


class Sum(NamedTuple):
    """A sum of powers, and the maximum to which it is relative."""

    highest: Value
    total: Value


class RunningSum(wiring.Component):
    """Sums the powers of each slice exactly, and accumulates the slices of a row in order.

    Args:
        spec: the spec.
        lanes: positions per beat; a divisor or a multiple of the slice width.
        max_row: number of scores in the longest row.
        beats: beats per exact sum: those of a slice, or of the longest row with the global maximum.
        registers: the cuts that have a register; "sum" is between the sum of a slice and its accumulation.

    Attributes:
        source: input stream of `beat`, see `power_layout`, and `ends`, set on the last beat of an exact sum.
        sink: output stream of `total_layout`, one per row.
        latency: cycles from the last beat of a row to its sum.
    """

    def __init__(self, spec: Softermax, lanes: int, max_row: int, beats: int, registers: Set[str]) -> None:
        self.spec, self.lanes, self.beats, self.registers = spec, lanes, beats, registers
        self.saturates = largest_sum(spec, max_row) > spec.power_sum.max_code
        self.largest_shifted = min(largest_sum(spec, max_row, rises=True), spec.power_sum.max_code)
        self.latency = 1 + ("sum" in registers)
        self.in_steps = beats > 1 and spec.maximum == "online" and "sum" in registers
        self.change = spec.unnormalised.fraction_bits - spec.power_sum.fraction_bits
        beat = data.StructLayout({"ends": 1, "beat": power_layout(spec, lanes, summed_bits(spec))})
        super().__init__(
            {"source": In(stream.Signature(beat)), "sink": Out(stream.Signature(total_layout(spec, max_row)))}
        )

    def elaborate(self, platform: object) -> Module:
        """Build the unit."""
        m = Module()
        spec, source = self.spec, self.source.p
        powers = [summand(m, f"power{lane}", spec, source.beat.powers[lane]) for lane in range(self.lanes)]
        width = self.lanes // slices_of(spec, self.lanes).a_beat
        sums = [adder_tree(m, f"sum{first}", powers[first : first + width]) for first in range(0, self.lanes, width)]
        if self.in_steps:
            return self._in_steps(m, sums[0])
        pipe = Pipeline(m, "sum", self.source.valid, self.sink, self.registers)
        m.d.comb += self.source.ready.eq(pipe.advance)
        maxima = [source.beat.maxima[index] for index in range(len(sums))] if spec.maximum == "online" else []
        if self.beats == 1:
            sums, maxima, last = pipe.cut("sum", (sums, maxima, source.beat.last))
        else:
            sums = [self._of_slice(m, pipe, sums[0])]
            maxima = pipe.hold("sum", maxima, source.ends)
            pipe.keep(source.ends)
            last = pipe.cut("sum", source.beat.last)
        total, highest = self._state()
        if spec.maximum == "online":
            first = Signal(init=1)
            with m.If(pipe.fire):
                m.d.sync += first.eq(last)
            joined = Sum(highest, named(m, "total_before", Mux(first, 0, total)))
            for index, part in enumerate(map(Sum, maxima, sums)):
                joined = self._join(m, f"join{index}", joined, part, first if index == 0 else Const(0))
        else:
            settled = shifted_right(m, "settled", sums[0], 0, spec.rounding, fraction_bits=self.change)
            joined = Sum(highest, self._limited(m, settled))
        with m.If(pipe.fire):
            m.d.sync += [total.eq(joined.total), highest.eq(joined.highest)]
        pipe.keep(last)
        pipe.finish(Cat(), state=Cat(total, highest))
        return m

    def _state(self) -> tuple[Signal, Signal]:
        """Return the registers of a row's running sum, and of the maximum to which it is relative."""
        fields = self.sink.p
        total = Signal(len(fields.total), name="total", reset_less=True)
        return total, Signal(fields.highest.shape(), name="highest", reset_less=True)

    def _limited(self, m: Module, value: Value) -> Value:
        """Return a sum at its final width, saturated if some rows can exceed its format."""
        bits = len(self.sink.p.total)
        return saturate(m, "total_next", value, bits) if self.saturates else named(m, "total_next", value[:bits])

    def _of_slice(self, m: Module, pipe: Pipeline, added: Value) -> Value:
        """Return the sum of a slice of several beats; its register also serves as that of a following cut."""
        kept = Signal(len(added) + (self.beats - 1).bit_length(), name="slice_sum", reset_less=True)
        begins = Signal(init=1, name="slice_begins")
        risen = named(m, "slice_sum_next", (added + Mux(begins, 0, kept))[: len(kept)])
        with m.If(pipe.fire):
            m.d.sync += [kept.eq(risen), begins.eq(self.source.p.ends)]
        return kept if "sum" in self.registers else risen

    def _in_steps(self, m: Module, added: Value) -> Module:
        """Accumulate slices of several beats in two steps, with one shifter and one adder.

        While the last beat of a slice is added to it, the total is rescaled if the maximum rises; in the next cycle the
        slice is added to the total. The distance between the two maxima is known one cycle after the slice's first
        beat, so a slice of a single beat takes two cycles.
        """
        source, rounding = self.source.p, self.spec.rounding
        total, highest = self._state()
        known, first, rises = Signal(), Signal(init=1), Signal()
        ready = known | ~source.ends
        pipe = Pipeline(m, "sum", self.source.valid & ready, self.sink, self.registers)
        m.d.comb += self.source.ready.eq(pipe.advance & ready)
        slice_sum = self._of_slice(m, pipe, added)
        fine, coarse = max(self.change, 0), max(-self.change, 0)
        # The shift at which a total, or the sum of a slice, becomes a half or less, and so rounds to 0, which is even.
        least = max((self.largest_shifted - 1).bit_length() + 1, len(total), len(slice_sum) + coarse - fine + 1)
        apart = Signal(least.bit_length(), reset_less=True)
        ends = named(m, "slice_ends", pipe.fire & source.ends)
        m.d.sync += known.eq((known | self.source.valid) & ~ends)
        # With one subtracted, the sign tells a rise, and a fall is the inverse of its bits. The first slice of a row
        # rises so far that nothing is left of the previous row.
        rise = named(m, "rise", source.beat.maxima[0] + ~highest)
        distance = named(m, "distance", rise[:-1] ^ rise[-1].replicate(len(rise) - 1))
        with m.If(self.source.valid & ~known):
            m.d.sync += [
                rises.eq(~rise[-1] | first),
                apart.eq(saturate(m, "distance_near", distance, len(apart)) | first.replicate(len(apart))),
            ]
        with m.If(ends):
            m.d.sync += first.eq(source.beat.last)
        with m.If(ends & rises):
            m.d.sync += highest.eq(source.beat.maxima[0])
        pipe.keep(source.ends)
        last = pipe.cut("sum", source.beat.last)
        joins = pipe.valid
        places = named(m, "places", Mux(joins & rises, 0, apart))
        moved = shift(m, "moved", Mux(joins, slice_sum << (coarse + 1), total << fine), places, fine + 1)
        up = moved.round_up(rounding)
        if len(total) == (1 << len(apart)) - 1:
            up &= ~places.all()  # the previous row may have left more than a half
        joined = named(m, "joined", (Cat(up, Mux(joins, total, 0)) + Cat(up, moved.whole))[1:])  # up is the carry in
        with m.If((ends & rises) | pipe.fire):
            m.d.sync += total.eq(self._limited(m, joined))
        pipe.keep(last)
        pipe.finish(Cat(), state=Cat(total, highest))
        return m

    def _join(self, m: Module, name: str, before: Sum, added: Sum, first: Value) -> Sum:
        """Add the exact sum of a slice to the previous sum, if not the first; only one of them is shifted."""
        rounding, fine, coarse = self.spec.rounding, max(self.change, 0), max(-self.change, 0)
        rise = named(m, f"{name}_rise", added.highest - before.highest)
        rises = named(m, f"{name}_rises", first | ~rise[-1])
        # A fall of d is a rise of -d: the inverse of its bits, plus one place.
        places = named(m, f"{name}_places", rise[:-1] ^ (~rises).replicate(len(rise) - 1))
        exact = added.total << coarse
        settled = shifted_right(m, f"{name}_settled", exact, 0, rounding, fraction_bits=fine)
        moved = shift(m, f"{name}_moved", Mux(rises, before.total << (fine + 1), exact), places, fine + 1)
        joined = Mux(rises, settled, before.total) + moved.whole + moved.round_up(rounding)
        total = self._limited(m, joined)
        return Sum(named(m, f"{name}_highest", Mux(rises, added.highest, before.highest)), total)
