"""Beats of rows that wait: a first-in first-out buffer with its words in a chosen storage."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
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
        # Where a word is written and read: the address, and above it whether the round is an odd one.
        write = _pointer(m, "write", written, memory.write_address, self.depth)
        next_read = _pointer(m, "read", read, memory.read_address, self.depth)
        readable = write
        if self.storage == "latches":  # they take a word in half a cycle late
            readable = Signal.like(write)
            m.d.sync += readable.eq(write)
        m.d.comb += [
            self.source.ready.eq((write ^ next_read) != 1 << (len(write) - 1)),
            written.eq(self.source.valid & self.source.ready),
            read.eq((readable != next_read) & (~self.sink.valid | self.sink.ready)),
            self.sink.payload.eq(memory.read_data),
            memory.write_enable.eq(written),
            memory.write_data.eq(self.source.payload),
            memory.read_enable.eq(read),
            self.empty.eq((write == next_read) & ~self.sink.valid),
        ]
        with m.If(read | self.sink.ready):
            m.d.sync += self.sink.valid.eq(read)
        return m


def _pointer(m: Module, name: str, enable: Value, address: Value, depth: int) -> Signal:
    """Return a register that goes round the words of a memory: an address, and a bit that changes every round."""
    pointer = Signal(len(address) + 1, name=f"{name}_pointer")
    following = pointer + 1
    if depth != 1 << len(address):
        following = Mux(address == depth - 1, Cat(Const(0, len(address)), ~pointer[-1]), following)
    m.d.comb += address.eq(pointer[:-1])
    with m.If(enable):
        m.d.sync += pointer.eq(following)
    return pointer


def buffer_latency(storage: str) -> int:
    """Return the cycles from the writing of a beat to when it can be read: latches take one more."""
    return 3 if storage == "latches" else 2
