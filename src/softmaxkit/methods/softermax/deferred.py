"""Softermax with deferred division: weights relative to the running maximum, and the reciprocal of the row's sum."""

from __future__ import annotations

from typing import Any, NamedTuple

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream

from softmaxkit.blocks.adder_tree import adder_tree, maximum, maximum_tree
from softmaxkit.blocks.gather import Gather
from softmaxkit.blocks.piecewise_linear import check_segments, line, round_line
from softmaxkit.blocks.pipeline import Pipeline, choose_cuts, is_free, named
from softmaxkit.blocks.reciprocal import PLAIN_BITS, ReciprocalUnit
from softmaxkit.blocks.shifter import saturate, shift_right
from softmaxkit.methods.base.deferred_unit import DeferredUnit, whole_slices
from softmaxkit.methods.softermax.golden import check_deferred, deferred_places
from softmaxkit.methods.softermax.powers import whole_shape
from softmaxkit.methods.softermax.spec import Softermax

FACTORS = 5
"""Queue length for reciprocals: enough for rows of one beat each in successive cycles."""


class Beat(NamedTuple):
    """A beat of powers, and the maximum of their slice.

    Attributes:
        powers: one per lane, in the unnormalised format.
        local: integer maximum of the slice.
        ends: set on the last beat of a slice.
        last: set on the last beat of a row.
    """

    powers: list[Value]
    local: Value
    ends: Value
    last: Value


