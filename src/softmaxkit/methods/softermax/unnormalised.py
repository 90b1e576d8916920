"""The Unnormalised Softmax Unit: integer maximum, powers of two, and their running sum."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.adder_tree import maximum_tree
from softmaxkit.blocks.gather import Gather
from softmaxkit.blocks.pipeline import Pipeline
from softmaxkit.blocks.slice_buffer import SliceBuffer
from softmaxkit.blocks.stream import beats, check_sizes, score_layout
from softmaxkit.methods.softermax.powers import (
    codes_wait,
    kind_of,
    power_of,
    slices_of,
    waiting,
    waiting_layout,
    whole_shape,
)
from softmaxkit.methods.softermax.running_sum import RunningSum, total_layout
from softmaxkit.methods.softermax.spec import Softermax


class UnnormalisedUnit(wiring.Component):
    """Integer maximum, powers of two and their running sum: the part inside each processing element.

    Args:
        spec: the spec.
        lanes: positions per beat; a divisor or a multiple of the slice width.
        max_row: number of scores in the longest row; with maximum="global" a row waits for its maximum.
        registers: the cuts that have a register.
        storage: storage of waiting scores.

    Attributes:
        scores: input stream of `score_layout`.
        powers: output stream of `waiting_layout`.
        totals: output stream of `total_layout`, one per row.
        ahead: cycles by which powers leave before they are summed.
        latency: cycles from the last scores of a row, once their maximum is known, to its sum.
        score_memory: memory port, if whole rows wait and `storage` is "memory".

    Raises:
        ValueError: the sizes cannot be built.
    """

    def __init__(
        self, spec: Softermax, lanes: int, max_row: int, registers: Set[str], storage: str = "flip-flops"
    ) -> None:
        check_sizes(lanes, max_row)
        self.spec, self.lanes, self.registers, self.slices = spec, lanes, registers, slices_of(spec, lanes)
        self.codes_wait = codes_wait(spec, lanes)
        whole_rows = spec.maximum == "global"
        self.gather: Gather | SliceBuffer | None = None
        ports: dict[str, Any] = {
            "scores": In(stream.Signature(score_layout(Shape(spec.input.bits, signed=True), lanes))),
            "powers": Out(stream.Signature(waiting_layout(spec, lanes))),
            "totals": Out(stream.Signature(total_layout(spec, max_row))),
        }
        width = lanes * (spec.input.bits + 1)
        if whole_rows:
            self.gather = Gather(width, whole_shape(spec), beats(max_row, lanes), True, storage)
            if storage == "memory":
                ports["score_memory"] = Out(self.gather.signature.members["memory"].signature)
        elif self.slices.beats > 1:
            # A slice is too small for a memory of its own.
            kind = "flip-flops" if storage == "memory" else storage
            self.gather = SliceBuffer(width, whole_shape(spec), self.slices.beats, kind)
        self.sum = RunningSum(spec, lanes, max_row, 1 if self.gather is None else self.gather.beats, registers)
        self.latency = 1 + self.sum.latency
        self.ahead = int(self.codes_wait)
        super().__init__(ports)

    def leaves(self, count: int) -> int:
        """Return the cycles from the first beat of a row until the maximum for its last beat is known."""
        if isinstance(self.gather, SliceBuffer):
            return self.gather.leaves(count) + self._stays(count)
        return count - 1 + (0 if self.gather is None else self.gather.waiting(count))

    def interval(self, count: int) -> int:
        """Return the cycles between rows of `count` beats in a stream."""
        if isinstance(self.gather, SliceBuffer):
            return max(self.gather.interval(count), count + self._stays(count))
        return count

    def _stays(self, count: int) -> bool:
        """Return whether a row ends with a slice of a single beat, which takes one cycle more."""
        return self.sum.in_steps and count % self.slices.beats == 1

    def elaborate(self, platform: object) -> Module:
        """Build the unit."""
        m = Module()
        spec, scores = self.spec, self.scores
        per_slice = self.lanes // self.slices.a_beat
        candidates = [Mux(scores.p.mask[lane], scores.p.codes[lane], spec.input.min_code) for lane in range(self.lanes)]
        local = [
            self._whole(m, f"maximum{index}", maximum_tree(m, f"maximum{index}", candidates[first : first + per_slice]))
            for index, first in enumerate(range(0, self.lanes, per_slice))
        ]
        beat = Cat(scores.p.codes, scores.p.mask)
        scored = stream.Signature(self.sum.source.payload.shape()).create(path=("scored",))
        if self.gather is None:
            pipe = Pipeline(m, "front", scores.valid, scored, self.registers)
            m.d.comb += scores.ready.eq(pipe.advance)
            slice_last, last = Const(1), scores.p.last
        else:
            m.submodules.gather = gather = self.gather
            if "score_memory" in self.signature.members:
                wiring.connect(m, wiring.flipped(self.score_memory), gather.memory)
            m.d.comb += [
                gather.source.valid.eq(scores.valid),
                scores.ready.eq(gather.source.ready),
                gather.source.p.beat.eq(beat),
                gather.source.p.key.eq(local[0]),
                gather.source.p.last.eq(scores.p.last),
            ]
            if isinstance(gather, Gather):
                m.d.comb += gather.source.p.present.eq(1)
            # From here codes go to the row buffer, and their distances to the sum.
            taken = self.powers.ready if self.codes_wait else Const(1)
            pipe = Pipeline(m, "front", gather.sink.valid & taken, scored, self.registers)
            m.d.comb += gather.sink.ready.eq(pipe.advance & taken)
            beat, local = gather.sink.p.beat, [gather.sink.p.maximum]
            slice_last, last = gather.sink.p.group_last, gather.sink.p.last
        bits = spec.input.bits
        powers = [
            power_of(
                m,
                f"power{lane}",
                spec,
                beat[lane * bits : (lane + 1) * bits].as_signed(),
                ~beat[self.lanes * bits + lane],
                local[lane // per_slice],
            )
            for lane in range(self.lanes)
        ]
        maxima = Cat(*local) if spec.maximum == "online" else Cat()
        held = None
        if isinstance(self.gather, SliceBuffer):
            # All beats of a slice share its maximum.
            held = Signal(len(maxima), name="maximum", reset_less=True)
            with m.If(pipe.fire & gather.sink.p.group_first):
                m.d.sync += held.eq(maxima)
        front = Cat(slice_last, *powers, last)
        pipe.finish(front if held is not None else Cat(front, maxima), state=held)
        m.submodules.sum = running = self.sum
        wiring.connect(m, running.sink, wiring.flipped(self.totals))
        m.d.comb += running.source.payload.eq(scored.payload)
        if self.codes_wait:
            codes = [
                Cat(beat[lane * bits : (lane + 1) * bits], kind_of(m, f"kind{lane}", spec, power))
                for lane, power in enumerate(powers)
            ]
            m.d.comb += [
                scored.ready.eq(running.source.ready),
                running.source.valid.eq(scored.valid),
                self.powers.valid.eq(gather.sink.valid & pipe.advance),
                Value.cast(self.powers.p).eq(Cat(*codes, last)),
            ]
            return m
        m.d.comb += [
            scored.ready.eq(self.powers.ready & running.source.ready),
            self.powers.valid.eq(scored.valid & running.source.ready),
            running.source.valid.eq(scored.valid & self.powers.ready),
            *(
                self.powers.p.powers[lane].eq(waiting(m, f"waiting{lane}", spec, scored.p.beat.powers[lane]))
                for lane in range(self.lanes)
            ),
            self.powers.p.maxima.eq(scored.p.beat.maxima),
            self.powers.p.last.eq(scored.p.beat.last),
        ]
        return m

    def _whole(self, m: Module, name: str, code: Value) -> Value:
        """Round a score up (or down) to an integer, saturating at the largest integer of the format."""
        bits = self.spec.input.fraction_bits
        whole = code >> bits
        if self.spec.integer_maximum == "ceil" and bits:
            largest = self.spec.input.max_code >> bits
            whole = Mux(code[:bits].any() & (whole != largest), whole + 1, whole)
        result = Signal(whole_shape(self.spec), name=f"{name}_whole")
        m.d.comb += result.eq(whole)
        return result
