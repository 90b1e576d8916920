"""Front end of the online exact unit for slices of many beats: one exponential per lane, and a serial multiplier."""

from __future__ import annotations

from collections.abc import Set

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.adder_tree import adder_tree
from softmaxkit.blocks.gather import Gather
from softmaxkit.blocks.pipeline import Pipeline, named
from softmaxkit.blocks.queue import Queue
from softmaxkit.blocks.shifter import shift
from softmaxkit.blocks.stream import slices
from softmaxkit.methods.exact import datapath
from softmaxkit.methods.exact.datapath import exponentials, from_ordered
from softmaxkit.methods.exact.fronts import front_ports, gathered, scores_of
from softmaxkit.methods.exact.spec import Exact


def is_sliced(spec: Exact, lanes: int) -> bool:
    """Return whether a slice has enough beats to rescale the sum meanwhile, so that `SlicedFront` can be used."""
    return spec.schedule == "online" and slices(spec.slice_width, lanes).beats >= rescaling_cycles(spec)


def rescaling_cycles(spec: Exact) -> int:
    """Return the cycles that `RescaledSum` takes for a factor, at two bits of its mantissa per cycle."""
    return -(-spec.format.mantissa_bits // 2) + 2


class SlicedFront(wiring.Component):
    """Running maximum and running sum, slice by slice; the scores wait for the end of the row.

    Before each slice except the first of a row, the change of the maximum passes through the same exponential as the
    scores, in a beat of its own. The sum is rescaled while the exponentials of the slice are summed.

    Args:
        spec: the spec.
        lanes: positions per beat.
        max_row: number of scores in the longest row.
        registers: the cuts that have a register.
        storage: storage of the slices that wait for their maximum.
        interval: minimum number of cycles between sums that the consumer accepts.

    Attributes:
        scores, waiting, totals, behind, latency: those of `OnlineFront`.
    """

    def __init__(self, spec: Exact, lanes: int, max_row: int, registers: Set[str], storage: str, interval: int) -> None:
        self.spec, self.lanes, self.registers = spec, lanes, registers
        number = spec.format
        kind = "latches" if storage == "latches" else "flip-flops"  # a slice is too small for a memory of its own
        beats = slices(spec.slice_width, lanes).beats
        self.gather = Gather(lanes * (number.bits + 1), datapath.key_shape(number), beats, False, kind)
        self.latency = 2 + len(registers & {*datapath.CUTS, "maximum"})
        self.behind = self.latency + rescaling_cycles(spec)
        self.maxima = Queue(number.bits, self.latency // interval + 3)
        self.waiting_bits = number.bits + 1
        super().__init__(front_ports(self, max_row))
        self.sum = RescaledSum(spec, lanes, len(self.totals.p.total))

    def extra(self, beats: int) -> int:
        """Return the cycles that a row takes beyond its beats: changes of the maximum, and the last rescaling."""
        changes = -(-beats // self.gather.beats) - 1
        return changes + max(rescaling_cycles(self.spec) - (beats - changes * self.gather.beats), 0) if changes else 0

    def elaborate(self, platform: object) -> Module:
        """Build the component."""
        m = Module()
        number = self.spec.format
        m.submodules.sum, m.submodules.maxima = self.sum, self.maxima
        source = gathered(m, self, self.gather)
        first, changed, begun = Signal(init=1), Signal(), Signal()
        running = Signal(datapath.key_shape(number), name="running", reset_less=True)
        change = named(m, "change", ~first & ~changed)
        scored = stream.Signature(self.sum.source.payload.shape()).create(path=("scored",))
        free = self.waiting.ready & (~source.p.last | self.maxima.source.ready)
        pipe = Pipeline(m, "front", source.valid & (change | free), scored, self.registers)
        passes = named(m, "passes", pipe.fire & ~change)
        after = Signal.like(running, name="risen", reset_less=False)
        m.d.comb += [
            source.ready.eq(pipe.advance & free & ~change),
            self.waiting.valid.eq(passes),
            self.waiting.payload.eq(Cat(source.p.beat, source.p.last)),
            after.eq(Mux(begun & (~source.p.present | (running > source.p.maximum)), running, source.p.maximum)),
            self.maxima.source.valid.eq(passes & source.p.last),
            self.maxima.source.payload.eq(after),
        ]
        with m.If(pipe.fire):
            m.d.sync += changed.eq(change | (changed & ~source.p.group_last))
        with m.If(passes & source.p.group_last):
            m.d.sync += [running.eq(after), first.eq(source.p.last)]
            m.d.sync += begun.eq((begun | source.p.present) & ~source.p.last)

        scores, mask = scores_of(number, source.p.beat, self.lanes)
        before = from_ordered(running)
        scores[0] = datapath.Score(*(Mux(change, *pair) for pair in zip(before, scores[0], strict=True)))
        mask = [(on & ~change) if lane else (on | change) for lane, on in enumerate(mask)]
        scores, mask, after, change, last = pipe.cut("maximum", (scores, mask, after, change, source.p.last & ~change))
        pairs = [(score, from_ordered(after)) for score in scores]
        powers, carried = exponentials(m, pipe, "lane", self.spec, pairs, [*mask, change, last])
        *mask, change, last = carried
        values = [datapath.masked(power, on) for power, on in zip(powers, mask, strict=True)]
        pipe.finish(Cat(*(Cat(mantissa, field) for field, mantissa in values), change, last))
        wiring.connect(m, scored, self.sum.source)
        m.d.comb += [
            self.totals.valid.eq(self.sum.sink.valid),
            self.totals.p.total.eq(self.sum.sink.payload),
            self.totals.p.highest.eq(self.maxima.sink.payload),
            self.sum.sink.ready.eq(self.totals.ready),
            self.maxima.sink.ready.eq(self.totals.valid & self.totals.ready),
        ]
        return m


class RescaledSum(wiring.Component):
    """Sums exponentials; a change of the maximum rescales the previous sum, two bits of the factor per cycle.

    Args:
        spec: the spec.
        lanes: exponentials per beat.
        bits: width of the sum.

    Attributes:
        source: input stream: `values`, mantissa and exponent field of each exponential, the first of which is a factor
            if `change` is set; `last`, set at the end of a row.
        sink: output stream of the sum of each row.
    """

    def __init__(self, spec: Exact, lanes: int, bits: int) -> None:
        self.spec, self.lanes = spec, lanes
        beat = {"values": lanes * (spec.format.bits - 1), "change": 1, "last": 1}
        super().__init__({"source": In(stream.Signature(data.StructLayout(beat))), "sink": Out(stream.Signature(bits))})

    def elaborate(self, platform: object) -> Module:
        """Build the component."""
        m = Module()
        source, sink, number = self.source, self.sink, self.spec.format
        values = datapath.exponentials_of(number, source.p.values, self.lanes)
        added = adder_tree(m, "sum", [datapath.steps(m, f"steps{i}", number, *value) for i, value in enumerate(values)])
        beats = slices(self.spec.slice_width, self.lanes).beats
        total = Signal(len(sink.payload), name="total", reset_less=True)
        part = Signal(len(added) + (beats - 1).bit_length(), name="part", reset_less=True)
        up, begins, fresh = Signal(reset_less=True), Signal(init=1), Signal(init=1)
        busy, complete = Signal(), Signal()
        m.d.comb += [
            sink.payload.eq(total + part + up),
            sink.valid.eq(complete & ~busy),
            source.ready.eq(~busy & (~complete | sink.ready) | ~source.p.change & ~complete),
        ]
        fire = named(m, "fire", source.valid & source.ready)
        with m.If(fire & ~source.p.change):
            m.d.sync += [part.eq(Mux(fresh, 0, part) + added), fresh.eq(source.p.last), begins.eq(source.p.last)]
            with m.If(begins):
                m.d.sync += [total.eq(0), up.eq(0)]
        with m.If(fire | sink.ready & ~busy):
            m.d.sync += complete.eq(fire & source.p.last)

        # The factor is at most 1: `1.mantissa * 2**-places`, or 0.
        field, mantissa = values[0]
        steps = -(-number.mantissa_bits // 2)
        step = Signal(range(steps + 2), name="step")
        digits, places = Signal(2 * steps, reset_less=True), Signal(number.exponent_bits, reset_less=True)
        zero, below = Signal(reset_less=True), Signal(reset_less=True)
        # The product, shifted down by the bits of the mantissa; the bits shifted out matter only as a sticky bit.
        product = Signal(len(total) + 1, reset_less=True)
        digit = Mux(step == steps, 1, digits[:2])
        risen = Signal(len(total) + 2)
        m.d.comb += risen.eq(product + Mux(digit[0], total, 0) + (Mux(digit[1], total, 0) << 1))
        moved = shift(m, "moved", Cat(below, product), places, 1)
        with m.If(fire & source.p.change):
            m.d.sync += [
                *(total.eq(sink.payload), up.eq(0), fresh.eq(1), busy.eq(1), step.eq(0), product.eq(0), below.eq(0)),
                digits.eq(Cat(Const(0, 2 * steps - number.mantissa_bits), mantissa)),
                *(places.eq(number.bias - field), zero.eq(~field.any())),
            ]
        with m.If(busy):
            m.d.sync += [step.eq(step + 1), digits.eq(digits >> 2)]
            with m.If(step < steps):
                m.d.sync += [product.eq(risen >> 2), below.eq(below | risen[:2].any())]
            with m.Elif(step == steps):
                m.d.sync += product.eq(risen)
            with m.Else():
                m.d.sync += busy.eq(0)
                m.d.sync += [total.eq(Mux(zero, 0, moved.whole)), up.eq(~zero & moved.round_up("nearest"))]
        return m
