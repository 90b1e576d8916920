"""Beats of rows that wait: a first-in first-out buffer with its words in a chosen storage."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.storage import MemoryPort, WordMemory, check_storage


class RowBuffer(wiring.Component):
    """A buffer of beats that gives and takes one each cycle, unless it is shallower than its latency.

    Beats leave by way of the memory's output register.

    Args:
        width: bits of a beat.
        depth: beats that it holds, 1 or more; one that waits at the output is not counted.
        storage: "flip-flops", "latches", or "memory": the buffer then has a port `memory`.

    Attributes:
        latency: cycles from the writing of a beat to when it can be read.
        source: stream in.
        sink: stream out.
        empty: it holds nothing.
        memory: the port to the memory, where `storage` is "memory".
    """

    def __init__(self, width: int, depth: int, storage: str = "flip-flops") -> None:
        check_storage(storage)
        self.width, self.depth, self.storage = width, depth, storage
        self.latency = buffer_latency(storage)
        ports = {"source": In(stream.Signature(width)), "sink": Out(stream.Signature(width)), "empty": Out(1)}
        if storage == "memory":
            ports["memory"] = Out(MemoryPort(width, depth))
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        """Build it."""
        m = Module()
        if self.storage == "memory":
            memory = self.memory
        else:
            m.submodules.words = words = WordMemory(self.width, self.depth, self.storage)
            memory = words.port
        level = Signal(range(self.depth + 1))
        arriving = Signal()  # a word that latches take in just now
        written, read = Signal(), Signal()
        readable = (level > arriving) if self.storage == "latches" else (level != 0)
        m.d.comb += [
            self.source.ready.eq(level != self.depth),
            written.eq(self.source.valid & self.source.ready),
            read.eq(readable & (~self.sink.valid | self.sink.ready)),
            self.sink.payload.eq(memory.read_data),
            memory.write_enable.eq(written),
            memory.write_data.eq(self.source.payload),
            memory.read_enable.eq(read),
            self.empty.eq((level == 0) & ~self.sink.valid),
        ]
        m.d.sync += [level.eq(level + written - read), arriving.eq(written)]
        with m.If(read | self.sink.ready):
            m.d.sync += self.sink.valid.eq(read)
        for enable, address in ((written, memory.write_address), (read, memory.read_address)):
            pointer = Signal.like(address)
            with m.If(enable):
                m.d.sync += pointer.eq(0 if self.depth == 1 else pointer + 1)
                if self.depth & (self.depth - 1):
                    with m.If(pointer == self.depth - 1):
                        m.d.sync += pointer.eq(0)
            m.d.comb += address.eq(pointer)
        return m


def buffer_latency(storage: str) -> int:
    """Return the cycles from the writing of a beat to when it can be read: latches take one more."""
    return 3 if storage == "latches" else 2
