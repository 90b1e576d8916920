"""Softermax with the division last: weights relative to the maximum so far, and the reciprocal of the row's sum."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring

from softmaxkit.blocks.adder_tree import maximum
from softmaxkit.blocks.pipeline import Pipeline, choose_cuts, named
from softmaxkit.blocks.reciprocal import ReciprocalUnit
from softmaxkit.blocks.shifter import saturate, shift_right
from softmaxkit.methods.base.unit import DeferredUnit
from softmaxkit.methods.softermax.golden import check_deferred, deferred_places
from softmaxkit.methods.softermax.normalisation import has_plain_reciprocal
from softmaxkit.methods.softermax.running_sum import whole_shape
from softmaxkit.methods.softermax.spec import Softermax
from softmaxkit.methods.softermax.unnormalised import UnnormalisedUnit

FACTORS = 5
"""Reciprocals that wait for the sums of their rows, where each row is a beat and the next follows in the next cycle."""


class Deferred(DeferredUnit):
    """The Unnormalised Softmax Unit, whose powers leave as weights, and the reciprocal of its sum.

    Args:
        spec: the method, with the maximum "online".
        lanes: positions a beat; a divisor of the slice width.
        max_row: scores of the longest row.
        depth: registers from scores to weights, those of a slice that waits not counted.
        storage: of no consequence: no rows wait.

    Raises:
        ValueError: sizes that cannot be built, or a spec without this form.
    """

    spec: Softermax

    def __init__(
        self, spec: Softermax, lanes: int, max_row: int = 256, depth: int | None = None, storage: str = "flip-flops"
    ) -> None:
        check_deferred(spec)
        if spec.slice_width % lanes:
            raise ValueError(
                f"with the division last, lanes divide a slice of {spec.slice_width} positions, not {lanes}"
            )
        self.registers_at = choose_cuts((), depth, default=2, fixed=2)
        self.depth = 2
        self.front = UnnormalisedUnit(spec, lanes, max_row, self.registers_at)
        self.most_rows = 8
        self.slice_beats = self.front.slices.beats
        self.reciprocal = ReciprocalUnit(
            spec.reciprocal_table,
            spec.power_sum.bits,
            0,
            spec.rounding,
            self.registers_at,
            queue=FACTORS,
            plain=has_plain_reciprocal(spec),
        )
        self.least_places = deferred_places(spec)
        mantissa, exponent = (self.reciprocal.sink.p[name] for name in ("mantissa", "exponent"))
        factor = data.StructLayout({"factor": len(mantissa), "places": len(exponent)})
        super().__init__(spec, lanes, max_row, storage, spec.output.bits, whole_shape(spec).width, factor)

    def waits(self, count: int) -> int:
        """Return the cycles from the last beat of a slice to its first weights."""
        gather = self.front.gather
        return self.depth + (0 if gather is None else max(1, gather.buffer.latency - (count - 1)))

    def elaborate(self, platform: object) -> Module:
        """Build it."""
        m = Module()
        spec = self.spec
        m.submodules.front, m.submodules.reciprocal = front, reciprocal = self.front, self.reciprocal
        wiring.connect(m, wiring.flipped(self.scores), front.scores)
        m.d.comb += [
            reciprocal.source.valid.eq(front.totals.valid),
            reciprocal.source.p.divisor.eq(front.totals.p.total),
            front.totals.ready.eq(reciprocal.source.ready),
            self.factors.valid.eq(reciprocal.sink.valid),
            self.factors.p.factor.eq(reciprocal.sink.p.mantissa),
            self.factors.p.places.eq(reciprocal.sink.p.exponent),
            reciprocal.sink.ready.eq(self.factors.ready),
        ]
        powers = front.powers
        pipe = Pipeline(m, "weights", powers.valid, self.weights, ())
        m.d.comb += powers.ready.eq(pipe.advance)
        local = powers.p.maxima[0]
        highest, first = Signal(whole_shape(spec), reset_less=True), Signal(init=1)
        risen = named(m, "risen", Mux(first, local, maximum(local, highest)))
        with m.If(pipe.fire):
            m.d.sync += [highest.eq(risen), first.eq(powers.p.last)]
        rise = named(m, "rise", Mux(first, 0, risen - highest)[: len(highest)])
        lag = named(m, "lag", (risen - local)[: len(highest)])
        change = spec.unnormalised.fraction_bits - spec.output.fraction_bits
        weights = [
            saturate(
                m,
                f"weight{lane}",
                shift_right(m, f"lowered{lane}", powers.p.powers[lane], lag, spec.rounding, fraction_bits=change),
                spec.output.bits,
            )
            for lane in range(self.lanes)
        ]
        pipe.finish(Cat(*weights, rise, powers.p.last))
        return m
