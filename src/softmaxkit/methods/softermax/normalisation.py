"""The Normalisation Unit: shift to the row's maximum, reciprocal of its sum, and product."""

from __future__ import annotations

from collections.abc import Set

from amaranth.hdl import Cat, Module, Shape
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.pipeline import Pipeline, named
from softmaxkit.blocks.reciprocal import ReciprocalUnit
from softmaxkit.blocks.shifter import saturate, shift_right
from softmaxkit.blocks.stream import result_layout
from softmaxkit.methods.softermax.spec import Softermax
from softmaxkit.methods.softermax.unnormalised import power_layout, slices_of


def buffered_layout(spec: Softermax, lanes: int) -> data.StructLayout:
    """Return what of a beat waits in the row buffer; the one maximum of a whole row need not."""
    members = power_layout(spec, lanes).members
    names = ("powers", "maxima", "last") if spec.maximum == "online" else ("powers", "last")
    return data.StructLayout({name: members[name] for name in names})


class NormalisationUnit(wiring.Component):
    """Shift to the row's maximum, reciprocal of its sum, and product: the part that many processing elements share.

    Args:
        spec: the method.
        lanes: positions a beat.
        registers: cuts that hold a register.
        queue: reciprocals that can wait for the powers of their rows.

    Attributes:
        totals: stream in, of `total` and `highest`, one a row.
        powers: stream in, of `powers`, `maxima` and `last`, as in `power_layout`.
        results: stream out, of `result_layout`.
    """

    def __init__(self, spec: Softermax, lanes: int, registers: Set[str], queue: int = 2) -> None:
        self.spec, self.lanes, self.registers = spec, lanes, registers
        layout = power_layout(spec, lanes).members
        whole = layout["highest"]
        self.reciprocal = ReciprocalUnit(
            spec.reciprocal_table, spec.power_sum.bits, Shape.cast(whole).width, spec.rounding, registers, queue=queue
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
