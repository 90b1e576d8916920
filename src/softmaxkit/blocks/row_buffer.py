"""Beats of rows that wait: a first-in first-out buffer with its words in a chosen storage."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value
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
        written, read = Signal(), Signal()
        (writing, _), (reading, following) = (
            self._pointer(m, name, enable) for name, enable in (("writing", written), ("reading", read))
        )
        # Where the pointers meet, all words wait, or none.
        filled, met = Signal(), Signal()
        with m.If(written != read):
            m.d.sync += filled.eq(written)
        waits = ~met | filled
        if self.storage == "latches":
            arriving = Signal()  # a word that latches take in just now
            m.d.sync += arriving.eq(written)
            waits &= ~(arriving & (following == writing))
        m.d.comb += [
            met.eq(writing == reading),
            self.source.ready.eq(~(met & filled)),
            written.eq(self.source.valid & self.source.ready),
            read.eq(waits & (~self.sink.valid | self.sink.ready)),
            self.sink.payload.eq(memory.read_data),
            memory.write_enable.eq(written),
            memory.write_address.eq(writing),
            memory.write_data.eq(self.source.payload),
            memory.read_enable.eq(read),
            memory.read_address.eq(reading),
            self.empty.eq(met & ~filled & ~self.sink.valid),
        ]
        with m.If(read | self.sink.ready):
            m.d.sync += self.sink.valid.eq(read)
        return m

    def _pointer(self, m: Module, name: str, enable: Value) -> tuple[Value, Value]:
        """Return an address that goes round, a step where `enable` is high, and the one that follows it."""
        address, following = Signal(range(self.depth), name=name), Signal(range(self.depth), name=f"{name}_next")
        # No address but the last has all of its bits set; those of the depth are what another step would set.
        last = self.depth - 1
        around = Const(0) if self.depth & last == 0 else (address & last) == last
        m.d.comb += following.eq((address + 1) & ~Mux(around, self.depth, 0))
        with m.If(enable):
            m.d.sync += address.eq(following)
        return address, following


def buffer_latency(storage: str) -> int:
    """Return the cycles from the writing of a beat to when it can be read: latches take one more."""
    return 3 if storage == "latches" else 2
