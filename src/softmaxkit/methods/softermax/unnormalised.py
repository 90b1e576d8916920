"""The Unnormalised Softmax Unit: integer maximum, powers of two, and their running sum."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.adder_tree import adder_tree, maximum_tree
from softmaxkit.blocks.gather import Gather
from softmaxkit.blocks.piecewise_linear import line, round_line, shape_of
from softmaxkit.blocks.pipeline import Pipeline, named
from softmaxkit.blocks.shifter import saturate, shift_right
from softmaxkit.blocks.stream import Slices, beats, check_sizes, score_layout, slices
from softmaxkit.methods.softermax.spec import Softermax


def slices_of(spec: Softermax, lanes: int) -> Slices:
    """Return how slices lie in beats; with the global maximum, every beat counts as one."""
    return slices(spec.slice_width, lanes) if spec.maximum == "online" else Slices(1, 1)


def whole_shape(spec: Softermax) -> Shape:
    """Return the shape of an integer maximum."""
    shift = spec.input.fraction_bits
    low, high = spec.input.min_code >> shift, spec.input.max_code >> shift
    return shape_of([low, high, -1])


def power_layout(spec: Softermax, lanes: int) -> data.StructLayout:
    """Return what the Unnormalised Softmax Unit gives for a beat.

    `powers` of each lane; `maxima`, the integer maximum that the powers of each slice refer to; `last`; and the
    running `highest` and `total`, which are those of the row where `last` is set.
    """
    whole = whole_shape(spec)
    return data.StructLayout(
        {
            "powers": data.ArrayLayout(spec.unnormalised.bits, lanes),
            "maxima": data.ArrayLayout(whole, slices_of(spec, lanes).a_beat),
            "last": 1,
            "highest": whole,
            "total": spec.power_sum.bits,
        }
    )


class UnnormalisedUnit(wiring.Component):
    """Integer maximum, powers of two and their running sum: the part that sits at every processing element.

    Args:
        spec: the method.
        lanes: positions a beat; a divisor or a multiple of the slice width.
        max_row: scores of the longest row, which waits for its maximum where that is "global".
        registers: cuts that hold a register.
        storage: of the scores that wait.

    Attributes:
        scores: stream in, of `score_layout`.
        powers: stream out, of `power_layout`.
        score_memory: port, where whole rows wait in a "memory".

    Raises:
        ValueError: sizes that cannot be built.
    """

    def __init__(
        self, spec: Softermax, lanes: int, max_row: int, registers: Set[str], storage: str = "flip-flops"
    ) -> None:
        check_sizes(lanes, max_row)
        self.spec, self.lanes, self.registers, self.slices = spec, lanes, registers, slices_of(spec, lanes)
        whole_rows = spec.maximum == "global"
        self.latency = 1 + ("power" in registers)
        self.gather: Gather | None = None
        ports: dict[str, Any] = {
            "scores": In(stream.Signature(score_layout(Shape(spec.input.bits, signed=True), lanes))),
            "powers": Out(stream.Signature(power_layout(spec, lanes))),
        }
        if whole_rows or self.slices.beats > 1:
            held = beats(max_row, lanes) if whole_rows else self.slices.beats
            # A slice is too small for a memory of its own.
            kind = "flip-flops" if storage == "memory" and not whole_rows else storage
            self.gather = Gather(lanes * (spec.input.bits + 1), whole_shape(spec), held, whole_rows, kind)
            if kind == "memory":
                ports["score_memory"] = Out(self.gather.signature.members["memory"].signature)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        """Build it."""
        m = Module()
        spec, scores = self.spec, self.scores
        per_slice = self.lanes // self.slices.a_beat
        candidates = [Mux(scores.p.mask[lane], scores.p.codes[lane], spec.input.min_code) for lane in range(self.lanes)]
        local = [
            self._whole(m, f"maximum{index}", maximum_tree(m, f"maximum{index}", candidates[first : first + per_slice]))
            for index, first in enumerate(range(0, self.lanes, per_slice))
        ]
        beat = Cat(scores.p.codes, scores.p.mask)
        if self.gather is None:
            pipe = Pipeline(m, "front", scores.valid, self.powers, self.registers)
            m.d.comb += scores.ready.eq(pipe.advance)
            slice_last, last = Const(1), scores.p.last
        else:
            m.submodules.gather = gather = self.gather
            if "score_memory" in self.signature.members:
                wiring.connect(m, wiring.flipped(self.score_memory), gather.memory)
            m.d.comb += [
                gather.source.valid.eq(scores.valid),
                scores.ready.eq(gather.source.ready),
                gather.source.p.beat.eq(beat),
                gather.source.p.key.eq(local[0]),
                gather.source.p.present.eq(1),
                gather.source.p.last.eq(scores.p.last),
            ]
            pipe = Pipeline(m, "front", gather.sink.valid, self.powers, self.registers)
            m.d.comb += gather.sink.ready.eq(pipe.advance)
            beat, local = gather.sink.p.beat, [gather.sink.p.maximum]
            slice_last, last = gather.sink.p.group_last, gather.sink.p.last
        powers = [self._power(m, f"power{lane}", beat, lane, local[lane // per_slice]) for lane in range(self.lanes)]
        powers, local, slice_last, last = pipe.cut("power", (powers, local, slice_last, last))
        sums = [
            adder_tree(m, f"sum{index}", powers[first : first + per_slice])
            for index, first in enumerate(range(0, self.lanes, per_slice))
        ]
        highest, total = self._running(m, pipe, local, sums, slice_last, last)
        pipe.finish(Cat(*powers, *local, last), state=Cat(highest, total))
        return m

    def _whole(self, m: Module, name: str, code: Value) -> Value:
        """Round a score up (or down) to a whole number, saturating at the format's largest."""
        bits = self.spec.input.fraction_bits
        whole = code >> bits
        if self.spec.integer_maximum == "ceil" and bits:
            largest = self.spec.input.max_code >> bits
            whole = Mux(code[:bits].any() & (whole != largest), whole + 1, whole)
        result = Signal(whole_shape(self.spec), name=f"{name}_whole")
        m.d.comb += result.eq(whole)
        return result

    def _power(self, m: Module, name: str, beat: Value, lane: int, whole: Value) -> Value:
        """Return 2**(score - whole) in the unnormalised format; 0 where masked."""
        spec, bits = self.spec, self.spec.input.bits
        code = beat[lane * bits : (lane + 1) * bits].as_signed()
        above = max(spec.input.fraction_bits - bits, 0)  # bits of the fraction that a narrow code leaves to its sign
        fraction = Cat(code, code[-1].replicate(above))[: spec.input.fraction_bits]
        # No score that counts is above the maximum by 1 or more.
        distance = named(m, f"{name}_distance", (whole - (code >> spec.input.fraction_bits))[: len(whole)])
        value = line(m, f"{name}_line", spec.power_table, fraction, spec.rounding)
        value = round_line(m, f"{name}_fraction", spec.power_table, value, spec.rounding)
        shifted = shift_right(m, f"{name}_shifted", value, distance.as_unsigned(), spec.rounding)
        saturated = saturate(m, f"{name}_saturated", shifted, spec.unnormalised.bits)
        return named(m, name, Mux(beat[self.lanes * bits + lane], saturated, 0))

    def _running(
        self, m: Module, pipe: Pipeline, local: list[Value], sums: list[Value], slice_last: Value, last: Value
    ) -> tuple[Value, Value]:
        """Join the slices of a beat to the running maximum and sum; return these, as they are after the beat."""
        spec = self.spec
        whole, first = whole_shape(spec), Signal(init=1)
        held_highest = Signal(whole, reset_less=True, name="highest")
        held_total = Signal(spec.power_sum.bits, reset_less=True, name="total")
        with m.If(pipe.fire & slice_last):
            m.d.sync += first.eq(last)
        if spec.maximum == "global" or self.slices.beats > 1:
            count = self.slices.beats if spec.maximum == "online" else self.gather.beats  # type: ignore[union-attr]
            kept = Signal(len(sums[0]) + (count - 1).bit_length(), name="slice_sum", reset_less=True)
            begins = Signal(init=1, name="slice_begins")
            sums = [named(m, "slice_sum_next", (sums[0] + Mux(begins, 0, kept))[: len(kept)])]
            with m.If(pipe.fire):
                m.d.sync += [kept.eq(sums[0]), begins.eq(slice_last)]
        change = spec.unnormalised.fraction_bits - spec.power_sum.fraction_bits
        if spec.maximum == "global":
            added = shift_right(m, "added", sums[0], 0, spec.rounding, fraction_bits=change)
            highest, total = local[0], saturate(m, "total_next", added, spec.power_sum.bits)
        else:
            lowest = spec.input.min_code >> spec.input.fraction_bits
            highest = named(m, "highest_before", Mux(first, lowest, held_highest))
            total = named(m, "total_before", Mux(first, 0, held_total))
            for index, (maximum, added) in enumerate(zip(local, sums, strict=True)):
                risen = Signal(whole, name=f"risen{index}")
                m.d.comb += risen.eq(Mux(maximum > highest, maximum, highest))
                rise = named(m, f"rise{index}", (risen - highest)[: len(risen)]).as_unsigned()
                lag = named(m, f"lag{index}", (risen - maximum)[: len(risen)]).as_unsigned()
                kept_total = shift_right(m, f"kept{index}", total, rise, spec.rounding)
                added = shift_right(m, f"added{index}", added, lag, spec.rounding, fraction_bits=change)
                total = saturate(m, f"total{index}", kept_total + added, spec.power_sum.bits)
                highest = risen
        with m.If(pipe.fire & slice_last):
            m.d.sync += [held_highest.eq(highest), held_total.eq(total)]
        return held_highest, held_total
