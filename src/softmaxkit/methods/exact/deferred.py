"""Exact softmax with deferred division: exponentials relative to the running maximum, and the sum's reciprocal."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream

from softmaxkit.blocks.adder_tree import adder_tree
from softmaxkit.blocks.gather import Gather
from softmaxkit.blocks.piecewise_linear import check_segments
from softmaxkit.blocks.pipeline import Pipeline, choose_cuts, is_free, named
from softmaxkit.blocks.reciprocal import ReciprocalUnit
from softmaxkit.blocks.shifter import shift_right
from softmaxkit.methods.base.deferred_unit import DeferredUnit, whole_slices
from softmaxkit.methods.exact import datapath
from softmaxkit.methods.exact.conversion import TakesFloats, fixed_weight
from softmaxkit.methods.exact.datapath import exponentials, from_ordered
from softmaxkit.methods.exact.fronts import gathered, running_maximum, scores_of
from softmaxkit.methods.exact.golden import deferred_places
from softmaxkit.methods.exact.spec import WEIGHT, Exact

FACTORS = 5
"""Queue length for reciprocals of row sums."""
LEAST_PACE = 2
"""Cycles that rescaling a sum takes, and so the minimum number of cycles between beats."""


class Deferred(TakesFloats, DeferredUnit):
    """Exponentials leave as weights once the maximum of their slice is known; the reciprocal follows the row.

    When the maximum rises, the exponential of its change accompanies the weights. The consumer multiplies its previous
    sums by it, as this unit does with the row's sum. That takes one cycle for the product and one for shift and
    addition, so a beat is accepted at most every second cycle.

    Args:
        spec: the spec.
        lanes: positions per beat; a divisor of the slice width.
        max_row: number of scores in the longest row.
        depth: registers from scores to weights, excluding those of a waiting slice.
        storage: has no effect, since no rows wait.
        pace: cycles for which the consumer of the weights is busy with one beat, if more than 2.

    Raises:
        ValueError: the sizes cannot be built.
    """

    spec: Exact

    def __init__(
        self,
        spec: Exact,
        lanes: int,
        max_row: int = 256,
        depth: int | None = None,
        storage: str = "flip-flops",
        pace: int = 0,
    ) -> None:
        check_segments(spec.exponential_segments, spec.reciprocal_segments)
        number = spec.format
        bends = set(datapath.BENDS[spec.bends :])
        cuts = [cut for cut in (*datapath.CUTS, "maximum") if cut not in bends]
        self.cuts = choose_cuts(cuts, depth, default=2 + len(cuts), fixed=2)
        self.depth = 2 + len(self.cuts)
        self.pace = max(pace, LEAST_PACE)
        self.slice_beats = whole_slices(spec.slice_width, lanes)
        self.max_rows_inside = 8 + self.depth // LEAST_PACE
        self.gather = Gather(lanes * (number.bits + 1), datapath.key_shape(number), self.slice_beats, False)
        total_bits = (max_row << spec.sum_fraction_bits).bit_length()
        self.reciprocal = ReciprocalUnit(
            spec.reciprocal, total_bits, 0, "nearest", ("argument",), spec.sum_fraction_bits, FACTORS
        )
        self.least_places, self.scale_places = deferred_places(spec), number.mantissa_bits + 1
        factor = len(self.reciprocal.sink.p.mantissa)
        # The exponent for a sum of 1 is `sum_fraction_bits`.
        places = (total_bits - 1 - spec.sum_fraction_bits).bit_length()
        layout = data.StructLayout({"factor": factor, "places": places})
        super().__init__(
            spec, lanes, max_row, storage, WEIGHT.bits, number.exponent_bits, layout, self.scale_places + 1
        )

    def elaborate(self, platform: object) -> Module:
        """Build the unit."""
        m = Module()
        m.submodules.reciprocal = reciprocal = self.reciprocal
        m.d.comb += [
            self.factors.valid.eq(reciprocal.sink.valid),
            self.factors.p.factor.eq(reciprocal.sink.p.mantissa),
            self.factors.p.places.eq(reciprocal.sink.p.exponent - self.spec.sum_fraction_bits),
            reciprocal.sink.ready.eq(self.factors.ready),
        ]
        front = self._exponentials(m)
        # A beat moves to the weights and to the sum in the same cycle. The next one must not follow directly, as could
        # happen after a stall.
        total = stream.Signature(len(reciprocal.source.p.divisor)).create(path=("total",))
        rests = Signal()
        goes = front.valid & ~rests
        sums = Pipeline(m, "sum", goes & is_free(self.weights), total, ("scaled",))
        weights = Pipeline(m, "weights", goes & is_free(total), self.weights, ())
        m.d.comb += [
            front.ready.eq(weights.advance & sums.advance & ~rests),
            reciprocal.source.valid.eq(total.valid),
            reciprocal.source.p.divisor.eq(total.payload),
            total.ready.eq(reciprocal.source.ready),
        ]
        with m.If(sums.advance):
            m.d.sync += rests.eq(sums.valid)
        beat, number = front.p, self.spec.format
        powers = datapath.exponentials_of(number, beat.powers, self.lanes)
        codes = [
            fixed_weight(m, f"weight{lane}", number, Cat(mantissa, field))
            for lane, (field, mantissa) in enumerate(powers)
        ]
        weights.finish(Cat(*codes, beat.rise, beat.scale, beat.last))
        self._sum(m, sums, powers, beat)
        return m

    def _exponentials(self, m: Module) -> stream.Interface:
        """Return the stream of exponentials relative to the running maximum, with that of the maximum's rise."""
        number = self.spec.format
        source = gathered(m, self, self.gather)
        members = self.weights.payload.shape().members
        layout = {
            "powers": self.lanes * (number.bits - 1),
            **{name: members[name] for name in ("rise", "scale", "last")},
        }
        front = stream.Signature(data.StructLayout(layout)).create(path=("front",))
        # Beats enter at the pace at which they are accepted at the end, so that none blocks those behind it.
        left = Signal(range(self.pace))
        enters = left == 0
        pipe = Pipeline(m, "front", source.valid & enters, front, self.cuts)
        m.d.comb += source.ready.eq(pipe.advance & enters)
        with m.If(pipe.advance):
            m.d.sync += left.eq(Mux(enters, Mux(source.valid, self.pace - 1, 0), left - 1))
        scores, mask = scores_of(number, source.p.beat, self.lanes)
        ((before, after),) = running_maximum(m, pipe, number, [(source.p.maximum, source.p.present)], source.p.last)
        scores, mask, before, after, last = pipe.cut("maximum", (scores, mask, before, after, source.p.last))
        highest = from_ordered(after)
        pairs = [(score, highest) for score in [*scores, from_ordered(before)]]
        powers, (*mask, last) = exponentials(m, pipe, "lane", self.spec, pairs, [*mask, last])
        *powers, change = powers
        values = [datapath.masked(power, on) for power, on in zip(powers, mask, strict=True)]
        rise = Mux(change.zero, 0, change.shift[: number.exponent_bits])
        scale = Mux(change.zero, 0, change.significand[: self.scale_places + 1])
        pipe.finish(Cat(*(Cat(mantissa, field) for field, mantissa in values), rise, scale, last))
        return front

    def _sum(self, m: Module, pipe: Pipeline, powers: list[tuple[Value, Value]], beat: data.View) -> None:
        """Sum the exponentials of a row, rescaling the previous sum when the maximum rises."""
        number = self.spec.format
        steps = [datapath.steps(m, f"steps{i}", number, *power) for i, power in enumerate(powers)]
        total = Signal(len(pipe.sink.payload), name="row_sum", reset_less=True)
        first = Signal(init=1)
        with m.If(pipe.fire):
            m.d.sync += first.eq(beat.last)
        scaled = named(m, "scaled", Mux(first, 0, total) * beat.scale)
        added = adder_tree(m, "added", steps)
        scaled, added, rise, last = pipe.cut("scaled", (scaled, added, beat.rise, beat.last))
        kept = shift_right(m, "kept", scaled, rise, fraction_bits=self.scale_places)
        with m.If(pipe.fire):
            m.d.sync += total.eq(kept + added)
        pipe.keep(last)
        pipe.finish(Cat(), state=total)
