"""The attention engine as one component: arrays, unit, and buffers with their write port."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.configuration import hold_between_rows
from softmaxkit.blocks.storage import MemoryPort, WordMemory, check_storage
from softmaxkit.blocks.stream import result_layout
from softmaxkit.engine.arrays import QueryKeyArray, ValueArray, output_layout, query_layout
from softmaxkit.engine.golden import Attention, golden_attention, golden_deferred
from softmaxkit.engine.outputs import Division, Shift
from softmaxkit.engine.sizes import EngineSizes
from softmaxkit.formats import Array
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.deferred_unit import DeferredUnit
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.shell.rows_inside import RowsInside, max_rows_inside

PIPELINES = ("token", "element", "deferred")
"""Pipelines of an engine: row by row, score by score, or with the division last."""

BUFFERS = ("key_memory", "value_memory")
"""Ports to the buffers, if these are external memories."""


class Engine(wiring.Component):
    """Attention of one head at a time, bit for bit equal to golden attention.

    Keys and values are first written to the buffers, together with the constants of the method if these are loadable.
    Any number of queries can then use them: those of a prompt, of a single token, or of several heads that share keys.
    The pipeline is "token" if the unit waits for whole rows, "element" if it does not, and "deferred" if the division
    follows the weighted sum.

    Writes use the stream `configuration`, with the layout of a unit: address, data, and `last`, which ends a group. The
    words of the key buffer have the lowest addresses, followed by those of the value buffer and by the registers of the
    unit; a group that writes registers must end with them. The word at `beat * steps + step` has `rows` keys from
    `beat * rows` on, the first in the lowest bits, with `columns` channels each from `step * columns` on. Writes are
    accepted while no query is inside.

    Args:
        attention: integer parameters of the head; its constants are baked in unless `loadable` is set.
        rows: keys processed in parallel.
        columns: channels processed in parallel.
        max_keys: capacity of each buffer, in keys.
        storage: of the buffers, and of the unit's rows: "flip-flops" or "memory".
        depth: pipeline registers of the unit; None for its default.
        loadable: build the unit with loadable constants.
        pipeline: "deferred" to divide last, if the method supports it; None for that of the unit.

    Attributes:
        queries: input stream of `query_layout`; a query is `steps` beats, the last one marked.
        outputs: output stream of `output_layout`; `steps` beats per query.
        configuration: input stream of `address`, `data` and `last`.
        address_bits, data_bits: widths of a write.
        unit: the unit inside.
        memories: names of the ports to external memories.

    Raises:
        ValueError: sizes or options that cannot be built.
    """

    def __init__(
        self,
        attention: Attention,
        rows: int = 4,
        columns: int = 8,
        max_keys: int = 256,
        storage: str = "flip-flops",
        depth: int | None = None,
        loadable: bool = False,
        pipeline: str | None = None,
    ) -> None:
        check_storage(storage, but="latches")
        if pipeline is not None and pipeline not in PIPELINES:
            raise ValueError(f"pipeline is {', '.join(PIPELINES)}, or left out for that of the unit, not {pipeline!r}")
        self.attention, self.storage = attention, storage
        self.sizes = sizes = EngineSizes(rows, columns, attention.channels, max_keys)
        spec = attention.spec
        of_unit: Any = {"max_row": max_keys, "depth": depth}
        of_unit["storage"] = storage if storage in spec.storages else "flip-flops"
        self.unit: SoftmaxUnit | DeferredUnit
        if pipeline == "deferred":
            self.unit = spec.deferred_unit(rows, **of_unit, pace=sizes.steps)
        else:
            self.unit = spec.unit(rows, None if loadable else attention.constants, **of_unit)
        if loadable and self.unit.registers is None:
            raise ValueError(f"an engine of {spec.name} has no constants to load; leave loadable out")
        if pipeline not in (None, self.pipeline):
            raise ValueError(f"an engine of {spec.name} has the pipeline {self.pipeline!r}, not {pipeline!r}")
        constants_bits = 0 if self.unit.registers is None else self.unit.registers.data_bits
        self.address_bits = (self.writes(max_keys) - 1).bit_length()
        self.data_bits = max(sizes.word_bits, constants_bits)
        write = data.StructLayout({"address": self.address_bits, "data": self.data_bits, "last": 1})
        self.query_key = QueryKeyArray(attention, sizes, self.unit)
        self.value, self.output = self._build_value_side()
        ports: dict[str, Any] = {
            "queries": In(stream.Signature(query_layout(columns, max_keys))),
            "outputs": Out(stream.Signature(output_layout(columns))),
            "configuration": In(stream.Signature(write)),
        }
        memories = {name: self.unit.signature.members[name].signature for name in self.unit.memories}
        if storage == "memory":
            memories |= {name: MemoryPort(sizes.word_bits, sizes.words) for name in BUFFERS}
        self.memories = tuple(memories)
        super().__init__(ports | {name: Out(signature) for name, signature in memories.items()})

    def _build_value_side(self) -> tuple[ValueArray, Shift | Division]:
        """Return the PV array, and the component that converts its sums to outputs."""
        unit, sizes = self.unit, self.sizes
        if isinstance(unit, DeferredUnit):
            if sizes.steps < unit.pace:
                raise ValueError(
                    f"with the division last, a unit of {unit.spec.name} takes a beat every {unit.pace} cycles, so "
                    f"columns are at most {sizes.channels // unit.pace} of {sizes.channels} channels, not "
                    f"{sizes.columns}"
                )
            array = ValueArray(sizes, unit.weights.payload.shape(), unit.weight_bits, unit.scale_places)
            return array, Division(array, unit.factors.payload.shape(), unit.least_places)
        array = ValueArray(sizes, result_layout(unit.weight_bits, sizes.rows), unit.weight_bits)
        return array, Shift(array, self.attention.output_places)

    @property
    def query_interval(self) -> int:
        """Least number of cycles between the starts of two queries."""
        return self.sizes.steps if isinstance(self.unit, DeferredUnit) else max(self.sizes.steps, self.unit.interval(1))

    @property
    def drains_before_shorter_rows(self) -> bool:
        """Whether a query that attends to fewer keys than the previous one waits until the engine is empty."""
        unit = self.unit
        return unit.slice_beats > 1 if isinstance(unit, DeferredUnit) else unit.holds_rows

    @property
    def max_queries(self) -> int:
        """Most queries inside at a time: those of the unit, and one per beat in the arrays."""
        inside = self.unit.max_rows_inside if isinstance(self.unit, DeferredUnit) else max_rows_inside(self.unit)
        return inside + self.query_key.depth + self.value.depth + 2

    @property
    def pipeline(self) -> str:
        """The pipeline: "token", row by row; "element", score by score; or "deferred", with the division last."""
        if isinstance(self.unit, DeferredUnit):
            return "deferred"
        return "token" if self.unit.holds_rows else "element"

    def writes(self, keys: int) -> int:
        """Return the number of writes that load `keys` keys and values, and the constants if they are loadable."""
        constants = 0 if self.unit.registers is None else self.unit.registers.words
        return 2 * self.sizes.beats(keys) * self.sizes.steps + constants

    def golden(
        self, queries: Array, keys: Array, values: Array, attended: Array, constants: Constants | None = None
    ) -> Array:
        """Return the golden outputs of this engine, optionally with other constants; see `golden_attention`."""
        golden = golden_deferred if self.pipeline == "deferred" else golden_attention
        attention = self.attention if constants is None else replace(self.attention, constants=constants)
        return golden(attention, queries, keys, values, attended)

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        query_key, unit, value, output = self.query_key, self.unit, self.value, self.output
        m.submodules.query_key, m.submodules.unit = query_key, unit
        m.submodules.value, m.submodules.output = value, output
        m.submodules.inside = inside = RowsInside(self.max_queries, 0)
        hold, write = hold_between_rows(m, self.queries, self.configuration, inside.busy)
        # `first` is set between queries: the next beat begins a query.
        first = Signal(init=1)
        taken = self.queries.valid & self.queries.ready
        goes = ~first | ~(hold | inside.full | self._must_wait(m, taken & first, inside.busy))
        with m.If(taken):
            m.d.sync += first.eq(self.queries.p.last)
        m.d.comb += [
            query_key.queries.valid.eq(self.queries.valid & goes),
            query_key.queries.payload.eq(self.queries.payload),
            self.queries.ready.eq(query_key.queries.ready & goes),
            inside.begins.eq(taken & first),
            inside.ends.eq(self.outputs.valid & self.outputs.ready & self.outputs.p.last),
        ]
        wiring.connect(m, query_key.scores, unit.scores)
        if isinstance(unit, DeferredUnit):
            wiring.connect(m, unit.weights, value.weights)
            wiring.connect(m, unit.factors, output.factors)
        else:
            weights = [unit.weight(m, f"weight{row}", unit.results.p.codes[row]) for row in range(unit.lanes)]
            m.d.comb += [
                Value.cast(value.weights.payload).eq(Cat(*weights, unit.results.p.last)),
                value.weights.valid.eq(unit.results.valid),
                unit.results.ready.eq(value.weights.ready),
            ]
        wiring.connect(m, value.sums, output.sums)
        wiring.connect(m, output.outputs, wiring.flipped(self.outputs))
        for name in unit.memories:
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(unit, name))
        words = self.sizes.words
        self._buffer(m, "key_memory", 0, write, query_key.keys)
        self._buffer(m, "value_memory", words, write, value.values)
        if unit.registers is not None:
            port, address = unit.configuration, self.configuration.p.address
            m.d.comb += [
                port.valid.eq(write & (address >= 2 * words)),  # accepted at once, since the unit is empty
                port.p.address.eq(address - 2 * words),
                port.p.data.eq(self.configuration.p.data),
                port.p.last.eq(self.configuration.p.last),
            ]
        return m

    def _must_wait(self, m: Module, begins: Value, busy: Value) -> Value:
        """Return whether the next query must wait because the unit could not accept its scores in time.

        A unit has room for one row of the longest length, and may need several cycles per reciprocal.
        """
        early: Value = Const(0)
        if self.drains_before_shorter_rows:
            before = Signal.like(self.queries.p.keys, name="keys_before", reset_less=True)
            with m.If(begins):
                m.d.sync += before.eq(self.queries.p.keys)
            # Only an offered number counts: otherwise ready would be X in simulation while nothing is offered.
            early = busy & self.queries.valid & (self.queries.p.keys < before)
        if self.query_interval > self.sizes.steps:
            left = Signal(range(self.query_interval), name="apart_left")
            m.d.sync += left.eq(Mux(begins, self.query_interval - 1, Mux(left == 0, 0, left - 1)))
            early = early | (left != 0)
        return early

    def _buffer(self, m: Module, name: str, first: int, write: Value, port: Any) -> None:
        """Build a buffer whose words are written at the addresses from `first` on."""
        if self.storage == "memory":
            memory = getattr(self, name)
        else:
            m.submodules[name] = buffer = WordMemory(self.sizes.word_bits, self.sizes.words)
            memory = buffer.port
        address = self.configuration.p.address
        m.d.comb += [
            memory.write_enable.eq(write & (address >= first) & (address < first + self.sizes.words)),
            memory.write_address.eq(address - first),
            memory.write_data.eq(self.configuration.p.data),
            memory.read_enable.eq(port.enable),
            memory.read_address.eq(port.address),
            port.data.eq(memory.read_data),
        ]
