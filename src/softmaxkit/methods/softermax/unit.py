"""The Softermax unit: the paper's Unnormalised Softmax Unit and Normalisation Unit, and a row buffer between them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.adder_tree import adder_tree, maximum_tree
from softmaxkit.blocks.gather import Gather
from softmaxkit.blocks.parts import Part, table_part
from softmaxkit.blocks.piecewise_linear import check_segments, line, round_line, shape_of
from softmaxkit.blocks.pipeline import Pipeline, choose_cuts, named
from softmaxkit.blocks.reciprocal import ReciprocalUnit
from softmaxkit.blocks.row_buffer import RowBuffer
from softmaxkit.blocks.shifter import saturate, shift_right
from softmaxkit.blocks.storage import MemoryPort, check_storage
from softmaxkit.blocks.stream import Slices, beats, check_sizes, result_layout, score_layout, slices
from softmaxkit.methods.softermax.spec import Softermax
from softmaxkit.methods.unit import SoftmaxUnit
from softmaxkit.spec import Constants

CUTS = ("product", "argument", "power", "line", "shifted")
"""Places for registers, the most useful first."""


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
        self, spec: Softermax, lanes: int, max_row: int, registers: frozenset[str], storage: str = "flip-flops"
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
        fraction = code[: spec.input.fraction_bits]
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


class NormalisationUnit(wiring.Component):
    """Shift to the row's maximum, reciprocal of its sum, and product: the part that many processing elements share.

    Args:
        spec: the method.
        lanes: positions a beat.
        registers: cuts that hold a register.

    Attributes:
        totals: stream in, of `total` and `highest`, one a row.
        powers: stream in, of `powers`, `maxima` and `last`, as in `power_layout`.
        results: stream out, of `result_layout`.
    """

    def __init__(self, spec: Softermax, lanes: int, registers: frozenset[str]) -> None:
        self.spec, self.lanes, self.registers = spec, lanes, registers
        layout = power_layout(spec, lanes).members
        whole = layout["highest"]
        self.reciprocal = ReciprocalUnit(
            spec.reciprocal_table, spec.power_sum.bits, Shape.cast(whole).width, spec.rounding, registers
        )
        self.latency = 1 + len(registers & {"shifted", "product"})
        super().__init__(
            {
                "totals": In(stream.Signature(data.StructLayout({"total": spec.power_sum.bits, "highest": whole}))),
                "powers": In(stream.Signature(buffered_layout(spec, lanes))),
                "results": Out(stream.Signature(result_layout(spec.output.bits, lanes))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build it."""
        m = Module()
        spec, powers = self.spec, self.powers
        m.submodules.reciprocal = reciprocal = self.reciprocal
        ready, found = reciprocal.sink, reciprocal.sink.p
        pipe = Pipeline(m, "back", powers.valid & ready.valid, self.results, self.registers)
        m.d.comb += [
            reciprocal.source.valid.eq(self.totals.valid),
            reciprocal.source.p.divisor.eq(self.totals.p.total),
            reciprocal.source.p.tag.eq(self.totals.p.highest),
            self.totals.ready.eq(reciprocal.source.ready),
            powers.ready.eq(pipe.advance & ready.valid),
            ready.ready.eq(pipe.fire & powers.p.last),
        ]
        lanes = [powers.p.powers[lane] for lane in range(self.lanes)]
        if spec.maximum == "online":
            highest = found.tag.as_signed()
            count = slices_of(spec, self.lanes).a_beat
            lags = [named(m, f"lag{i}", (highest - powers.p.maxima[i])[: len(highest)]) for i in range(count)]
            lanes = [
                shift_right(m, f"shifted{i}", power, lags[i * count // self.lanes], spec.rounding)[: len(power)]
                for i, power in enumerate(lanes)
            ]
        state = (lanes, found.mantissa, found.exponent, powers.p.last)
        lanes, mantissa, exponent, last = pipe.cut("shifted", state)
        lanes = [named(m, f"product{i}", power * mantissa) for i, power in enumerate(lanes)]
        lanes, exponent, last = pipe.cut("product", (lanes, exponent, last))
        places = spec.unnormalised.fraction_bits + spec.reciprocal.fraction_bits
        places -= spec.power_sum.fraction_bits + spec.output.fraction_bits
        results = [
            shift_right(m, f"rounded{i}", product, exponent, spec.rounding, fraction_bits=places)
            for i, product in enumerate(lanes)
        ]
        results = [saturate(m, f"result{i}", result, spec.output.bits) for i, result in enumerate(results)]
        pipe.finish(Cat(*results, last))
        return m


def buffered_layout(spec: Softermax, lanes: int) -> data.StructLayout:
    """Return what of a beat waits in the row buffer; the one maximum of a whole row need not."""
    members = power_layout(spec, lanes).members
    names = ("powers", "maxima", "last") if spec.maximum == "online" else ("powers", "last")
    return data.StructLayout({name: members[name] for name in names})


class Unit(SoftmaxUnit):
    """Softermax: the two units, and a row buffer of powers between them.

    A row's results follow when it is complete, while the next ones come in; there are no bubbles between rows.

    Args:
        spec: the method.
        lanes: positions a beat; a divisor or a multiple of the slice width.
        constants: of no consequence: the score scale is not for the unit to know.
        max_row: scores of the longest row.
        depth: registers from scores to results, buffers not counted.
        storage: of the rows that wait.

    Raises:
        ValueError: sizes that cannot be built.
    """

    spec: Softermax

    def __init__(
        self,
        spec: Softermax,
        lanes: int = 16,
        constants: Constants | None = None,
        max_row: int = 256,
        depth: int | None = None,
        storage: str = "flip-flops",
    ) -> None:
        check_sizes(lanes, max_row)
        check_storage(storage)
        check_segments(spec.power_segments, spec.reciprocal_segments)
        cuts = [cut for cut in CUTS if spec.maximum == "online" or cut != "shifted"]
        registers = choose_cuts(cuts, depth, default=3 + len(cuts), fixed=3)
        self.depth = 3 + len(registers)
        self.front = UnnormalisedUnit(spec, lanes, max_row, registers, storage)
        self.back = NormalisationUnit(spec, lanes, registers)
        width = buffered_layout(spec, lanes).as_shape().width
        # So many beats come in after a row until its first result leaves.
        held = beats(max_row, lanes) + self.back.reciprocal.latency
        self.buffer = RowBuffer(width, held, storage)
        memories = {}
        if storage == "memory":
            memories["power_memory"] = MemoryPort(width, held)
            if "score_memory" in self.front.signature.members:
                memories["score_memory"] = self.front.signature.members["score_memory"].signature
        super().__init__(spec, lanes, constants, max_row, storage, memories=memories)

    def parts(self) -> list[Part]:
        """Return the parts that can be tried with all their inputs."""
        tables = {"power": self.spec.power_table, "reciprocal": self.spec.reciprocal_table.table}
        return [table_part(f"{name} table", table, self.spec.rounding) for name, table in tables.items()]

    @property
    def result_bits(self) -> int:
        """Width of a result code."""
        return self.spec.output.bits

    def latency(self, length: int) -> int:
        """Return the cycles from the first beat of a row to its last result."""
        taken = beats(length, self.lanes)
        gather = self.front.gather
        waiting = 0 if gather is None else gather.waiting(taken)
        complete = taken - 1 + waiting + self.front.latency
        return complete + self.back.reciprocal.latency + taken - 1 + self.back.latency

    def interval(self, length: int) -> int:
        """Return the cycles between rows in a stream: a beat a cycle, always."""
        return beats(length, self.lanes)

    def elaborate(self, platform: object) -> Module:
        """Build it."""
        m = Module()
        m.submodules.front, m.submodules.buffer, m.submodules.back = front, buffer, back = (
            self.front,
            self.buffer,
            self.back,
        )
        wiring.connect(m, wiring.flipped(self.scores), front.scores)
        wiring.connect(m, wiring.flipped(self.results), back.results)
        for name, inner in (("power_memory", buffer), ("score_memory", front)):
            if name in self.memories:
                wiring.connect(
                    m, wiring.flipped(getattr(self, name)), getattr(inner, "memory" if inner is buffer else name)
                )
        given = front.powers
        ready = buffer.source.ready & (~given.p.last | back.totals.ready)
        m.d.comb += [
            given.ready.eq(ready),
            buffer.source.valid.eq(given.valid & ready),
            *(
                field.eq(getattr(given.p, name))
                for name, field in _fields(buffered_layout(self.spec, self.lanes)(buffer.source.payload))
            ),
            back.totals.valid.eq(given.valid & ready & given.p.last),
            back.totals.payload.eq(Cat(given.p.total, given.p.highest)),
            back.powers.valid.eq(buffer.sink.valid),
            back.powers.payload.eq(buffer.sink.payload),
            buffer.sink.ready.eq(back.powers.ready),
        ]
        return m


def _fields(view: data.View) -> list[tuple[str, Any]]:
    return [(name, getattr(view, name)) for name in view.shape().members]
