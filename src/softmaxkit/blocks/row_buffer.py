"""The FIFO that buffers the beats of rows, with a choice of storage for its words."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.storage import MemoryPort, WordMemory, check_storage


class RowBuffer(wiring.Component):
    """A FIFO of row beats. It can take a beat and deliver one in every cycle unless its depth is less than its latency.

    Its output is the read register of the memory.

    Args:
        width: bits of a beat.
        depth: capacity in beats, 1 or more, not counting a beat that waits at the output.
        storage: "flip-flops", "latches", or "memory", which adds a port `memory`.

    Attributes:
        latency: cycles from the write of a beat until it can be read.
        source: input stream.
        sink: output stream.
        empty: it holds no beat.
        memory: port to the external memory, with the storage "memory".
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
        """Build the Amaranth module."""
        m = Module()
        if self.storage == "memory":
            memory = self.memory
        else:
            m.submodules.words = words = WordMemory(self.width, self.depth, self.storage)
            memory = words.port
        written, read = Signal(), Signal()
        # Pointers: the address and, above it, a wrap bit that distinguishes full from empty.
        write = _pointer(m, "write", written, memory.write_address, self.depth)
        next_read = _pointer(m, "read", read, memory.read_address, self.depth)
        readable = write
        if self.storage == "latches":  # a word is stored half a cycle later
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
    """Return a pointer that cycles through the words of a memory: an address and, above it, a wrap bit."""
    pointer = Signal(len(address) + 1, name=f"{name}_pointer")
    following = pointer + 1
    if depth != 1 << len(address):
        following = Mux(address == depth - 1, Cat(Const(0, len(address)), ~pointer[-1]), following)
    m.d.comb += address.eq(pointer[:-1])
    with m.If(enable):
        m.d.sync += pointer.eq(following)
    return pointer


def buffer_latency(storage: str) -> int:
    """Return the cycles from the write of a beat until it can be read; latches take one more than other storage."""
    return 3 if storage == "latches" else 2