class Deferred(DeferredUnit):
    """Powers of two leave as weights once the maximum of their slice is known; the reciprocal follows the row.

    Args:
        spec: the spec, with maximum="online".
        lanes: positions per beat; a divisor of the slice width.
        max_row: number of scores in the longest row.
        depth: registers from scores to weights, excluding those of a waiting slice; always 2.
        storage: has no effect, since no rows wait.
        pace: has no effect, since the unit accepts a beat every cycle.

    Raises:
        ValueError: the sizes cannot be built, or the spec does not support deferred division.
    """

    spec: Softermax
    max_rows_inside = 8

    def __init__(
        self,
        spec: Softermax,
        lanes: int,
        max_row: int = 256,
        depth: int | None = None,
        storage: str = "flip-flops",
        pace: int = 0,
    ) -> None:
        check_deferred(spec)
        check_segments(spec.power_segments, spec.reciprocal_segments)
        choose_cuts((), depth, default=2, fixed=2)
        self.depth = 2
        self.slice_beats = whole_slices(spec.slice_width, lanes)
        whole = whole_shape(spec)
        self.gather = Gather(lanes * (spec.input.bits + 1), whole, self.slice_beats, False)
        plain = spec.reciprocal_table.table.input_bits <= PLAIN_BITS
        self.reciprocal = ReciprocalUnit(
            spec.reciprocal_table, spec.power_sum.bits, 0, spec.rounding, (), queue=FACTORS, plain=plain
        )
        self.least_places = deferred_places(spec)
        factor, places = (len(self.reciprocal.sink.p[name]) for name in ("mantissa", "exponent"))
        layout = data.StructLayout({"factor": factor, "places": places})
        super().__init__(spec, lanes, max_row, storage, spec.output.bits, whole.width, layout)

    def elaborate(self, platform: object) -> Module:
        """Build the unit."""
        m = Module()
        m.submodules.reciprocal = reciprocal = self.reciprocal
        m.d.comb += [
            self.factors.valid.eq(reciprocal.sink.valid),
            self.factors.p.factor.eq(reciprocal.sink.p.mantissa),
            self.factors.p.places.eq(reciprocal.sink.p.exponent),
            reciprocal.sink.ready.eq(self.factors.ready),
        ]
        pipe, beat = self._powers(m)
        # A beat moves to the weights and to the sum in the same cycle.
        total = stream.Signature(self.spec.power_sum.bits).create(path=("total",))
        sums = Pipeline(m, "sum", pipe.valid & is_free(self.weights), total, ())
        weights = Pipeline(m, "weights", pipe.valid & is_free(total), self.weights, ())
        m.d.comb += [
            pipe.ready.eq(weights.advance & sums.advance),
            reciprocal.source.valid.eq(total.valid),
            reciprocal.source.p.divisor.eq(total.payload),
            total.ready.eq(reciprocal.source.ready),
        ]
        whole = beat.local.shape()
        highest, first = Signal(whole, reset_less=True), Signal(init=1)
        risen = named(m, "risen", Mux(first, beat.local, maximum(beat.local, highest)))
        with m.If(weights.fire):
            m.d.sync += [highest.eq(risen), first.eq(beat.last)]
        rise = named(m, "rise", Mux(first, 0, risen - highest)[: whole.width])
        lag = named(m, "lag", (risen - beat.local)[: whole.width])
        weights.finish(Cat(*self._weights(m, beat, lag), rise, beat.last))
        self._sum(m, sums, beat, rise, lag)
        return m

    def _powers(self, m: Module) -> tuple[Any, Beat]:
        """Hold scores until the maximum of their slice is known; return the stream of their powers and its beat."""
        spec, scores, lanes = self.spec, self.scores, range(self.lanes)
        m.submodules.gather = gather = self.gather
        candidates = [Mux(scores.p.mask[lane], scores.p.codes[lane], spec.input.min_code) for lane in lanes]
        local = self._whole(m, maximum_tree(m, "maximum", candidates))
        m.d.comb += [
            gather.source.valid.eq(scores.valid),
            scores.ready.eq(gather.source.ready),
            gather.source.p.beat.eq(Cat(scores.p.codes, scores.p.mask)),
            gather.source.p.key.eq(local),
            gather.source.p.present.eq(1),
            gather.source.p.last.eq(scores.p.last),
        ]
        gathered = gather.sink.p
        powers = [self._power(m, f"power{lane}", gathered.beat, lane, gathered.maximum) for lane in lanes]
        bits = spec.unnormalised.bits
        layout = data.StructLayout(
            {"powers": data.ArrayLayout(bits, self.lanes), "local": local.shape(), "ends": 1, "last": 1}
        )
        powered = stream.Signature(layout).create(path=("powered",))
        pipe = Pipeline(m, "front", gather.sink.valid, powered, ())
        m.d.comb += gather.sink.ready.eq(pipe.advance)
        pipe.finish(Cat(*powers, gathered.maximum, gathered.group_last, gathered.last))
        beat = powered.p
        return powered, Beat([beat.powers[lane] for lane in lanes], beat.local, beat.ends, beat.last)

    def _whole(self, m: Module, code: Value) -> Value:
        """Round a score up (or down) to an integer, saturating at the largest integer of the format."""
        spec, bits = self.spec, self.spec.input.fraction_bits
        whole = code >> bits
        if spec.integer_maximum == "ceil" and bits:
            whole = Mux(code[:bits].any() & (whole != spec.input.max_code >> bits), whole + 1, whole)
        result = Signal(whole_shape(spec), name="whole")
        m.d.comb += result.eq(whole)
        return result

    def _power(self, m: Module, name: str, beat: Value, lane: int, whole: Value) -> Value:
        """Return 2**(score - whole) in the unnormalised format; 0 where masked."""
        spec, bits = self.spec, self.spec.input.bits
        code = beat[lane * bits :][:bits].as_signed()
        above = max(spec.input.fraction_bits - bits, 0)  # bits of the fraction that a narrow code leaves to its sign
        fraction = Cat(code, code[-1].replicate(above))[: spec.input.fraction_bits]
        # No score that counts is above the maximum by 1 or more.
        distance = named(m, f"{name}_distance", (whole - (code >> spec.input.fraction_bits))[: len(whole)])
        value = line(m, f"{name}_line", spec.power_table, fraction, spec.rounding)
        value = round_line(m, f"{name}_fraction", spec.power_table, value, spec.rounding)
        shifted = shift_right(m, f"{name}_shifted", value, distance.as_unsigned(), spec.rounding)
        mask = beat[self.lanes * bits + lane]
        return named(m, name, Mux(mask, saturate(m, f"{name}_saturated", shifted, spec.unnormalised.bits), 0))

    def _weights(self, m: Module, beat: Beat, lag: Value) -> list[Value]:
        """Return powers in the output format, relative to the running maximum."""
        spec = self.spec
        change = spec.unnormalised.fraction_bits - spec.output.fraction_bits
        lowered = [
            shift_right(m, f"lowered{lane}", power, lag, spec.rounding, fraction_bits=change)
            for lane, power in enumerate(beat.powers)
        ]
        return [saturate(m, f"weight{lane}", power, spec.output.bits) for lane, power in enumerate(lowered)]

    def _sum(self, m: Module, pipe: Pipeline, beat: Beat, rise: Value, lag: Value) -> None:
        """Sum the powers of each slice exactly, and accumulate the slices of a row."""
        spec, bits = self.spec, self.spec.power_sum.bits
        added = adder_tree(m, "added", beat.powers)
        kept = Signal(len(added) + (self.slice_beats - 1).bit_length(), name="slice_sum", reset_less=True)
        total = Signal(bits, name="total", reset_less=True)
        begins, first = Signal(init=1, name="slice_begins"), Signal(init=1, name="row_begins")
        # The maximum rises with the first beat of a slice, the total with its last.
        risen = Signal(len(rise), name="rise_of_slice", reset_less=True)
        rise = named(m, "rise_now", Mux(begins, rise, risen))
        slice_sum = named(m, "slice_sum_next", (added + Mux(begins, 0, kept))[: len(kept)])
        change = spec.unnormalised.fraction_bits - spec.power_sum.fraction_bits
        before = shift_right(m, "total_lowered", Mux(first, 0, total), rise, spec.rounding)
        joins = shift_right(m, "slice_lowered", slice_sum, lag, spec.rounding, fraction_bits=change)
        with m.If(pipe.fire):
            m.d.sync += [kept.eq(slice_sum), begins.eq(beat.ends), risen.eq(rise)]
            with m.If(beat.ends):
                m.d.sync += [total.eq(saturate(m, "total_next", before + joins, bits)), first.eq(beat.last)]
        pipe.keep(beat.last)
        pipe.finish(Cat(), state=total)
