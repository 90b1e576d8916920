"""Front ends of the exact unit, three-pass and online: from scores to the row's maximum and sum."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.adder_tree import adder_tree, maximum_tree
from softmaxkit.blocks.gather import Gather
from softmaxkit.blocks.pipeline import Pipeline, named
from softmaxkit.blocks.shifter import shift_right
from softmaxkit.blocks.stream import beats, score_layout, slices
from softmaxkit.formats import Float
from softmaxkit.methods.exact import datapath
from softmaxkit.methods.exact.datapath import Score, exponentials, from_ordered, ordered, read_score
from softmaxkit.methods.exact.spec import Exact


class ThreePassFront(wiring.Component):
    """Maximum of the row, exponentials, and their sum.

    Args:
        spec: the spec.
        lanes: positions per beat.
        max_row: number of scores in the longest row.
        registers: the cuts that have a register.
        storage: storage of the rows that wait for their maximum.

    Attributes:
        scores: input stream of `score_layout`.
        waiting: output stream to the row buffer: exponent field and mantissa of each exponential, and `last`.
        totals: output stream of the sum of each row, and in the online schedule its maximum.
        behind: cycles from the last beat on `waiting` to the sum.
        latency: cycles from the last beat of a row, once its maximum is known, to its sum.
        score_memory: memory port, if `storage` is "memory".
    """

    def __init__(self, spec: Exact, lanes: int, max_row: int, registers: Set[str], storage: str) -> None:
        self.spec, self.lanes, self.registers = spec, lanes, registers
        number = spec.format
        self.gather = Gather(
            lanes * (number.bits + 1), datapath.key_shape(number), beats(max_row, lanes), True, storage
        )
        self.behind = 1 + ("sum" in registers)
        self.latency = 1 + len(registers & {*datapath.CUTS}) + self.behind
        self.waiting_bits = number.bits - 1
        super().__init__(front_ports(self, max_row, storage if storage == "memory" else ""))

    def elaborate(self, platform: object) -> Module:
        """Build the component."""
        m = Module()
        spec, number = self.spec, self.spec.format
        source = gathered(m, self, self.gather)
        scored = stream.Signature(len(self.waiting.payload)).create(path=("scored",))
        pipe = Pipeline(m, "front", source.valid, scored, self.registers)
        m.d.comb += source.ready.eq(pipe.advance)
        scores, mask = scores_of(number, source.p.beat, self.lanes)
        highest = from_ordered(source.p.maximum)
        carried = [*mask, source.p.last]
        powers, carried = exponentials(m, pipe, "lane", spec, [(score, highest) for score in scores], carried)
        *mask, last = carried
        values = [datapath.masked(power, on) for power, on in zip(powers, mask, strict=True)]
        pipe.finish(Cat(*(Cat(mantissa, field) for field, mantissa in values), last))

        pipe = Pipeline(m, "sum", scored.valid & self.waiting.ready, self.totals, self.registers)
        m.d.comb += [
            scored.ready.eq(pipe.advance & self.waiting.ready),
            self.waiting.valid.eq(scored.valid & pipe.advance),
            self.waiting.payload.eq(scored.payload),
        ]
        values = datapath.exponentials_of(number, scored.payload, self.lanes)
        added = adder_tree(m, "sum", [datapath.steps(m, f"steps{i}", number, *value) for i, value in enumerate(values)])
        added, last = pipe.cut("sum", (added, scored.payload[-1]))
        total, first = Signal(len(self.totals.p.total), name="total", reset_less=True), Signal(init=1)
        with m.If(pipe.fire):
            m.d.sync += [total.eq(Mux(first, 0, total) + added), first.eq(last)]
        pipe.keep(last)
        pipe.finish(Cat(), state=total)
        return m


class OnlineFront(wiring.Component):
    """Running maximum and running sum, slice by slice; the scores wait for the end of the row.

    Arguments and attributes are those of `ThreePassFront`, except that `waiting` carries scores and mask.

    Raises:
        ValueError: the lanes neither divide the slice width nor are a multiple of it.
    """

    def __init__(self, spec: Exact, lanes: int, max_row: int, registers: Set[str], storage: str) -> None:
        self.spec, self.lanes, self.registers = spec, lanes, registers
        number = spec.format
        self.slices = slices(spec.slice_width, lanes)
        self.gather: Gather | None = None
        if self.slices.beats > 1:
            kind = "latches" if storage == "latches" else "flip-flops"  # a slice is too small for a memory of its own
            width = lanes * (number.bits + 1)
            self.gather = Gather(width, datapath.key_shape(number), self.slices.beats, False, kind)
        self.latency = self.behind = 1 + len(registers & {*datapath.CUTS, "power", "maximum"})
        self.waiting_bits = number.bits + 1
        super().__init__(front_ports(self, max_row))

    def elaborate(self, platform: object) -> Module:
        """Build the component."""
        m = Module()
        spec, number = self.spec, self.spec.format
        if self.gather is None:
            source, beat = self.scores, Cat(self.scores.p.codes, self.scores.p.mask)
        else:
            source = gathered(m, self, self.gather)
            beat = source.p.beat
        pipe = Pipeline(m, "front", source.valid & self.waiting.ready, self.totals, self.registers)
        m.d.comb += [
            source.ready.eq(pipe.advance & self.waiting.ready),
            self.waiting.valid.eq(source.valid & pipe.advance),
            self.waiting.payload.eq(Cat(beat, source.p.last)),
        ]
        scores, mask = scores_of(number, beat, self.lanes)
        if self.gather is None:
            keys = [self._slice_maximum(m, index, scores, mask) for index in range(self.slices.a_beat)]
        else:
            keys = [(source.p.maximum, source.p.present)]
        moves = running_maximum(m, pipe, number, keys, source.p.last)
        scores, mask, moves, last = pipe.cut("maximum", (scores, mask, moves, source.p.last))
        width = self.lanes // self.slices.a_beat
        pairs = [(score, from_ordered(moves[i // width][1])) for i, score in enumerate(scores)]
        pairs += [(from_ordered(before), from_ordered(after)) for before, after in moves]
        carried = [*mask, moves[-1][1], last]
        powers, carried = exponentials(m, pipe, "lane", spec, pairs, carried)
        *mask, highest, last = carried
        values = [datapath.masked(power, on) for power, on in zip(powers, mask, strict=False)]
        factors = [(power.significand, power.shift, power.zero) for power in powers[self.lanes :]]
        values, factors, highest, last = pipe.cut("power", (values, factors, highest, last))
        total, first = Signal(len(self.totals.p.total), name="total", reset_less=True), Signal(init=1)
        current = named(m, "total_before", Mux(first, 0, total))
        for index, (significand, places, zero) in enumerate(factors):
            part = values[index * width : (index + 1) * width]
            steps = [datapath.steps(m, f"steps{index}_{i}", number, *value) for i, value in enumerate(part)]
            scaled = named(m, f"scaled{index}", current * significand)
            kept = shift_right(m, f"kept{index}", scaled, places, fraction_bits=number.mantissa_bits + 1)
            added = adder_tree(m, f"sum{index}", steps)
            current = named(m, f"total{index}", (Mux(zero, 0, kept) + added)[: len(total)])
        with m.If(pipe.fire):
            m.d.sync += [total.eq(current), first.eq(last)]
        pipe.keep(last)
        pipe.finish(highest, state=total)
        return m

    def _slice_maximum(self, m: Module, index: int, scores: list[Score], mask: list[Value]) -> tuple[Value, Value]:
        """Return the maximum of a slice of the beat, and whether any of its scores is attended."""
        width = self.lanes // self.slices.a_beat
        part = slice(index * width, (index + 1) * width)
        return _maximum(m, f"slice{index}", scores[part], mask[part]), Cat(*mask[part]).any()


def front_ports(front: Any, max_row: int, memory: str = "") -> dict[str, wiring.Member]:
    """Return the ports of a front end, including `score_memory` if it has a memory for waiting rows."""
    number = front.spec.format
    highest = number.bits if front.spec.schedule == "online" else 0
    totals = {"highest": highest, "total": (max_row << front.spec.sum_fraction_bits).bit_length()}
    ports = {
        "scores": In(stream.Signature(score_layout(unsigned(number.bits), front.lanes))),
        "waiting": Out(stream.Signature(front.lanes * front.waiting_bits + 1)),
        "totals": Out(stream.Signature(data.StructLayout(totals))),
    }
    if memory and front.gather is not None:
        ports["score_memory"] = Out(front.gather.signature.members["memory"].signature)
    return ports


def gathered(m: Module, front: Any, gather: Gather) -> Any:
    """Hold scores until the maximum of their group is known; return the output stream of `gather`."""
    m.submodules.gather = gather
    scores, source = front.scores, gather.source
    if "score_memory" in front.signature.members:
        wiring.connect(m, wiring.flipped(front.score_memory), gather.memory)
    read, mask = scores_of(front.spec.format, Cat(scores.p.codes, scores.p.mask), front.lanes)
    m.d.comb += [
        source.valid.eq(scores.valid),
        scores.ready.eq(source.ready),
        source.p.beat.eq(Cat(scores.p.codes, scores.p.mask)),
        source.p.key.eq(_maximum(m, "beat", read, mask)),
        source.p.present.eq(scores.p.mask.any()),
        source.p.last.eq(scores.p.last),
    ]
    return gather.sink


def scores_of(number: Float, beat: Value, lanes: int) -> tuple[list[Score], list[Value]]:
    """Return scores and mask of a beat, which has the codes from lane 0 up, then the mask."""
    codes = [beat[i * number.bits : (i + 1) * number.bits] for i in range(lanes)]
    return [read_score(number, code) for code in codes], list(beat[lanes * number.bits : lanes * (number.bits + 1)])


def _maximum(m: Module, name: str, scores: list[Score], mask: list[Value]) -> Value:
    """Return the largest attended score, as an `ordered` integer; the smallest integer if none is attended."""
    lowest = -(1 << (len(ordered(scores[0])) - 1))
    keys = [
        named(m, f"{name}_key{i}", Mux(on, ordered(score), lowest))
        for i, (score, on) in enumerate(zip(scores, mask, strict=True))
    ]
    return maximum_tree(m, f"{name}_maximum", keys)


def running_maximum(
    m: Module, pipe: Pipeline, number: Float, keys: list[tuple[Value, Value]], last: Value
) -> list[tuple[Value, Value]]:
    """Return the running maximum before and after each slice of the beat, as `ordered` integers.

    Args:
        m: the module in which to build.
        pipe: the pipeline to which the stage belongs.
        number: format of the scores.
        keys: for each slice its maximum, and whether any of its scores is attended.
        last: set on the last beat of a row.
    """
    running, begun = Signal(datapath.key_shape(number), name="running", reset_less=True), Signal()
    highest, any_before = running, begun
    moves = []
    for index, (key, present) in enumerate(keys):
        after = Signal.like(running, name=f"running{index}", reset_less=False)
        m.d.comb += after.eq(Mux(any_before & (~present | (highest > key)), highest, key))
        # Without attended keys so far, there is nothing to rescale.
        before = Signal.like(running, name=f"before{index}", reset_less=False)
        m.d.comb += before.eq(Mux(any_before, highest, after))
        moves.append((before, after))
        highest, any_before = after, named(m, f"begun{index}", any_before | present)
    with m.If(pipe.fire):
        m.d.sync += [running.eq(highest), begun.eq(any_before & ~last)]
    return moves
