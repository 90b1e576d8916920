"""The exact unit: softmax in a small float, three-pass or online."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Value
from amaranth.lib import wiring

from softmaxkit.blocks.parts import Part, table_part
from softmaxkit.blocks.piecewise_linear import check_segments
from softmaxkit.blocks.pipeline import Pipeline, choose_cuts
from softmaxkit.blocks.reciprocal import SERIAL_LANES, ReciprocalUnit
from softmaxkit.blocks.row_buffer import RowBuffer, buffer_latency
from softmaxkit.blocks.serial_reciprocal import SerialReciprocalUnit
from softmaxkit.blocks.storage import MemoryPort, check_storage
from softmaxkit.blocks.stream import beats, check_sizes
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.methods.exact import datapath
from softmaxkit.methods.exact.conversion import TakesFloats, fixed_weight
from softmaxkit.methods.exact.datapath import exponentials, from_ordered
from softmaxkit.methods.exact.fronts import OnlineFront, ThreePassFront, scores_of
from softmaxkit.methods.exact.sliced import SlicedFront, is_sliced
from softmaxkit.methods.exact.spec import WEIGHT, Exact

CUTS = (
    *("exponent", *datapath.BENDS, "product", "difference", "fraction", "power", "sum", "line", "fixed", "align"),
    *("table", "scale", "argument", "maximum"),
)
"""Places for registers, the most useful first. Those of the exponential exist twice in the online schedule.

