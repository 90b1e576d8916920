"""Holds slices back until their maximum is known."""

from __future__ import annotations

from amaranth.hdl import Array, ClockSignal, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.storage import check_storage, latch


class SliceBuffer(wiring.Component):
    """Sends out every beat together with the maximum of its slice.

    A slice leaves from the cycle after its last beat arrives, while the next one takes its place, so that full slices
    follow each other without a bubble. Two maxima are stored, of the slice that leaves and of the one that arrives: a
    shorter slice at the end of a row, after full ones, waits until the previous slice has left.

    Args:
        width: bits to store per beat.
        key: shape of the values whose maximum is taken.
        beats: length of a slice in beats, 2 or more; the last slice of a row may be shorter.
        storage: of the waiting beats, "flip-flops" or "latches".

    Attributes:
        source: input stream of `beat`, `key` (the beat's own maximum) and `last`.
        sink: output stream of `beat`, `maximum`, `group_first`, `group_last` and `last`.
    """

    def __init__(self, width: int, key: Shape, beats: int, storage: str = "flip-flops") -> None:
        check_storage(storage, but="memory")
        self.width, self.key, self.beats, self.storage = width, key, beats, storage
        gathered = {"beat": width, "maximum": key, "group_first": 1, "group_last": 1, "last": 1}
        super().__init__(
            {
                "source": In(stream.Signature(data.StructLayout({"beat": width, "key": key, "last": 1}))),
                "sink": Out(stream.Signature(data.StructLayout(gathered))),
            }
        )

    def leaves(self, beats: int) -> int:
        """Return the cycles from the first beat of a row of `beats` beats until its last leaves, in an empty buffer."""
        whole, rest = divmod(beats, self.beats)
        if rest == 0:
            return (whole + 1) * self.beats - 1
        start = (whole + 1) * self.beats if whole else rest
        return start + rest - 1 + (rest == 1 and self.storage == "latches")

    def refused_cycles(self, beats: int, spacing: int) -> int:
        """Return the cycles for which the last beat of a row of `beats` beats, `spacing` cycles apart, is refused."""
        whole, rest = divmod(beats, self.beats)
        return max(self.beats - spacing * rest, 0) if whole and rest else 0

    def interval(self, beats: int) -> int:
        """Return the cycles between the starts of consecutive rows of `beats` beats each."""
        whole, rest = divmod(beats, self.beats)
        alone = rest == 1 and self.storage == "latches"
        return beats + alone if whole == 0 or rest == 0 else (whole + 1) * self.beats + alone

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        source, sink = self.source, self.sink
        final = self.beats - 1
        written, read = Signal(range(self.beats)), Signal(range(self.beats))
        best, begins = Signal(self.key, reset_less=True), Signal(init=1)
        left = Signal(data.StructLayout({"maximum": self.key, "end": written.shape(), "last": 1}), reset_less=True)
        leaves, settled = Signal(), Signal()
        place, highest = Signal.like(written), Signal(self.key)
        taken, given, completes, rises = Signal(), Signal(), Signal(), Signal()
        # Without valid the payload is unknown and must not affect ready.
        ends = (source.valid & source.p.last) | (place == final)
        group_last = source.p.last | (place == final)
        m.d.comb += [
            place.eq(Mux(begins, 0, self._after(written))),
            rises.eq(begins | (source.p.key > best)),
            highest.eq(Mux(rises, source.p.key, best)),
            # While a slice leaves, the next one must not overwrite its unread beats, nor end before it.
            source.ready.eq(~leaves | Mux(ends, given & sink.p.group_last, given | (place != read))),
            taken.eq(source.valid & source.ready),
            completes.eq(taken & group_last),
            sink.valid.eq(leaves & settled),
            given.eq(sink.valid & sink.ready),
            sink.p.maximum.eq(left.maximum),
            sink.p.group_first.eq(read == 0),
            sink.p.group_last.eq(read == left.end),
            sink.p.last.eq(left.last & sink.p.group_last),
        ]
        with m.If(taken):
            m.d.sync += [written.eq(place), begins.eq(group_last)]
        with m.If(taken & rises):
            m.d.sync += best.eq(source.p.key)
        with m.If(given):
            m.d.sync += read.eq(Mux(sink.p.group_last, 0, self._after(read)))
        m.d.sync += leaves.eq(completes | (leaves & ~(given & sink.p.group_last)))
        with m.If(completes):
            m.d.sync += [left.maximum.eq(highest), left.end.eq(place), left.last.eq(source.p.last)]
        self._store(m, source.p.beat, taken, place, written, read)
        if self.storage == "latches":  # in the next cycle, the latch of a single-beat slice is not open yet
            m.d.sync += settled.eq(~(completes & begins))
        else:
            m.d.comb += settled.eq(1)
        return m

    def _after(self, place: Value) -> Value:
        """Return the place that follows, cyclically."""
        if self.beats == 1 << len(place):
            return (place + 1)[: len(place)]
        return Mux(place == self.beats - 1, 0, place + 1)[: len(place)]

    def _store(self, m: Module, beat: Value, taken: Value, place: Value, written: Value, read: Value) -> None:
        """Store a beat at `place`, which `written` equals from the next cycle on, and output the beat at `read`."""
        if self.storage == "flip-flops":
            m.submodules.words = memory = Memory(shape=self.width, depth=self.beats, init=[])
            write, out = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [
                write.en.eq(taken),
                write.addr.eq(place),
                write.data.eq(beat),
                out.addr.eq(read),
                self.sink.p.beat.eq(out.data),
            ]
            return
        held, opens = Signal(self.width, reset_less=True), Signal()
        m.d.sync += opens.eq(taken)
        with m.If(taken):
            m.d.sync += held.eq(beat)
        words = [Signal(self.width, name=f"word_{index}", reset_less=True) for index in range(self.beats)]
        for index, word in enumerate(words):
            m.submodules[f"latch_{index}"] = latch(opens & (written == index) & ~ClockSignal(), held, word)
        m.d.comb += self.sink.p.beat.eq(Array(words)[read])
