"""The EXAQ unit: maximum, levels and their sum; then one product a level and row, and a choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring

from softmaxkit.blocks.adder_tree import maximum_tree
from softmaxkit.blocks.configuration import Register, RegisterMap, build_registers, hold_between_rows, rows_inside
from softmaxkit.blocks.gather import Gather
from softmaxkit.blocks.parts import Part, table_part
from softmaxkit.blocks.piecewise_linear import check_segments
from softmaxkit.blocks.pipeline import Pipeline, choose_cuts, named
from softmaxkit.blocks.reciprocal import ReciprocalUnit
from softmaxkit.blocks.row_buffer import RowBuffer
from softmaxkit.blocks.storage import MemoryPort, check_storage
from softmaxkit.blocks.stream import beats, check_sizes
from softmaxkit.methods.exaq.accumulators import (
    ACCUMULATORS,
    HistogramSum,
    Levels,
    Words,
    state_bits,
    total_bits,
)
from softmaxkit.methods.exaq.golden import CODES_PER_LOOKUP, sum_table
from softmaxkit.methods.exaq.products import ProductUnit
from softmaxkit.methods.exaq.spec import Exaq, ExaqConstants
from softmaxkit.methods.unit import SoftmaxUnit, check_constants
from softmaxkit.spec import Constants

CUTS = ("product", "level", "line", "argument")
"""Places for registers, the most useful first."""


class Unit(SoftmaxUnit):
    """EXAQ: scores wait for the row's maximum, levels for the row's products.

    Rows of at least 2**bits beats follow each other without bubbles; shorter ones wait for their products.

    Args:
        spec: the method.
        lanes: positions a beat.
        constants: of one layer, baked in; None for loadable ones.
        max_row: scores of the longest row.
        depth: registers from scores to results, buffers not counted.
        storage: of the rows that wait, and of a loadable table of sums (which "memory" leaves in flip-flops).

    Raises:
        ValueError: sizes that cannot be built.
    """

    spec: Exaq

    def __init__(
        self,
        spec: Exaq,
        lanes: int = 16,
        constants: Constants | None = None,
        max_row: int = 256,
        depth: int | None = None,
        storage: str = "flip-flops",
    ) -> None:
        check_sizes(lanes, max_row)
        check_storage(storage)
        check_segments(spec.reciprocal_segments)
        if constants is not None:
            check_constants(spec, constants)
        self.cuts = choose_cuts(CUTS, depth, default=9, fixed=5)
        self.depth = 5 + len(self.cuts)
        taken = beats(max_row, lanes)
        self.gather = Gather(lanes * (spec.score_bits + 1), signed(spec.score_bits), taken, True, storage)
        # The largest score of a row is of the highest level, so that the sum is no less than its exponential.
        least = 0 if constants is None else cast(ExaqConstants, constants).exponentials[-1].bit_length() - 1
        self.reciprocal = ReciprocalUnit(
            spec.reciprocal_table, total_bits(spec, max_row), 0, "nearest", self.cuts, least
        )
        counted = spec.levels + 1 if spec.accumulator == "histogram" else 0
        self.turn = counted + self.reciprocal.latency + spec.levels + ("product" in self.cuts) + 1
        self.buffer = RowBuffer(lanes * (spec.bits + 1) + 1, taken + self.turn, storage)
        memories = {}
        if storage == "memory":
            memories["score_memory"] = self.gather.signature.members["memory"].signature
            memories["level_memory"] = MemoryPort(self.buffer.width, self.buffer.depth)
        registers = None if constants is not None else register_map(spec)
        super().__init__(spec, lanes, constants, max_row, storage, registers, memories)

    def parts(self) -> list[Part]:
        """Return the parts that can be tried with all their inputs."""
        return [table_part("reciprocal table", self.spec.reciprocal_table.table)]

    @property
    def result_bits(self) -> int:
        """Width of a result code."""
        return self.spec.output.bits

    def latency(self, length: int) -> int:
        """Return the cycles from the first beat of a row to its last result."""
        taken = beats(length, self.lanes)
        levels = 1 + ("level" in self.cuts)
        return taken - 1 + self.gather.waiting(taken) + levels + self.turn + taken

    def interval(self, length: int) -> int:
        """Return the cycles between rows in a stream: those of their beats, or of their products if these are more."""
        return max(beats(length, self.lanes), self.spec.levels)

    def loaded(self, constants: ExaqConstants) -> dict[str, int | Sequence[int]]:
        """Return what the registers hold."""
        return dict(baked(self.spec, constants))

    def elaborate(self, platform: object) -> Module:
        """Build it."""
        m = Module()
        m.submodules.gather, m.submodules.buffer, m.submodules.reciprocal = self.gather, self.buffer, self.reciprocal
        for name, inner in (("score_memory", self.gather), ("level_memory", self.buffer)):
            if name in self.memories:
                wiring.connect(m, wiring.flipped(getattr(self, name)), inner.memory)
        if self.registers is None:
            hold, words = Const(0), baked(self.spec, cast(ExaqConstants, self.constants))
        else:
            most = self.gather.buffer.depth + self.buffer.depth + self.depth + 8
            busy = rows_inside(m, self.scores, self.results, most)
            hold, write = hold_between_rows(m, self.scores, self.configuration, busy)
            kind = "flip-flops" if self.storage == "memory" else self.storage
            words = build_registers(m, self.registers, self.configuration, write, kind)
        self._gather(m, hold)
        self._levels(m, words)
        self._results(m, words)
        return m

    def _gather(self, m: Module, hold: Value) -> None:
        """Let scores wait for the maximum of their row."""
        scores, source = self.scores, self.gather.source
        lowest = self.spec.scores.min_code
        candidates = [Mux(scores.p.mask[lane], scores.p.codes[lane], lowest) for lane in range(self.lanes)]
        m.d.comb += [
            source.valid.eq(scores.valid & ~hold),
            scores.ready.eq(source.ready & ~hold),
            source.p.beat.eq(Cat(scores.p.codes, scores.p.mask)),
            source.p.key.eq(maximum_tree(m, "maximum", candidates)),
            source.p.present.eq(1),
            source.p.last.eq(scores.p.last),
        ]

    def _levels(self, m: Module, words: Words) -> None:
        """Turn scores into levels, which wait in the buffer; give the reciprocal the sum of their exponentials."""
        spec, gathered, bits = self.spec, self.gather.sink, self.spec.score_bits
        fields = {"levels": self.lanes * spec.bits, "mask": self.lanes, "last": 1}
        layout = data.StructLayout({**fields, "state": state_bits(spec, self.max_row)})
        summed = stream.Signature(layout).create(path=("summed",))
        pipe = Pipeline(m, "front", gathered.valid, summed, self.cuts)
        levels = []
        for lane in range(self.lanes):
            distance = Signal(signed(bits + 1), name=f"distance{lane}")
            m.d.comb += distance.eq(gathered.p.beat[lane * bits :][:bits].as_signed() - gathered.p.maximum)
            reached = [distance >= threshold for threshold in words["thresholds"]]
            levels.append(named(m, f"level{lane}", sum(reached[1:], reached[0])[: spec.bits]))
        mask = list(gathered.p.beat[self.lanes * bits :])
        beat = pipe.cut("level", Levels(levels, mask, gathered.p.last))
        state = ACCUMULATORS[spec.accumulator](m, pipe, spec, beat, words, self.max_row)
        pipe.finish(Cat(*beat.levels, *beat.mask, beat.last), state=state)

        following, total = self.reciprocal.source, self.reciprocal.source.p.divisor
        if spec.accumulator == "histogram":
            m.submodules.histogram = adder = HistogramSum(spec, self.max_row, words["exponentials"])
            m.d.comb += [
                following.valid.eq(adder.sink.valid),
                following.p.divisor.eq(adder.sink.payload),
                adder.sink.ready.eq(following.ready),
            ]
            following, total = adder.source, Value.cast(adder.source.payload)
        ready = self.buffer.source.ready & (~summed.p.last | following.ready)
        m.d.comb += [
            gathered.ready.eq(pipe.advance),
            summed.ready.eq(ready),
            self.buffer.source.valid.eq(summed.valid & ready),
            self.buffer.source.payload.eq(Cat(summed.p.levels, summed.p.mask, summed.p.last)),
            following.valid.eq(summed.valid & ready & summed.p.last),
            total.eq(summed.p.state),
        ]

    def _results(self, m: Module, words: Words) -> None:
        """Multiply once a level, and let every waiting level choose its product."""
        spec, reciprocal, waiting = self.spec, self.reciprocal.sink, self.buffer.sink
        m.submodules.products = products = ProductUnit(
            spec, reciprocal.payload.shape(), words["exponentials"], self.cuts
        )
        wiring.connect(m, reciprocal, products.source)
        pipe = Pipeline(m, "back", waiting.valid & products.sink.valid, self.results, self.cuts)
        last = waiting.payload[-1]
        m.d.comb += [
            waiting.ready.eq(pipe.advance & products.sink.valid),
            products.sink.ready.eq(pipe.fire & last),
        ]
        choices = [products.sink.payload[level] for level in range(spec.levels)]
        mask = waiting.payload[self.lanes * spec.bits : -1]
        results = [
            Mux(mask[lane], Array(choices)[waiting.payload[lane * spec.bits :][: spec.bits]], 0)
            for lane in range(self.lanes)
        ]
        pipe.finish(Cat(*results, last))


def register_map(spec: Exaq) -> RegisterMap:
    """Return the registers of a loadable unit."""
    registers = [
        Register("thresholds", signed(spec.score_bits + 1), spec.levels - 1),
        Register("exponentials", unsigned(spec.exponential.bits), spec.levels),
    ]
    if spec.accumulator == "packed":
        group = CODES_PER_LOOKUP[spec.bits]
        largest = group * spec.exponential.max_code
        registers.append(Register("sums", unsigned(largest.bit_length()), 1 << (group * spec.bits)))
    return RegisterMap(registers)


def baked(spec: Exaq, constants: ExaqConstants) -> dict[str, Sequence[int]]:
    """Return tables and registers as integers."""
    found = {"thresholds": constants.thresholds, "exponentials": constants.exponentials}
    if spec.accumulator == "packed":
        found["sums"] = sum_table(spec.bits, constants.exponentials)
    return found