Some have no choice: "power" where the exponential has a register anyway, and those of a serial reciprocal.
"""


class Unit(TakesFloats, SoftmaxUnit):
    """Exact softmax in a small float.

    Three-pass: scores wait for the row's maximum, exponentials for its sum. Online: only scores wait, for both, and
    their exponentials are computed twice. There are no bubbles between rows, except with few lanes, whose serial parts
    delay rows shorter than a reciprocal, and online each slice after a row's first by one cycle.

    Args:
        spec: the spec.
        lanes: positions per beat; online a divisor or a multiple of the slice width.
        constants: have no effect, since the unit has none.
        max_row: number of scores in the longest row.
        depth: registers from scores to results, excluding buffers.
        storage: storage of waiting rows.

    Raises:
        TypeError: the constants belong to another method.
        ValueError: the sizes cannot be built.
    """

    spec: Exact

    def __init__(
        self,
        spec: Exact,
        lanes: int = 16,
        constants: Constants | None = None,
        max_row: int = 256,
        depth: int | None = None,
        storage: str = "flip-flops",
    ) -> None:
        check_sizes(lanes, max_row)
        check_storage(storage)
        check_segments(spec.exponential_segments, spec.reciprocal_segments)
        self.online = spec.schedule == "online"
        serial, sliced = lanes <= SERIAL_LANES, is_sliced(spec, lanes)
        without = {*(["sum"] if self.online else ["maximum", "power"]), *(ReciprocalUnit.CUTS if serial else ())}
        without |= {*datapath.BENDS[spec.bends :]}
        cuts = [cut for cut in CUTS if cut not in without and not (sliced and cut == "power")]
        fixed = 3 if self.online and not sliced else 4
        self.cuts = choose_cuts(cuts, depth, default=fixed + len(cuts), fixed=fixed)
        self.depth = fixed + len(self.cuts)
        number = spec.format
        total_bits = (max_row << spec.sum_fraction_bits).bit_length()
        tag_bits = number.bits if self.online else 0
        # The largest score has an exponential of 1, so no sum is less than 1.
        least = spec.sum_fraction_bits
        self.reciprocal = (
            SerialReciprocalUnit(spec.reciprocal, total_bits, tag_bits, "nearest", least)
            if serial
            else ReciprocalUnit(
                spec.reciprocal, total_bits, tag_bits, "nearest", self.cuts, least, buffer_latency(storage)
            )
        )
        sizes = (spec, lanes, max_row, self.cuts, storage)
        self.front: ThreePassFront | OnlineFront | SlicedFront
        if sliced:
            self.front = SlicedFront(*sizes, self.reciprocal.interval)
        else:
            self.front = OnlineFront(*sizes) if self.online else ThreePassFront(*sizes)
        width = lanes * self.front.waiting_bits + 1
        held = beats(max_row, lanes) + self.front.behind + max(self.reciprocal.latency, buffer_latency(storage))
        self.buffer = RowBuffer(width, held, storage)
        memories = {}
        if storage == "memory":
            memories["row_memory"] = MemoryPort(width, self.buffer.depth)
            if "score_memory" in self.front.signature.members:
                memories["score_memory"] = self.front.signature.members["score_memory"].signature
        super().__init__(spec, lanes, constants, max_row, storage, memories=memories)

    def parts(self) -> list[Part]:
        """Return the parts that are small enough to test exhaustively."""
        tables = {"exponential": self.spec.exponential, "reciprocal": self.spec.reciprocal.table}
        return [table_part(f"{name} table", table) for name, table in tables.items()]

    @property
    def result_bits(self) -> int:
        """Width of a result code in bits."""
        return self.spec.format.bits

    @property
    def weight_bits(self) -> int:
        """Width of a result in fixed point, in bits."""
        return WEIGHT.bits

    def weight(self, m: Module, name: str, result: Value) -> Value:
        """Return a result in fixed point."""
        return fixed_weight(m, name, self.spec.format, result)

    def latency(self, length: int) -> int:
        """Return the cycles from the first beat of a row to its last result."""
        taken = beats(length, self.lanes)
        gather = self.front.gather
        complete = (
            taken - 1 + (0 if gather is None else gather.waiting(taken)) + self.front.latency + self._extra(taken)
        )
        again = len(self.cuts & {*datapath.CUTS}) if self.online else 0
        # The reciprocal of the sum arrives last, or in a short row the first beat from the buffer.
        turn = max(self.reciprocal.latency, self.buffer.latency - (taken - 1) - self.front.behind)
        return complete + turn + taken - 1 + again + 1 + ("product" in self.cuts)

    def interval(self, length: int) -> int:
        """Return the cycles between rows in a stream: one beat per cycle, unless a serial part takes longer."""
        taken = beats(length, self.lanes)
        return max(taken + self._extra(taken), self.reciprocal.interval)

    def _extra(self, taken: int) -> int:
        """Return the cycles that a row takes in the front end in addition to its beats."""
        return self.front.extra(taken) if isinstance(self.front, SlicedFront) else 0

    def elaborate(self, platform: object) -> Module:
        """Build the unit."""
        m = Module()
        m.submodules.front, m.submodules.buffer, m.submodules.reciprocal = front, buffer, reciprocal = (
            self.front,
            self.buffer,
            self.reciprocal,
        )
        wiring.connect(m, wiring.flipped(self.scores), front.scores)
        wiring.connect(m, front.waiting, buffer.source)
        if "row_memory" in self.memories:
            wiring.connect(m, wiring.flipped(self.row_memory), buffer.memory)
        if "score_memory" in self.memories:
            wiring.connect(m, wiring.flipped(self.score_memory), front.score_memory)
        m.d.comb += [
            reciprocal.source.valid.eq(front.totals.valid),
            reciprocal.source.p.divisor.eq(front.totals.p.total),
            reciprocal.source.p.tag.eq(front.totals.p.highest),
            front.totals.ready.eq(reciprocal.source.ready),
        ]
        reciprocals, waiting, number = reciprocal.sink, buffer.sink, self.spec.format
        pipe = Pipeline(m, "back", waiting.valid & reciprocals.valid, self.results, self.cuts)
        last = waiting.payload[-1]
        m.d.comb += [waiting.ready.eq(pipe.advance & reciprocals.valid), reciprocals.ready.eq(pipe.fire & last)]
        mantissa, exponent = reciprocals.p.mantissa, reciprocals.p.exponent
        if self.online:
            scores, mask = scores_of(number, waiting.payload, self.lanes)
            pairs = [(score, from_ordered(reciprocals.p.tag.as_signed())) for score in scores]
            carried = [*mask, mantissa, exponent, last]
            powers, carried = exponentials(m, pipe, "back", self.spec, pairs, carried)
            *mask, mantissa, exponent, last = carried
            values = [datapath.masked(power, on) for power, on in zip(powers, mask, strict=True)]
        else:
            values = datapath.exponentials_of(number, waiting.payload, self.lanes)
        products = [
            datapath.product(m, f"product{i}", number, value, mantissa, exponent) for i, value in enumerate(values)
        ]
        products, last = pipe.cut("product", (products, last))
        results = [datapath.to_float(m, f"result{i}", number, product) for i, product in enumerate(products)]
        pipe.finish(Cat(*results, last))
        return m
