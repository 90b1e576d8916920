"""The Softermax unit: the paper's Unnormalised Softmax Unit and Normalisation Unit, with a row buffer in between."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring

from softmaxkit.blocks.parts import Part, table_part
from softmaxkit.blocks.piecewise_linear import check_segments
from softmaxkit.blocks.pipeline import choose_cuts
from softmaxkit.blocks.reciprocal import ReciprocalUnit
from softmaxkit.blocks.row_buffer import RowBuffer, buffer_latency
from softmaxkit.blocks.slice_buffer import SliceBuffer
from softmaxkit.blocks.storage import MemoryPort, check_storage
from softmaxkit.blocks.stream import beats, check_sizes
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.methods.softermax.normalisation import NormalisationUnit, has_plain_reciprocal
from softmaxkit.methods.softermax.powers import waiting_layout
from softmaxkit.methods.softermax.products import products_of
from softmaxkit.methods.softermax.spec import Softermax
from softmaxkit.methods.softermax.unnormalised import UnnormalisedUnit

CUTS = ("product", "sum", "shifted", "line", "argument")
"""Places for registers, the most useful first. The last two exist only if the reciprocal is not a plain table."""


class Unit(SoftmaxUnit):
    """Softermax: the two units, with a row buffer of powers in between.

    The results of a row leave once it is complete, while the next rows enter; there are no bubbles between rows.

    Args:
        spec: the spec.
        lanes: positions per beat; a divisor or a multiple of the slice width.
        constants: have no effect, since the unit does not depend on the score scale.
        max_row: number of scores in the longest row.
        depth: registers from scores to results, excluding buffers.
        storage: storage of waiting rows.

    Raises:
        TypeError: the constants belong to another method.
        ValueError: the sizes cannot be built.
    """

    spec: Softermax

    def __init__(
        self,
        spec: Softermax,
        lanes: int = 16,
        constants: Constants | None = None,
        max_row: int = 256,
        depth: int | None = None,
        storage: str = "flip-flops",
    ) -> None:
        check_sizes(lanes, max_row)
        check_storage(storage)
        check_segments(spec.power_segments, spec.reciprocal_segments)
        without = {*(() if spec.maximum == "online" else ["shifted"])}
        if products_of(spec) is not None:
            without |= {"shifted", "product"}
        if has_plain_reciprocal(spec):
            without |= {*ReciprocalUnit.CUTS}
        cuts = [cut for cut in CUTS if cut not in without]
        registers = choose_cuts(cuts, depth, default=4 + len(cuts), fixed=4)
        self.depth = 4 + len(registers)
        self.front = UnnormalisedUnit(spec, lanes, max_row, registers, storage)
        # With a gather in front the sums can wait, provided that no reciprocal arrives before the powers of its row.
        prompt = not registers & {*ReciprocalUnit.CUTS} and self.front.sum.latency + 1 >= buffer_latency(storage)
        queue = 0 if prompt and self.front.gather is not None else buffer_latency(storage)
        self.back = NormalisationUnit(spec, lanes, max_row, registers, queue)
        width = waiting_layout(spec, lanes).as_shape().width
        # Beats that enter after a row before its first result leaves.
        waits = self.front.ahead + self.front.sum.latency
        held = beats(max_row, lanes) + waits + max(self.back.reciprocal.latency, buffer_latency(storage))
        self.buffer = RowBuffer(width, held, storage)
        memories = {}
        if storage == "memory":
            memories["power_memory"] = MemoryPort(width, held)
            if "score_memory" in self.front.signature.members:
                memories["score_memory"] = self.front.signature.members["score_memory"].signature
        super().__init__(spec, lanes, constants, max_row, storage, memories=memories)

    def parts(self) -> list[Part]:
        """Return the parts that are small enough to test exhaustively."""
        tables = {"power": self.spec.power_table, "reciprocal": self.spec.reciprocal_table.table}
        return [table_part(f"{name} table", table, self.spec.rounding) for name, table in tables.items()]

    @property
    def result_bits(self) -> int:
        """Width of a result code in bits."""
        return self.spec.output.bits

    def latency(self, length: int) -> int:
        """Return the cycles from the first beat of a row to its last result."""
        taken = beats(length, self.lanes)
        complete = self.front.leaves(taken) + self.front.latency
        # The reciprocal of the sum arrives last, or in a short row the first powers from the buffer.
        waits = self.front.ahead + self.front.sum.latency
        turn = max(self.back.reciprocal.latency, self.buffer.latency - (taken - 1) - waits)
        return complete + turn + taken - 1 + self.back.latency

    def interval(self, length: int) -> int:
        """Return the cycles between rows in a stream: one beat per cycle, if rows end with a whole slice.

        With fewer lanes than the slice width, a shorter slice at the end takes as long as a whole one.
        """
        return self.front.interval(beats(length, self.lanes))

    def refused_cycles(self, length: int, spacing: int) -> int:
        """Return the cycles for which a shorter slice at the end of a row waits for the previous slice to leave."""
        gather = self.front.gather
        return gather.refused_cycles(beats(length, self.lanes), spacing) if isinstance(gather, SliceBuffer) else 0

    def delay(self, length: int, spacing: int) -> int:
        """Return the cycles from the last scores of a row to its first result."""
        taken, gather = beats(length, self.lanes), self.front.gather
        if not isinstance(gather, SliceBuffer):
            return super().delay(length, spacing)
        # Once complete, the last slice leaves at one beat per cycle.
        return self.schedule(length).first - gather.leaves(taken) + (taken - 1) % gather.beats + 1

    def elaborate(self, platform: object) -> Module:
        """Build the unit."""
        m = Module()
        m.submodules.front, m.submodules.buffer, m.submodules.back = front, buffer, back = (
            self.front,
            self.buffer,
            self.back,
        )
        wiring.connect(m, wiring.flipped(self.scores), front.scores)
        wiring.connect(m, wiring.flipped(self.results), back.results)
        for name, inner in (("power_memory", buffer), ("score_memory", front)):
            if name in self.memories:
                wiring.connect(
                    m, wiring.flipped(getattr(self, name)), getattr(inner, "memory" if inner is buffer else name)
                )
        wiring.connect(m, front.totals, back.totals)
        m.d.comb += [
            front.powers.ready.eq(buffer.source.ready),
            buffer.source.valid.eq(front.powers.valid),
            buffer.source.payload.eq(front.powers.payload),
            back.powers.valid.eq(buffer.sink.valid),
            back.powers.payload.eq(buffer.sink.payload),
            buffer.sink.ready.eq(back.powers.ready),
        ]
        return m
