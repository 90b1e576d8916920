"""The two multiplier arrays of an attention engine, each a pipeline that advances as a whole."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.adder_tree import adder_tree
from softmaxkit.blocks.pipeline import Pipeline, named
from softmaxkit.blocks.queue import Queue
from softmaxkit.blocks.requantise import round_shifted
from softmaxkit.engine.golden import Attention
from softmaxkit.engine.sizes import EngineSizes
from softmaxkit.methods.base.takes_scores import TakesScores

CODE = signed(8)
REGISTERS = ("fetch", "product", "sum")
"""Register stages of the QK array in front of its score register; in the PV array the last one holds the sums."""
GROUP, CONVERSION = "group", "conversion"
"""Additional stages, for what would otherwise limit the clock: sums of groups of products, if a sum has more than
`TERMS`, and the scaled sums of units that convert them in a cycle of their own."""
TERMS = 8
"""Most products that are summed in the cycle in which they are formed."""


def query_layout(columns: int, max_keys: int) -> data.StructLayout:
    """Return the payload of a query beat: int8 `codes` of `columns` channels, number of attended `keys`, and `last`."""
    keys = max_keys.bit_length()
    return data.StructLayout({"codes": data.ArrayLayout(CODE, columns), "keys": keys, "last": 1})


def output_layout(columns: int) -> data.StructLayout:
    """Return the payload of an output beat: int8 `codes` of `columns` channels, and `last`."""
    return data.StructLayout({"codes": data.ArrayLayout(CODE, columns), "last": 1})


class ReadPort(wiring.Signature):
    """Read port of a buffer, with the timing of `MemoryPort`: data appear one cycle after `enable`, and stay."""

    def __init__(self, sizes: EngineSizes) -> None:
        super().__init__({"enable": Out(1), "address": Out(sizes.address_bits), "data": In(sizes.word_bits)})


class QueryKeyArray(wiring.Component):
    """QK array: scores of a query against `rows` keys at a time, `columns` channels per cycle.

    A beat of a query is consumed when its channels are multiplied with the first keys, and stored for the other keys.

    Args:
        attention: integer parameters of the head.
        sizes: of the engine.
        unit: destination of the scores.

    Attributes:
        queries: input stream of `query_layout`, `steps` beats per query.
        scores: output stream, in the unit's layout.
        keys: read port to the key buffer.
        sum_bits: width of an accumulator.
        depth: cycles from the last step of a beat to its scores.
    """

    def __init__(self, attention: Attention, sizes: EngineSizes, unit: TakesScores) -> None:
        self.attention, self.sizes, self.unit = attention, sizes, unit
        self.sum_bits = 2 * CODE.width + (attention.channels - 1).bit_length()
        self.registers = _registers(sizes.columns) + (CONVERSION,) * unit.conversion_cycles
        self.depth = len(self.registers) + 1
        super().__init__(
            {
                "queries": In(stream.Signature(query_layout(sizes.columns, sizes.max_keys))),
                "scores": Out(stream.Signature(unit.scores.payload.shape())),
                "keys": Out(ReadPort(sizes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        sizes, queries, rows = self.sizes, self.queries, range(self.sizes.rows)
        first_beat, place = Signal(init=1), Signal(range(max(sizes.steps, 2)))
        pipe = Pipeline(m, "query_key", ~first_beat | queries.valid, self.scores, self.registers)
        begins, ends = place == 0, place == sizes.steps - 1
        # Keys still to attend to, including those of this beat; limited to the size of the buffer.
        left = Signal.like(queries.p.keys, reset_less=True)
        requested = Mux(queries.p.keys > sizes.max_keys, sizes.max_keys, queries.p.keys)
        now = named(m, "left_now", Mux(first_beat & begins, requested, left))
        last = named(m, "last_beat", now <= sizes.rows)
        address = Signal(sizes.address_bits)
        held = [Signal(CODE.width * sizes.columns, name=f"query{step}", reset_less=True) for step in range(sizes.steps)]
        codes = Value.cast(queries.p.codes)
        query = named(m, "query", Mux(first_beat, codes, Array(held)[place]))
        m.d.comb += [
            queries.ready.eq(pipe.advance & first_beat),
            self.keys.enable.eq(pipe.fire),
            self.keys.address.eq(address),
        ]
        with m.If(pipe.fire):
            m.d.sync += [
                place.eq(Mux(ends, 0, place + 1)),
                address.eq(Mux(ends & last, 0, address + 1)),
                left.eq(Mux(ends, now - sizes.rows, now)),
            ]
            with m.If(ends):
                m.d.sync += first_beat.eq(last)
            with m.If(first_beat):
                m.d.sync += Array(held)[place].eq(codes)
        mask = Cat(now > row for row in rows)
        flags = {"begins": begins, "ends": ends, "mask": mask, "last": last}
        query, flags = pipe.cut("fetch", (query, flags))
        groups = [self._group_sums(m, f"dot{row}", query, row) for row in rows]
        groups, flags = pipe.cut(GROUP, (groups, flags))
        dots = [adder_tree(m, f"dot{row}", groups[row]) for row in rows]
        dots, flags = pipe.cut("product", (dots, flags))
        sums = [Signal(signed(self.sum_bits), name=f"sum{row}", reset_less=True) for row in rows]
        with m.If(pipe.fire):
            m.d.sync += [
                accumulator.eq(Mux(flags["begins"], 0, accumulator) + dot)
                for accumulator, dot in zip(sums, dots, strict=True)
            ]
        mask, last, ends = pipe.cut("sum", (flags["mask"], flags["last"], flags["ends"]))
        pipe.keep(ends)
        multiplier, places = Const(self.attention.multiplier), self.attention.score_places
        products = [named(m, f"product{row}", accumulator * multiplier) for row, accumulator in enumerate(sums)]
        products, mask, last = pipe.cut(CONVERSION, (products, mask, last))
        scores = [self.unit.score_code(m, f"score{row}", product, places) for row, product in enumerate(products)]
        pipe.finish(Cat(*scores, mask, last))
        return m

    def _group_sums(self, m: Module, name: str, query: Value, row: int) -> list[Value]:
        """Return the dot product over this step's channels of the query and the key in one row, as sums of groups."""
        columns = self.sizes.columns
        products = [
            named(m, f"{name}_{column}", code_at(query, column) * code_at(self.keys.data, row * columns + column))
            for column in range(columns)
        ]
        return _sums_of_groups(m, name, products)


