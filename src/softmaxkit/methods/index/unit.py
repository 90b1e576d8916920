"""The IndexSoftmax unit: maximum, address by bisection, table, sum; then a reciprocal per row, products per score."""

from __future__ import annotations

from typing import NamedTuple

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring

from softmaxkit.blocks.adder_tree import adder_tree, maximum_tree
from softmaxkit.blocks.gather import Gather
from softmaxkit.blocks.parts import Part, table_part
from softmaxkit.blocks.piecewise_linear import check_segments, lookup
from softmaxkit.blocks.pipeline import Pipeline, choose_cuts, named
from softmaxkit.blocks.reciprocal import SERIAL_LANES, ReciprocalUnit
from softmaxkit.blocks.row_buffer import RowBuffer, buffer_latency
from softmaxkit.blocks.serial_reciprocal import SerialReciprocalUnit
from softmaxkit.blocks.shifter import saturate, shift_right
from softmaxkit.blocks.storage import MemoryPort, check_storage
from softmaxkit.blocks.stream import beats, check_sizes
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.methods.index.spec import Index

FIXED = 4
"""Number of registers that are always present: before and after the buffer, for the sum, and for the results."""


class Lane(NamedTuple):
    """A score of a beat: its distance to the row's maximum, and the bits of its level known so far.

    Attributes:
        distance: maximum minus score, unsigned and saturated.
        bits: bits of the level, the highest first.
        mask: set if the score is attended.
    """

    distance: Value
    bits: list[Value]
    mask: Value


