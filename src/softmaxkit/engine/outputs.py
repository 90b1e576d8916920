"""Conversion of an engine's weighted sums to outputs: a shift, or the deferred division."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.pipeline import Pipeline, named
from softmaxkit.blocks.requantise import round_places, round_shifted, saturate_to
from softmaxkit.engine.arrays import CODE, ValueArray, output_layout


class Shift(wiring.Component):
    """Converts sums to outputs by a constant right shift, with rounding and saturation.

    Args:
        array: source of the sums.
        places: of the shift.

    Attributes:
        sums: input stream, in the array's layout.
        outputs: output stream of `output_layout`.
    """

    def __init__(self, array: ValueArray, places: int) -> None:
        self.places = places
        super().__init__(_ports(array))

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        sums = self.sums
        pipe = Pipeline(m, "output", sums.valid, self.outputs, ())
        m.d.comb += sums.ready.eq(pipe.advance)
        rounded = [
            round_places(m, f"rounded{i}", weighted_sum, self.places) for i, weighted_sum in enumerate(sums.p.sums)
        ]
        codes = [saturate_to(m, f"output{i}", rounded_sum, CODE) for i, rounded_sum in enumerate(rounded)]
        pipe.finish(Cat(*codes, sums.p.last))
        return m


class Division(wiring.Component):
    """Multiplies the sums of a query by its factor and shifts them right, with rounding and saturation.

    Args:
        array: source of the sums.
        factors: payload of the stream of factors: `factor` and `places`.
        least: constant part of the shift, to which `places` is added.

    Attributes:
        sums: input stream, in the array's layout.
        factors: input stream, one beat per query.
        outputs: output stream of `output_layout`.
    """

    def __init__(self, array: ValueArray, factors: Any, least: int) -> None:
        self.least = least
        super().__init__({**_ports(array), "factors": In(stream.Signature(factors))})

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        sums, factors = self.sums, self.factors
        pipe = Pipeline(m, "output", sums.valid & factors.valid, self.outputs, ("product",))
        m.d.comb += [sums.ready.eq(pipe.advance & factors.valid), factors.ready.eq(pipe.fire & sums.p.last)]
        products = [
            named(m, f"product{i}", weighted_sum * factors.p.factor) for i, weighted_sum in enumerate(sums.p.sums)
        ]
        places: Value = factors.p.places
        products, places, last = pipe.cut("product", (products, places, sums.p.last))
        rounded = [round_shifted(m, f"rounded{i}", product, places, self.least) for i, product in enumerate(products)]
        codes = [saturate_to(m, f"output{i}", rounded_product, CODE) for i, rounded_product in enumerate(rounded)]
        pipe.finish(Cat(*codes, last))
        return m


def _ports(array: ValueArray) -> dict[str, Any]:
    return {
        "sums": In(stream.Signature(array.sums.payload.shape())),
        "outputs": Out(stream.Signature(output_layout(array.sizes.columns))),
    }