class ValueArray(wiring.Component):
    """PV array: sums of values weighted by the weights of `rows` keys at a time, `columns` channels per cycle.

    The channels are accumulated in turn, and their sums leave when the weights of the last keys have been added.

    Args:
        sizes: of the engine.
        weights: payload of the weight stream: `codes`, `last`, and optionally `rise` and `scale`, the shift and the
            factor that rescale the sums so far before a beat is added.
        weight_bits: width of a weight.
        scale_places: fraction bits of `scale`, which requires at least two steps per beat.

    Attributes:
        weights: input stream.
        sums: output stream of `sums` of `columns` channels, and `last`; `steps` beats per query.
        values: read port to the value buffer.
        sum_bits: width of an accumulator.
        depth: cycles from the last step of a query to its outputs, if a shift makes them of its sums.
    """

    def __init__(self, sizes: EngineSizes, weights: data.StructLayout, weight_bits: int, scale_places: int = 0) -> None:
        self.sizes, self.layout, self.scale_places = sizes, weights, scale_places
        self.sum_bits = weight_bits + CODE.width + (sizes.max_keys - 1).bit_length()
        self.registers = _registers(sizes.rows)
        self.depth = len(self.registers) + 1
        sums = {"sums": data.ArrayLayout(signed(self.sum_bits), sizes.columns), "last": 1}
        super().__init__(
            {
                "weights": In(stream.Signature(weights)),
                "sums": Out(stream.Signature(data.StructLayout(sums))),
                "values": Out(ReadPort(sizes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        sizes, columns = self.sizes, range(self.sizes.columns)
        # The queue takes the unit's beats while the array works on one, so that the unit can go on to the next row.
        m.submodules.queue = queue = Queue(self.layout.size, 2)
        beat = self.layout(queue.sink.payload)
        m.d.comb += [
            queue.source.valid.eq(self.weights.valid),
            queue.source.payload.eq(self.weights.payload),
            self.weights.ready.eq(queue.source.ready),
        ]
        first_beat, place = Signal(init=1), Signal(range(max(sizes.steps, 2)))
        pipe = Pipeline(m, "value", queue.sink.valid, self.sums, self.registers)
        begins, ends, last = place == 0, place == sizes.steps - 1, beat.last
        address = Signal(sizes.address_bits)
        m.d.comb += [
            queue.sink.ready.eq(pipe.advance & ends),
            self.values.enable.eq(pipe.fire),
            self.values.address.eq(address),
        ]
        with m.If(pipe.fire):
            m.d.sync += [place.eq(Mux(ends, 0, place + 1)), address.eq(Mux(ends & last, 0, address + 1))]
            with m.If(ends):
                m.d.sync += first_beat.eq(last)
        beat = pipe.hold(
            "fetch", {name: Value.cast(beat[name]) for name in self.layout.members if name != "last"}, begins
        )
        flags = pipe.cut("fetch", {"first": first_beat, "last": last, "place": place})
        weights = [Value.cast(code) for code in self.layout.members["codes"](beat["codes"])]
        groups = [self._group_sums(m, f"dot{column}", weights, column) for column in columns]
        beat = pipe.hold(GROUP, {name: beat[name] for name in ("rise", "scale") if name in beat}, Const(1))
        groups, flags = pipe.cut(GROUP, (groups, flags))
        dots = [adder_tree(m, f"dot{column}", groups[column]) for column in columns]
        sums = Array(
            [
                [Signal(signed(self.sum_bits), name=f"sum{step}_{column}", reset_less=True) for column in columns]
                for step in range(sizes.steps)
            ]
        )
        before: list[Value] = []
        if sizes.steps > 1:
            # Selecting the sums takes a stage of its own: those of the previous beat are complete by then.
            before = self._sums_before(m, sums, flags)
            if "scale" in beat:
                before = [named(m, f"scaled{i}", partial_sum * beat["scale"]) for i, partial_sum in enumerate(before)]
        beat = pipe.hold("product", {name: beat[name] for name in ("rise",) if name in beat}, Const(1))
        dots, before, flags = pipe.cut("product", (dots, before, flags))
        before = before or self._sums_before(m, sums, flags)
        if "rise" in beat:
            before = [
                round_shifted(m, f"lowered{column}", partial_sum, beat["rise"], self.scale_places)
                for column, partial_sum in enumerate(before)
            ]
        totals = [
            named(m, f"total{column}", (before[column] + dots[column])[: self.sum_bits].as_signed())
            for column in columns
        ]
        with m.If(pipe.fire & ~flags["last"]):
            m.d.sync += [accumulator.eq(total) for accumulator, total in zip(sums[flags["place"]], totals, strict=True)]
        pipe.keep(flags["last"])
        pipe.finish(Cat(*totals, flags["place"] == sizes.steps - 1))
        return m

    def _sums_before(self, m: Module, sums: Array, flags: Mapping[str, Value]) -> list[Value]:
        """Return the sums to which this step adds; 0 for the first beat of a query."""
        kept = sums[flags["place"]]
        return [
            named(m, f"before{column}", Mux(flags["first"], 0, kept[column])) for column in range(self.sizes.columns)
        ]

    def _group_sums(self, m: Module, name: str, weights: list[Value], column: int) -> list[Value]:
        """Return the sum over this beat's keys of weight times value, for one channel, as sums of groups."""
        columns = self.sizes.columns
        products = [
            named(m, f"{name}_{row}", weight * code_at(self.values.data, row * columns + column))
            for row, weight in enumerate(weights)
        ]
        return _sums_of_groups(m, name, products)


def _registers(terms: int) -> tuple[str, ...]:
    """Return the register stages of an array that sums `terms` products in a cycle."""
    return REGISTERS if terms <= TERMS else (*REGISTERS, GROUP)


def _sums_of_groups(m: Module, name: str, products: list[Value]) -> list[Value]:
    """Return the sums of up to `TERMS` consecutive products."""
    if len(products) <= TERMS:
        return [adder_tree(m, name, products)]
    starts = range(0, len(products), TERMS)
    return [adder_tree(m, f"{name}_of{start}", products[start : start + TERMS]) for start in starts]


def code_at(word: Value, index: int) -> Value:
    """Return the code at an index of a buffer word."""
    return word[index * CODE.width : (index + 1) * CODE.width].as_signed()
