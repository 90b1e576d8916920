"""A shift-register FIFO for a few words: smaller than a memory with pointers, and its output is registered."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class Queue(wiring.Component):
    """A shift-register FIFO. With two places or more it can take a word and deliver one in every cycle.

    Args:
        width: bits of a word.
        places: capacity in words.

    Attributes:
        source: input stream.
        sink: output stream.
    """

    def __init__(self, width: int, places: int) -> None:
        self.width, self.places = width, places
        super().__init__({"source": In(stream.Signature(width)), "sink": Out(stream.Signature(width))})

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        source, sink = self.source, self.sink
        words = [Signal(self.width, name=f"word_{place}", reset_less=True) for place in range(self.places)]
        filled = [Signal(name=f"filled_{place}") for place in range(self.places)]
        leaves = sink.valid & sink.ready
        before: Value = Const(1)
        for place, (word, fill) in enumerate(zip(words, filled, strict=True)):
            more = filled[place + 1] if place + 1 < self.places else Const(0)
            stays = Mux(leaves, more, fill)
            comes = source.valid & source.ready & before & ~stays
            with m.If(comes | (leaves & more)):  # unused words hold, to save energy
                m.d.sync += word.eq(Mux(more, words[min(place + 1, self.places - 1)], source.payload))
            m.d.sync += fill.eq(stays | comes)
            before = stays
        m.d.comb += [
            source.ready.eq(~filled[-1]),
            sink.valid.eq(filled[0]),
            sink.payload.eq(words[0]),
        ]
        return m


def connect_by_queue(m: Module, name: str, source: Any, sink: Any, places: int) -> None:
    """Connect two streams with the same payload by a queue.

    Args:
        m: module to add the queue to.
        name: of the queue.
        source: stream to take beats from.
        sink: stream to drive.
        places: capacity in beats.
    """
    m.submodules[name] = queue = Queue(len(Value.cast(source.payload)), places)
    m.d.comb += [
        queue.source.payload.eq(source.payload),
        queue.source.valid.eq(source.valid),
        source.ready.eq(queue.source.ready),
        Value.cast(sink.payload).eq(queue.sink.payload),
        sink.valid.eq(queue.sink.valid),
        queue.sink.ready.eq(sink.ready),
    ]
