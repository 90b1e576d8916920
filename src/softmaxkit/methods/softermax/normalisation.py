"""The Normalisation Unit: shift to the row's maximum, reciprocal of the sum, and product."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.piecewise_linear import lookup
from softmaxkit.blocks.pipeline import Pipeline, named
from softmaxkit.blocks.reciprocal import PLAIN_BITS, ReciprocalUnit
from softmaxkit.blocks.shifter import Shifted, saturate, shift, shift_right
from softmaxkit.blocks.stream import result_layout
from softmaxkit.blocks.two_tables import two_tables
from softmaxkit.methods.softermax.powers import codes_wait, slices_of, waiting_layout
from softmaxkit.methods.softermax.products import Correction, Kinds, Products, products_of
from softmaxkit.methods.softermax.running_sum import total_layout
from softmaxkit.methods.softermax.spec import Softermax


def has_plain_reciprocal(spec: Softermax) -> bool:
    """Return whether the reciprocal is a plain table, without interpolation."""
    return spec.reciprocal_table.table.input_bits <= PLAIN_BITS


class NormalisationUnit(wiring.Component):
    """Shift to the row's maximum, reciprocal of the sum, and product: the part shared by many processing elements.

    Args:
        spec: the spec.
        lanes: positions per beat.
        max_row: number of scores in the longest row.
        registers: the cuts that have a register.
        queue: number of reciprocals that can wait for the powers of their rows.

    Attributes:
        totals: input stream of `total_layout`, one per row.
        powers: input stream of `waiting_layout`.
        results: output stream of `result_layout`.
    """

    def __init__(self, spec: Softermax, lanes: int, max_row: int, registers: Set[str], queue: int = 2) -> None:
        self.spec, self.lanes, self.registers = spec, lanes, registers
        totals = total_layout(spec, max_row)
        tag_bits = totals.members["highest"].width
        # The power of the largest score is in (1/2, 1], or in [1, 2) where its integer is the floor.
        self.least = spec.power_sum.fraction_bits - (spec.integer_maximum == "ceil")
        self.reciprocal = ReciprocalUnit(
            spec.reciprocal_table,
            totals["total"].width,
            tag_bits,
            spec.rounding,
            registers,
            self.least,
            queue,
            has_plain_reciprocal(spec),
        )
        self.latency = 1 + len(registers & {"shifted", "product"})
        super().__init__(
            {
                "totals": In(stream.Signature(totals)),
                "powers": In(stream.Signature(waiting_layout(spec, lanes))),
                "results": Out(stream.Signature(result_layout(spec.output.bits, lanes))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the unit."""
        m = Module()
        spec, powers = self.spec, self.powers
        m.submodules.reciprocal = reciprocal = self.reciprocal
        ready, row_reciprocal = reciprocal.sink, reciprocal.sink.p
        pipe = Pipeline(m, "back", powers.valid & ready.valid, self.results, self.registers)
        m.d.comb += [
            reciprocal.source.valid.eq(self.totals.valid),
            reciprocal.source.p.divisor.eq(self.totals.p.total),
            reciprocal.source.p.tag.eq(self.totals.p.highest),
            self.totals.ready.eq(reciprocal.source.ready),
            powers.ready.eq(pipe.advance & ready.valid),
            ready.ready.eq(pipe.fire & powers.p.last),
        ]
        products = products_of(spec)
        if products is None:
            self._multiplied(m, pipe, row_reciprocal)
        else:
            results = self._by_entry(m, products, row_reciprocal)
            pipe.finish(Cat(*results, powers.p.last))
        return m

    def _by_entry(self, m: Module, products: Products, reciprocal: Any) -> list[Value]:
        """Return results as shifted products of table entries and mantissa, computed once for the whole row."""
        spec, beat = self.spec, self.powers.p
        fraction, online = spec.input.fraction_bits, spec.maximum == "online"
        entries = [self._product(m, products, index, reciprocal.mantissa) for index in range(len(products.quarters))]
        # A mantissa of 1 that is treated as 1/2 is shifted by one place less.
        less = Array([reciprocal.mantissa[-1] & (not wires) for wires in products.wires])
        highest = reciprocal.tag.as_signed() if online else Const(0)
        reference = named(m, "reference", highest + reciprocal.exponent - spec.power_sum.fraction_bits)
        kinds = products.kinds() if codes_wait(spec, self.lanes) else None
        farthest = spec.input.max_code - spec.input.min_code >> fraction
        if kinds is None:
            farthest += 1 << len(beat.powers[0]) - fraction
        bits, near = (farthest + spec.power_sum.bits).bit_length(), products.limit.bit_length()
        count = slices_of(spec, self.lanes).a_beat
        results = []
        for lane in range(self.lanes):
            entry, above = beat.powers[lane][:fraction], beat.powers[lane][fraction:]
            if kinds is not None:
                whole, distance = above[: spec.input.bits - fraction].as_signed(), Const(0)
                local = above[spec.input.bits - fraction :]
                masked = local.all()
            else:
                whole = beat.maxima[lane * count // self.lanes] if online else Const(0, signed(1))
                local = distance = above
                masked = Const(0)
            places = named(m, f"places{lane}", (reference + ~whole + ~less[entry] + distance)[:bits])
            product = named(m, f"chosen{lane}", Array(entries)[entry])
            shifted = shift(m, f"result{lane}_shifted", product, places[:near], fraction_bits=2)
            corrected = [
                self._corrected(correction, kinds, reciprocal, entry, local, places)
                for correction in products.corrections
            ]
            up = shifted.round_up(spec.rounding) ^ Cat(*corrected).any()
            rounded = (shifted.whole + up)[: spec.output.bits]
            results.append(named(m, f"result{lane}", Mux(places[near:].any() | masked, 0, rounded)))
        return results

    def _product(self, m: Module, products: Products, entry: int, mantissa: Value) -> Value:
        """Return the product of a mantissa with an entry of the power table, in quarters."""
        bits, quarters = self.spec.reciprocal.fraction_bits - 1, products.quarters[entry]
        if products.wires[entry]:
            return mantissa << (quarters[0] >> bits).bit_length() - 1
        below = mantissa[:bits]
        sticky = lookup(m, f"sticky{entry}", [quarter & 1 for quarter in quarters], below)
        halves = [quarter >> 1 for quarter in quarters]
        return Cat(sticky, two_tables(m, f"product{entry}", halves, below, 0, bits - bits // 2))

    def _corrected(
        self, correction: Correction, kinds: Kinds | None, reciprocal: Any, entry: Value, local: Value, places: Value
    ) -> Value:
        """Return whether a result is rounded the other way; `local` is the distance in its slice, or its kind."""
        bits, one = self.spec.reciprocal.fraction_bits - 1, reciprocal.mantissa[-1]
        row = reciprocal.mantissa[:bits] == correction.mantissa % (1 << bits)
        row &= reciprocal.exponent == correction.exponent
        if correction.mantissa % (1 << bits) == 0:
            row &= one if correction.mantissa >> bits > 1 else ~one
        here = (entry == correction.entry) & (places == correction.places)
        if correction.is_partial:
            where = set(correction.local)
            if kinds is not None:
                where = {kinds[correction.entry][distance] for distance in where}
            here &= Cat(*(local == expected for expected in sorted(where))).any()
        return row & here

    def _multiplied(self, m: Module, pipe: Pipeline, reciprocal: Any) -> None:
        """Multiply powers by the row's mantissa."""
        spec, powers = self.spec, self.powers
        lanes = self._shifted(m, reciprocal.tag)
        # A mantissa is 1 or in (1/2, 1) with a known leading bit; treat both as in [1, 2). Only the sum 0, whose powers
        # are all 0, has an exponent below `least`.
        mantissa, one = reciprocal.mantissa[:-2], reciprocal.mantissa[-1]
        exponent = named(m, "exponent", reciprocal.exponent - (self.least - 1) - one)
        exponent = exponent.as_unsigned()[: (spec.power_sum.bits - self.least).bit_length()]
        begins = Signal(init=1)
        with m.If(pipe.fire):
            m.d.sync += begins.eq(powers.p.last)
        mantissa, exponent = pipe.hold("shifted", (mantissa, exponent), begins)
        lanes, last = pipe.cut("shifted", (lanes, powers.p.last))
        mantissa = Cat(mantissa, Const(1, 1))
        places = spec.unnormalised.fraction_bits + spec.reciprocal.fraction_bits + self.least - 1
        places -= spec.power_sum.fraction_bits + spec.output.fraction_bits
        products = [
            named(m, f"product{i}", (floor * mantissa + Mux(up, mantissa, 0))[: len(floor) + len(mantissa)])
            for i, (floor, up) in enumerate(lanes)
        ]
        cuts = [shift(m, f"cut{i}", product, 0, fraction_bits=places) for i, product in enumerate(products)]
        cuts, exponent, last = pipe.cut("product", (cuts, exponent, last))
        results = [
            shift_right(m, f"rounded{i}", Cat(cut.rest, cut.half, cut.whole), exponent, spec.rounding, fraction_bits=2)
            for i, cut in enumerate(cuts)
        ]
        results = [saturate(m, f"result{i}", result, spec.output.bits) for i, result in enumerate(results)]
        pipe.finish(Cat(*results, last))

    def _shifted(self, m: Module, highest: Value) -> list[tuple[Value, Value]]:
        """Shift powers from the maxima of their slices to that of the row; return each floor and its rounding bit."""
        spec, beat = self.spec, self.powers.p
        powers = [beat.powers[lane] for lane in range(self.lanes)]
        if spec.maximum == "global":
            return [(power, Const(0)) for power in powers]
        count = slices_of(spec, self.lanes).a_beat
        lags = [named(m, f"lag{i}", (highest - beat.maxima[i])[: len(highest)]) for i in range(count)]
        shifted: list[Shifted] = [
            shift(m, f"shifted{i}", power, lags[i * count // self.lanes]) for i, power in enumerate(powers)
        ]
        return [(power.whole, power.round_up(spec.rounding)) for power in shifted]
