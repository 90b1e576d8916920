"""The EXAQ unit: maximum, levels and their sum; then one product per level and row, and a selection among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring

from softmaxkit.blocks.adder_tree import maximum_tree
from softmaxkit.blocks.configuration import (
    Words,
    build_registers,
    hold_between_rows,
    number_of_set,
    rows_inside,
    words_of,
)
from softmaxkit.blocks.gather import Gather
from softmaxkit.blocks.parts import Part, table_part
from softmaxkit.blocks.piecewise_linear import check_segments
from softmaxkit.blocks.pipeline import Pipeline, choose_cuts, named
from softmaxkit.blocks.row_buffer import RowBuffer
from softmaxkit.blocks.row_maximum import RowMaximum
from softmaxkit.blocks.storage import MemoryPort, check_storage
from softmaxkit.blocks.stream import beats, check_sizes, set_field
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.loading import check_constants
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.methods.exaq.accumulators import (
    ACCUMULATORS,
    HistogramSum,
    Levels,
    SerialHistogramSum,
    state_bits,
    total_bits,
)
from softmaxkit.methods.exaq.constants import ExaqConstants
from softmaxkit.methods.exaq.passes import choose_passes
from softmaxkit.methods.exaq.products import PipelinedResults
from softmaxkit.methods.exaq.registers import baked, check_highest, register_map
from softmaxkit.methods.exaq.serial import SerialResults
from softmaxkit.methods.exaq.spec import Exaq

CUTS = ("product", "level", "line", "argument")
"""Places for registers, the most useful first."""
FIXED = 5
"""Number of registers that are always present."""


class Unit(SoftmaxUnit):
    """EXAQ: scores wait for the row's maximum, levels for the row's products.

    Rows of at least 2**bits beats follow each other without bubbles; shorter ones wait for their products. With 1 or 2
    lanes the products are computed serially if that takes no longer than the longest row; shorter rows then take as
    many cycles as the products.

    Args:
        spec: the spec.
        lanes: positions per beat.
        constants: constants of one layer or head, to bake in; None for loadable ones.
        max_row: number of scores in the longest row.
        depth: registers from scores to results, excluding buffers.
        storage: storage of waiting rows, and of a loadable table of sums (which with "memory" is in flip-flops).
        sets: number of sets of loadable constants.

    Raises:
        TypeError: the constants belong to another method.
        ValueError: the sizes cannot be built, or the constants do not map the row's maximum to an exponential of 1.
    """

    spec: Exaq
    takes_sets = True

    def __init__(
        self,
        spec: Exaq,
        lanes: int = 16,
        constants: Constants | None = None,
        max_row: int = 256,
        depth: int | None = None,
        storage: str = "flip-flops",
        sets: int = 1,
    ) -> None:
        check_sizes(lanes, max_row)
        check_storage(storage)
        check_segments(spec.reciprocal_segments)
        if constants is not None:
            check_constants(spec, constants)
            check_highest(spec, cast(ExaqConstants, constants))
        self.passes = choose_passes(spec, total_bits(spec, max_row), lanes, max_row)
        cuts = CUTS if self.passes is None else ("level",)
        self.cuts = choose_cuts(cuts, depth, default=FIXED + len(cuts), fixed=FIXED)
        self.depth = FIXED + len(self.cuts)
        taken = beats(max_row, lanes)
        width, code = lanes * (spec.score_bits + 1), signed(spec.score_bits)
        registers = None if constants is not None else register_map(spec, lanes, sets)
        set_bits = registers.set_bits if registers else 0
        self.gather: RowMaximum | Gather
        if self.passes:  # rows wait for their results, so no queue of maxima is needed
            self.gather = RowMaximum(width, code, taken, storage, set_bits)
        else:
            self.gather = Gather(width, code, taken, True, storage, set_bits)
        self.histogram_sum = SerialHistogramSum if self.passes else HistogramSum
        self.counted = self.histogram_sum.cycles(spec, max_row) if spec.accumulator == "histogram" else 0
        self.turn = self.counted + (self.passes.cycles if self.passes else PipelinedResults.latency(spec, self.cuts))
        self.buffer = RowBuffer(lanes * (spec.bits + 1) + 1, taken + self.turn, storage)
        memories = {}
        if storage == "memory":
            memories["score_memory"] = self.gather.signature.members["memory"].signature
            memories["level_memory"] = MemoryPort(self.buffer.width, self.buffer.depth)
        super().__init__(spec, lanes, constants, max_row, storage, registers, memories)

    def parts(self) -> list[Part]:
        """Return the parts that are small enough to test exhaustively."""
        return [table_part("reciprocal table", self.spec.reciprocal_table.table)]

    @property
    def result_bits(self) -> int:
        """Width of a result code in bits."""
        return self.spec.output.bits

    def latency(self, length: int) -> int:
        """Return the cycles from the first beat of a row to its last result."""
        taken = beats(length, self.lanes)
        levels = 1 + ("level" in self.cuts)
        return taken - 1 + self.gather.waiting(taken) + levels + self.turn + taken

    def interval(self, length: int) -> int:
        """Return the cycles between rows in a stream: those of their beats or of their products, whichever is more."""
        return max(beats(length, self.lanes), self.spec.levels if self.passes is None else self.passes.cycles)

    def loaded(self, constants: ExaqConstants) -> dict[str, int | Sequence[int]]:
        """Return the register values for some constants.

        Raises:
            ValueError: the constants do not map the row's maximum to an exponential of 1.
        """
        check_highest(self.spec, constants)
        return dict(baked(self.spec, constants, self.lanes))

    def elaborate(self, platform: object) -> Module:
        """Build the unit."""
        m = Module()
        m.submodules.gather, m.submodules.buffer = self.gather, self.buffer
        for name, inner in (("score_memory", self.gather), ("level_memory", self.buffer)):
            if name in self.memories:
                wiring.connect(m, wiring.flipped(getattr(self, name)), inner.memory)
        if self.registers is None:
            hold = Const(0)
            sets: list[Words] = [baked(self.spec, cast(ExaqConstants, self.constants), self.lanes)]
        else:
            # Rows of one beat each fill the buffers, their outputs and the registers; a few more leave room.
            most = self.gather.buffer.depth + self.buffer.depth + self.depth + 8
            busy = rows_inside(m, self.scores, self.results, most)
            hold, write = hold_between_rows(m, self.scores, self.configuration, busy)
            kind = "flip-flops" if self.storage == "memory" else self.storage
            sets = build_registers(m, self.registers, self.configuration, write, kind)
        self._gather(m, hold)
        width = total_bits(self.spec, self.max_row)
        m.submodules.results = results = (
            SerialResults(self.passes, sets) if self.passes else PipelinedResults(self.spec, width, sets, self.cuts)
        )
        self._levels(m, sets, results)
        self._results(m, results.sink)
        return m

    def _gather(self, m: Module, hold: Value) -> None:
        """Hold scores until the maximum of their row is known."""
        scores, source = self.scores, self.gather.source
        lowest = self.spec.scores.min_code
        candidates = [Mux(scores.p.mask[lane], scores.p.codes[lane], lowest) for lane in range(self.lanes)]
        m.d.comb += [
            source.valid.eq(scores.valid & ~hold),
            scores.ready.eq(source.ready & ~hold),
            source.p.beat.eq(Cat(scores.p.codes, scores.p.mask)),
            source.p.key.eq(maximum_tree(m, "maximum", candidates)),
            source.p.last.eq(scores.p.last),
        ]
        if self.sets > 1:
            m.d.comb += source.p.set.eq(scores.p.set)
        if isinstance(self.gather, Gather):
            m.d.comb += source.p.present.eq(1)

    def _levels(self, m: Module, sets: Sequence[Words], part: Any) -> None:
        """Convert scores to levels, which wait in the buffer; pass the sum of their exponentials and the set on."""
        spec, gathered, bits = self.spec, self.gather.sink, self.spec.score_bits
        fields = {"levels": self.lanes * spec.bits, "mask": self.lanes, "last": 1, **set_field(self.set_bits)}
        layout = data.StructLayout({**fields, "state": state_bits(spec, self.max_row)})
        summed = stream.Signature(layout).create(path=("summed",))
        pipe = Pipeline(m, "front", gathered.valid, summed, self.cuts)
        own = number_of_set(gathered)
        thresholds = words_of(m, "level", sets, own, "thresholds")["thresholds"]
        levels = []
        for lane in range(self.lanes):
            distance = Signal(signed(bits + 1), name=f"distance{lane}")
            m.d.comb += distance.eq(gathered.p.beat[lane * bits :][:bits].as_signed() - gathered.p.maximum)
            reached = [distance >= threshold for threshold in thresholds]
            levels.append(named(m, f"level{lane}", sum(reached[1:], reached[0])[: spec.bits]))
        mask = list(gathered.p.beat[self.lanes * bits :])
        beat = pipe.cut("level", Levels(levels, mask, gathered.p.last, own))
        names = ["exponentials", *["sums"] * (spec.accumulator == "packed")]
        words = words_of(m, "sum", sets, beat.set, *names)
        state = ACCUMULATORS[spec.accumulator](m, pipe, spec, beat, words, self.max_row)
        pipe.finish(Cat(*beat.levels, *beat.mask, beat.last, *[beat.set] * (self.sets > 1)), state=state)

        following = part.source
        if spec.accumulator == "histogram":
            m.submodules.histogram = adder = self.histogram_sum(spec, self.max_row, sets)
            m.d.comb += [
                following.valid.eq(adder.sink.valid),
                following.payload.eq(adder.sink.payload),
                adder.sink.ready.eq(following.ready),
            ]
            following = adder.source
            if self.sets > 1:
                m.d.comb += part.source_set.eq(adder.sink_set)
            part = adder
        if self.sets > 1:
            m.d.comb += part.source_set.eq(summed.p.set)
        ready = self.buffer.source.ready & (~summed.p.last | following.ready)
        m.d.comb += [
            gathered.ready.eq(pipe.advance),
            summed.ready.eq(ready),
            self.buffer.source.valid.eq(summed.valid & ready),
            self.buffer.source.payload.eq(Cat(summed.p.levels, summed.p.mask, summed.p.last)),
            following.valid.eq(summed.valid & ready & summed.p.last),
            Value.cast(following.payload).eq(summed.p.state),
        ]

    def _results(self, m: Module, row_results: Any) -> None:
        """Select the result of each waiting level from those of its row."""
        spec, waiting = self.spec, self.buffer.sink
        pipe = Pipeline(m, "back", waiting.valid & row_results.valid, self.results, self.cuts)
        last = waiting.payload[-1]
        m.d.comb += [
            waiting.ready.eq(pipe.advance & row_results.valid),
            row_results.ready.eq(pipe.fire & last),
        ]
        choices = [row_results.payload[level] for level in range(spec.levels)]
        mask = waiting.payload[self.lanes * spec.bits : -1]
        results = [
            Mux(mask[lane], Array(choices)[waiting.payload[lane * spec.bits :][: spec.bits]], 0)
            for lane in range(self.lanes)
        ]
        pipe.finish(Cat(*results, last))
