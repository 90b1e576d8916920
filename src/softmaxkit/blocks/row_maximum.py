"""Rows that wait until their maximum is known, one row behind the other."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Shape, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.adder_tree import maximum
from softmaxkit.blocks.row_buffer import RowBuffer


class RowMaximum(wiring.Component):
    """Gives every beat together with the maximum of its row.

    A row's first beat leaves a cycle after its last has come, but no sooner than the buffer can give it. Two maxima are
    held, those of the row that leaves and of the row that comes: long rows follow each other without a gap, and rows of
    one beat wait for the one before to leave.

    Args:
        width: bits of what waits of a beat.
        key: shape of what the maximum is taken of.
        beats: of the longest row.
        storage: of the beats that wait; with "memory" there is a port `memory`.

    Attributes:
        source: stream in, of `beat`, `key` (the beat's own maximum) and `last`.
        sink: stream out, of `beat`, `maximum` and `last`.
    """

    def __init__(self, width: int, key: Shape, beats: int, storage: str = "flip-flops") -> None:
        self.width, self.key = width, key
        self.buffer = RowBuffer(width + 1, max(beats, 3), storage)
        ports = {
            "source": In(stream.Signature(data.StructLayout({"beat": width, "key": key, "last": 1}))),
            "sink": Out(stream.Signature(data.StructLayout({"beat": width, "maximum": key, "last": 1}))),
        }
        if storage == "memory":
            ports["memory"] = Out(self.buffer.memory.signature)
        super().__init__(ports)

    def waiting(self, beats: int) -> int:
        """Return the cycles between the coming of the last beat of so long a row and its leaving."""
        return max(beats, self.buffer.latency)

    def elaborate(self, platform: object) -> Module:
        """Build it."""
        m = Module()
        source, sink = self.source, self.sink
        m.submodules.buffer = buffer = self.buffer
        if buffer.storage == "memory":
            wiring.connect(m, wiring.flipped(self.memory), buffer.memory)
        # The maximum of the row that comes; once that is complete, it moves on as soon as no row is leaving.
        best, begun, complete = Signal(self.key, reset_less=True), Signal(), Signal()
        leaving, highest = Signal(self.key, reset_less=True), Signal(self.key)
        leaves, taken, known = Signal(), Signal(), Signal()
        m.d.comb += [
            source.ready.eq(buffer.source.ready & ~(complete & leaves)),
            taken.eq(source.valid & source.ready),
            buffer.source.valid.eq(taken),
            buffer.source.payload.eq(Cat(source.p.beat, source.p.last)),
            highest.eq(Mux(begun, maximum(best, source.p.key), source.p.key)),
            known.eq(complete | leaves),
            sink.valid.eq(buffer.sink.valid & known),
            buffer.sink.ready.eq(sink.ready & known),
            Cat(sink.p.beat, sink.p.last).eq(buffer.sink.payload),
            sink.p.maximum.eq(Mux(leaves, leaving, best)),
        ]
        with m.If(~leaves):
            m.d.sync += [leaving.eq(best), complete.eq(0)]
        m.d.sync += leaves.eq(known & ~(sink.valid & sink.ready & sink.p.last))
        with m.If(taken):
            m.d.sync += [best.eq(highest), begun.eq(~source.p.last), complete.eq(source.p.last)]
        return m
