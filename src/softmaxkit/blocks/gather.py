"""Holds beats back until the maximum of their group, a slice or a whole row, is known."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.queue import Queue
from softmaxkit.blocks.row_buffer import RowBuffer
from softmaxkit.blocks.stream import set_field


class Gather(wiring.Component):
    """Sends out every beat together with the maximum of its group.

    The first beat of a group leaves one cycle after its last beat arrives, or as soon as the buffer can read it,
    whichever is later. Groups follow each other without a bubble.

    Args:
        width: bits to store per beat.
        key: shape of the values whose maximum is taken.
        beats: length of the longest group, in beats.
        whole_rows: a group is a row; otherwise it is `beats` consecutive beats, or fewer at the end of a row.
        storage: of the waiting beats; "memory" adds a port `memory`.
        set_bits: width of the set number, which all beats of a group share and which is stored once; 0 for none.

    Attributes:
        source: input stream: `beat`, `key` (the beat's own maximum), `present` (whether it has one), `last` and, with
            `set_bits`, `set`.
        sink: output stream: `beat`, `maximum`, `present`, `group_last`, `last` and, with `set_bits`, `set`.
        empty: no beat is waiting.
    """

    def __init__(
        self,
        width: int,
        key: Shape,
        beats: int,
        whole_rows: bool,
        storage: str = "flip-flops",
        set_bits: int = 0,
    ) -> None:
        self.width, self.key, self.beats, self.whole_rows, self.set_bits = width, key, beats, whole_rows, set_bits
        # In a whole row the group ends with the row, so one flag fewer is stored.
        self.buffer = RowBuffer(width + (1 if whole_rows else 2), max(beats, 3), storage)
        beat = {"beat": width, "key": key, "present": 1, "last": 1, **set_field(set_bits)}
        gathered = {"beat": width, "maximum": key, "present": 1, "group_last": 1, "last": 1, **set_field(set_bits)}
        ports = {
            "source": In(stream.Signature(data.StructLayout(beat))),
            "sink": Out(stream.Signature(data.StructLayout(gathered))),
            "empty": Out(1),
        }
        if storage == "memory":
            ports["memory"] = Out(self.buffer.memory.signature)
        super().__init__(ports)

    def waiting(self, beats: int, spacing: int = 1) -> int:
        """Return the cycles from the arrival of a row's last beat until that beat leaves.

        Args:
            beats: length of the row, in beats.
            spacing: cycles from one beat to the next.
        """
        of_last = (beats - 1) % self.beats + 1
        # The previous group leaves at one beat per cycle, and may not have left completely.
        behind = self.beats + (1 - spacing) * of_last if beats > self.beats else 0
        return max(of_last, behind, self.buffer.latency)

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        source, sink = self.source, self.sink
        # Synthesis reports a submodule called "buffer" as a row buffer, which could be an external memory; slices are
        # part of the unit proper.
        m.submodules["buffer" if self.whole_rows else "slices"] = buffer = self.buffer
        # Enough for groups of a single beat to follow each other without a bubble.
        places = buffer.latency + 1
        m.submodules.maxima = maxima = Queue(self.key.width + 1 + self.set_bits, places)
        of_set = ([source.p.set], [sink.p.set]) if self.set_bits else ([], [])
        if buffer.storage == "memory":
            wiring.connect(m, wiring.flipped(self.memory), buffer.memory)

        best, present = Signal(self.key, reset_less=True), Signal()
        group_last: Value = source.p.last
        if not self.whole_rows:
            count = Signal(range(self.beats))
            group_last = source.p.last | (count == self.beats - 1)
        highest = Mux(present & (~source.p.present | (best > source.p.key)), best, source.p.key)
        taken = Signal()
        m.d.comb += [
            source.ready.eq(buffer.source.ready & maxima.source.ready),
            taken.eq(source.valid & source.ready),
            buffer.source.valid.eq(taken),
            buffer.source.payload.eq(Cat(source.p.beat, source.p.last, group_last)),
            maxima.source.valid.eq(taken & group_last),
            maxima.source.payload.eq(Cat(highest, present | source.p.present, *of_set[0])),
            sink.valid.eq(buffer.sink.valid & maxima.sink.valid),
            Cat(sink.p.beat, sink.p.last).eq(buffer.sink.payload),
            sink.p.group_last.eq(buffer.sink.payload[-1]),
            Cat(sink.p.maximum, sink.p.present, *of_set[1]).eq(maxima.sink.payload),
            buffer.sink.ready.eq(sink.ready & maxima.sink.valid),
            maxima.sink.ready.eq(sink.valid & sink.ready & sink.p.group_last),
            self.empty.eq(buffer.empty & ~maxima.sink.valid),
        ]
        with m.If(taken):
            m.d.sync += [best.eq(highest), present.eq((present | source.p.present) & ~group_last)]
            if not self.whole_rows:
                m.d.sync += count.eq(Mux(group_last, 0, count + 1))
        return m