class Unit(SoftmaxUnit):
    """IndexSoftmax: scores wait for the row's maximum, levels for its sum.

    There are no bubbles between rows, unless a row is shorter than the serial reciprocal that is used with few lanes.

    Args:
        spec: the spec.
        lanes: positions per beat.
        constants: have no effect, since the unit has none.
        max_row: number of scores in the longest row.
        depth: registers from scores to results, excluding buffers.
        storage: storage of waiting rows.

    Raises:
        TypeError: the constants belong to another method.
        ValueError: the sizes cannot be built.
    """

    spec: Index

    def __init__(
        self,
        spec: Index,
        lanes: int = 16,
        constants: Constants | None = None,
        max_row: int = 256,
        depth: int | None = None,
        storage: str = "flip-flops",
    ) -> None:
        check_sizes(lanes, max_row)
        check_storage(storage)
        check_segments(spec.reciprocal_segments)
        serial = lanes <= SERIAL_LANES
        cuts = ["product", "level", *([] if serial else ReciprocalUnit.CUTS), "entry"]
        cuts += [f"step{step}" for step in range(1, spec.bits)]
        self.cuts = choose_cuts(cuts, depth, default=FIXED + len(cuts), fixed=FIXED)
        self.depth = FIXED + len(self.cuts)
        # The largest score has the largest entry, so no sum is less than that.
        total, least = (max_row * spec.exponentials[-1]).bit_length(), spec.table_bits - 1
        self.reciprocal = (
            SerialReciprocalUnit(spec.reciprocal_table, total, 0, "nearest", least)
            if serial
            else ReciprocalUnit(spec.reciprocal_table, total, 0, "nearest", self.cuts, least, buffer_latency(storage))
        )
        taken = beats(max_row, lanes)
        self.gather = Gather(lanes * (spec.score_bits + 1), signed(spec.score_bits), taken, True, storage)
        self.behind = 1 + ("entry" in self.cuts)
        held = taken + self.behind + max(self.reciprocal.latency, buffer_latency(storage))
        self.buffer = RowBuffer(lanes * spec.bits + 1, held, storage)
        memories = {}
        if storage == "memory":
            memories["score_memory"] = self.gather.signature.members["memory"].signature
            memories["level_memory"] = MemoryPort(self.buffer.width, self.buffer.depth)
        super().__init__(spec, lanes, constants, max_row, storage, memories=memories)

    def parts(self) -> list[Part]:
        """Return the parts that are small enough to test exhaustively."""
        return [table_part("reciprocal table", self.spec.reciprocal_table.table)]

    @property
    def result_bits(self) -> int:
        """Width of a result code in bits."""
        return self.spec.output_bits

    def latency(self, length: int) -> int:
        """Return the cycles from the first beat of a row to its last result."""
        taken = beats(length, self.lanes)
        steps = sum(cut.startswith("step") or cut == "level" for cut in self.cuts)
        complete = taken - 1 + self.gather.waiting(taken) + 1 + steps + self.behind
        # The reciprocal of the sum arrives last, or in a short row the first beat from the buffer.
        turn = max(self.reciprocal.latency, self.buffer.latency - (taken - 1) - self.behind)
        return complete + turn + taken - 1 + 1 + ("product" in self.cuts)

    def interval(self, length: int) -> int:
        """Return the cycles between rows in a stream: one beat per cycle, unless a serial reciprocal takes longer."""
        return max(beats(length, self.lanes), self.reciprocal.interval)

    def elaborate(self, platform: object) -> Module:
        """Build the unit."""
        m = Module()
        m.submodules.gather, m.submodules.buffer, m.submodules.reciprocal = self.gather, self.buffer, self.reciprocal
        for name, inner in (("score_memory", self.gather), ("level_memory", self.buffer)):
            if name in self.memories:
                wiring.connect(m, wiring.flipped(getattr(self, name)), inner.memory)
        self._gather(m)
        self._levels(m)
        self._sum(m)
        self._results(m)
        return m

    def _gather(self, m: Module) -> None:
        """Hold scores until the maximum of their row is known."""
        scores, source = self.scores, self.gather.source
        lowest = self.spec.scores.min_code
        candidates = [Mux(scores.p.mask[lane], scores.p.codes[lane], lowest) for lane in range(self.lanes)]
        m.d.comb += [
            source.valid.eq(scores.valid),
            scores.ready.eq(source.ready),
            source.p.beat.eq(Cat(scores.p.codes, scores.p.mask)),
            source.p.key.eq(maximum_tree(m, "maximum", candidates)),
            source.p.present.eq(1),
            source.p.last.eq(scores.p.last),
        ]

    def _levels(self, m: Module) -> None:
        """Determine the level of each score bit by bit, the highest first; masked scores get the lowest level."""
        spec, gathered, bits = self.spec, self.gather.sink, self.spec.score_bits
        self.leveled = stream.Signature(self.buffer.width).create(path=("leveled",))
        pipe = Pipeline(m, "front", gathered.valid, self.leveled, self.cuts)
        m.d.comb += gathered.ready.eq(pipe.advance)
        # All distances beyond the lowest threshold are equivalent, so distances can saturate.
        places = spec.farthest.bit_length()
        lanes = []
        for lane in range(self.lanes):
            score = gathered.p.beat[lane * bits :][:bits].as_signed()
            below = named(m, f"below{lane}", (gathered.p.maximum - score).as_unsigned()[: bits + 1])
            distance = saturate(m, f"distance{lane}", below, places)
            lanes.append(Lane(distance, [], gathered.p.beat[self.lanes * bits + lane]))
        lanes, last = pipe.cut("level", (lanes, gathered.p.last))
        for step in range(spec.bits):
            lanes, last = pipe.cut(f"step{step}", (lanes, last))
            # The lowest level with this bit set, for each combination of the bits above it.
            firsts = [(2 * above + 1) << (spec.bits - 1 - step) for above in range(1 << step)]
            farthest = [-spec.thresholds[first - 1] for first in firsts]
            for index, state in enumerate(lanes):
                limit = lookup(m, f"limit{step}_{index}", farthest, Cat(*reversed(state.bits)))
                bit = named(m, f"bit{step}_{index}", state.distance <= limit)
                lanes[index] = state._replace(bits=[*state.bits, bit])
        levels = [Mux(state.mask, Cat(*reversed(state.bits)), 0) for state in lanes]
        pipe.finish(Cat(*levels, last))

    def _sum(self, m: Module) -> None:
        """Write the levels to the buffer, and pass the sum of their entries to the reciprocal."""
        leveled, waiting, source = self.leveled, self.buffer.source, self.reciprocal.source
        total = Signal(len(source.p.divisor), name="total", reset_less=True)
        summed = stream.Signature(len(total)).create(path=("summed",))
        pipe = Pipeline(m, "sum", leveled.valid & waiting.ready, summed, self.cuts)
        m.d.comb += [
            leveled.ready.eq(pipe.advance & waiting.ready),
            waiting.valid.eq(leveled.valid & pipe.advance),
            waiting.payload.eq(leveled.payload),
            source.valid.eq(summed.valid),
            source.p.divisor.eq(summed.payload),
            summed.ready.eq(source.ready),
        ]
        entries, last = pipe.cut("entry", (self._entries(m, "entry", leveled.payload), leveled.payload[-1]))
        first = Signal(init=1)
        with m.If(pipe.fire):
            m.d.sync += [total.eq(Mux(first, 0, total) + adder_tree(m, "sum", entries)), first.eq(last)]
        pipe.keep(last)
        pipe.finish(Cat(), state=total)

    def _results(self, m: Module) -> None:
        """Multiply each waiting entry by the reciprocal of its row's sum."""
        spec, waiting, reciprocals = self.spec, self.buffer.sink, self.reciprocal.sink
        pipe = Pipeline(m, "back", waiting.valid & reciprocals.valid, self.results, self.cuts)
        last = waiting.payload[-1]
        m.d.comb += [waiting.ready.eq(pipe.advance & reciprocals.valid), reciprocals.ready.eq(pipe.fire & last)]
        products = [
            named(m, f"product{lane}", entry * reciprocals.p.mantissa)
            for lane, entry in enumerate(self._entries(m, "power", waiting.payload))
        ]
        products, exponent, last = pipe.cut("product", (products, reciprocals.p.exponent, last))
        results = []
        for lane, product in enumerate(products):
            # Multiply by the largest code, which represents 1.
            scaled = named(m, f"scaled{lane}", ((product << spec.output_bits) - product).as_unsigned()[:-1])
            rounded = shift_right(m, f"rounded{lane}", scaled, exponent, fraction_bits=spec.reciprocal.fraction_bits)
            results.append(saturate(m, f"result{lane}", rounded, spec.output_bits))
        pipe.finish(Cat(*results, last))

    def _entries(self, m: Module, name: str, beat: Value) -> list[Value]:
        """Look up the entries of the levels of a beat."""
        bits = self.spec.bits
        return [
            lookup(m, f"{name}{lane}", self.spec.exponentials, beat[lane * bits : (lane + 1) * bits])
            for lane in range(self.lanes)
        ]
