"""Holds rows back until their maximum is known."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Shape, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.adder_tree import maximum
from softmaxkit.blocks.row_buffer import RowBuffer
from softmaxkit.blocks.stream import set_field


class RowMaximum(wiring.Component):
    """Sends out every beat together with the maximum of its row.

    The first beat of a row leaves one cycle after its last beat arrives, or as soon as the buffer can read it,
    whichever is later. Two maxima are stored, of the row that leaves and of the row that arrives: long rows follow each
    other without a bubble, and a row of a single beat waits until the previous row has left.

    Args:
        width: bits to store per beat.
        key: shape of the values whose maximum is taken.
        beats: length of the longest row, in beats.
        storage: of the waiting beats; "memory" adds a port `memory`.
        set_bits: width of the set number, which all beats of a row share and which is stored once; 0 for none.

    Attributes:
        source: input stream of `beat`, `key` (the beat's own maximum), `last` and, with `set_bits`, `set`.
        sink: output stream of `beat`, `maximum`, `last` and, with `set_bits`, `set`.
    """

    def __init__(self, width: int, key: Shape, beats: int, storage: str = "flip-flops", set_bits: int = 0) -> None:
        self.width, self.key, self.set_bits = width, key, set_bits
        self.buffer = RowBuffer(width + 1, max(beats, 3), storage)
        ends = {"last": 1, **set_field(set_bits)}
        ports = {
            "source": In(stream.Signature(data.StructLayout({"beat": width, "key": key, **ends}))),
            "sink": Out(stream.Signature(data.StructLayout({"beat": width, "maximum": key, **ends}))),
        }
        if storage == "memory":
            ports["memory"] = Out(self.buffer.memory.signature)
        super().__init__(ports)

    def waiting(self, beats: int) -> int:
        """Return the cycles from the arrival of the last beat of a row of `beats` beats until that beat leaves."""
        return max(beats, self.buffer.latency)

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        source, sink = self.source, self.sink
        m.submodules.buffer = buffer = self.buffer
        if buffer.storage == "memory":
            wiring.connect(m, wiring.flipped(self.memory), buffer.memory)
        # `best` belongs to the arriving row; once that row is complete, it moves to `leaving` as soon as no row leaves.
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
        if self.set_bits:
            of_best, of_leaving = (
                Signal(self.set_bits, name=f"set_of_{row}", reset_less=True) for row in ("best", "leaving")
            )
            with m.If(taken):
                m.d.sync += of_best.eq(source.p.set)
            with m.If(~leaves):
                m.d.sync += of_leaving.eq(of_best)
            m.d.comb += sink.p.set.eq(Mux(leaves, of_leaving, of_best))
        return m
