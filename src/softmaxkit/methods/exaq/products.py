"""The results of a row's levels from its sum; a row has only one result per level."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.configuration import Words
from softmaxkit.blocks.piecewise_linear import lookup
from softmaxkit.blocks.pipeline import Pipeline, named
from softmaxkit.blocks.reciprocal import ReciprocalUnit
from softmaxkit.blocks.shifter import saturate, shift_right
from softmaxkit.methods.exaq.accumulators import exponentials_of, source_of_set
from softmaxkit.methods.exaq.spec import Exaq


class ProductUnit(wiring.Component):
    """The results of a row's levels, one per cycle, with one multiplier.

    Args:
        spec: the spec.
        reciprocal: layout of the reciprocal: `mantissa`, `exponent`, and as `tag` the index of the row's set.
        sets: the exponentials of each set, as constants or register values.
        registers: the cuts that have a register.

    Attributes:
        source: input stream of the reciprocal of a row's sum; accepts one word every `spec.levels` cycles.
        sink: output stream of the results of all levels.
    """

    def __init__(
        self,
        spec: Exaq,
        reciprocal: data.StructLayout,
        sets: Sequence[Words],
        registers: Collection[str],
    ) -> None:
        self.spec, self.sets, self.registers = spec, sets, registers
        super().__init__(
            {
                "source": In(stream.Signature(reciprocal)),
                "sink": Out(stream.Signature(data.ArrayLayout(spec.output.bits, spec.levels))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the component."""
        m = Module()
        spec, source = self.spec, self.source
        ready = stream.Signature(self.sink.payload.shape()).create(path=("ready",))
        pipe = Pipeline(m, "product", source.valid, ready, self.registers)
        level = Signal(range(spec.levels))
        with m.If(pipe.fire):
            m.d.sync += level.eq(level + 1)
        m.d.comb += source.ready.eq(pipe.advance & (level == spec.levels - 1))
        exponentials = exponentials_of(m, self.sets, source.p.tag)
        product = named(m, "product", lookup(m, "exponential", exponentials, level) * source.p.mantissa)
        product, exponent, which = pipe.cut("product", (product, source.p.exponent, level))
        places = spec.reciprocal.fraction_bits - spec.output.fraction_bits
        rounded = shift_right(m, "rounded", product, exponent, fraction_bits=places)
        result = saturate(m, "result", rounded, spec.output.bits)
        results = [Signal(spec.output.bits, name=f"result{index}", reset_less=True) for index in range(spec.levels)]
        for index, register in enumerate(results):
            with m.If(pipe.fire & (which == index)):
                m.d.sync += register.eq(result)
        pipe.keep(which == spec.levels - 1)
        # Complete results move on at once, to make room for those of the next row.
        pipe.finish(Cat(), state=Cat(*results))
        shown = Pipeline(m, "shown", ready.valid, self.sink, ())
        m.d.comb += ready.ready.eq(shown.advance)
        shown.finish(Value.cast(ready.payload))
        return m


class PipelinedResults(wiring.Component):
    """The results of a row's levels: the reciprocal of its sum, then one product per cycle.

    Args:
        spec: the spec.
        sum_bits: width of a row's sum, which is at least 1.0 unless the row is fully masked.
        sets: the exponentials of each set, as constants or register values.
        registers: the cuts that have a register.

    Attributes:
        source: input stream of a row's sum; accepts one word every `spec.levels` cycles.
        source_set: with several sets, the index of the row's set, valid with the stream.
        sink: output stream of the results of all levels.
    """

    def __init__(
        self,
        spec: Exaq,
        sum_bits: int,
        sets: Sequence[Words],
        registers: Collection[str],
    ) -> None:
        least = spec.exponential.fraction_bits
        self.reciprocal = ReciprocalUnit(
            spec.reciprocal_table, sum_bits, (len(sets) - 1).bit_length(), "nearest", registers, least
        )
        self.products = ProductUnit(spec, self.reciprocal.sink.payload.shape(), sets, registers)
        super().__init__(
            {
                "source": In(stream.Signature(sum_bits)),
                "sink": Out(stream.Signature(self.products.sink.payload.shape())),
                **source_of_set(len(sets)),
            }
        )

    @staticmethod
    def latency(spec: Exaq, registers: Collection[str]) -> int:
        """Return the cycles from a sum to the results."""
        reciprocal = 2 + sum(cut in registers for cut in ReciprocalUnit.CUTS)
        return reciprocal + spec.levels + ("product" in registers) + 1

    def elaborate(self, platform: object) -> Module:
        """Build the component."""
        m = Module()
        m.submodules.reciprocal, m.submodules.products = reciprocal, products = self.reciprocal, self.products
        m.d.comb += [
            reciprocal.source.valid.eq(self.source.valid),
            reciprocal.source.p.divisor.eq(self.source.payload),
            self.source.ready.eq(reciprocal.source.ready),
        ]
        if "source_set" in self.signature.members:
            m.d.comb += reciprocal.source.p.tag.eq(self.source_set)
        wiring.connect(m, reciprocal.sink, products.source)
        wiring.connect(m, products.sink, wiring.flipped(self.sink))
        return m
