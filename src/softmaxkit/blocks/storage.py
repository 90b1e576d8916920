"""Storage for the words of a unit: flip-flops, latches, or an external memory."""

from __future__ import annotations

from typing import Literal, get_args

from amaranth.hdl import Array, ClockSignal, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

Storage = Literal["flip-flops", "latches", "memory"]
"""Storage of row buffers and of loadable tables.

"memory", which is for row buffers only, gives the unit a port to an SRAM or register file with one write port and one
read port.
"""


def check_storage(storage: str, but: str = "") -> None:
    """Check the name of a storage.

    Args:
        storage: name to check.
        but: the one storage that is not available.

    Raises:
        ValueError: it is not an available storage.
    """
    choices = [choice for choice in get_args(Storage) if choice != but]
    if storage not in choices:
        raise ValueError(f"storage is {' or '.join(map(repr, choices))} for this unit, not {storage!r}")


class MemoryPort(wiring.Signature):
    """Port to a memory of `depth` words of `width` bits, seen from its user.

    Data of a read that is enabled at a clock edge appear after that edge and stay until the next read.
    """

    def __init__(self, width: int, depth: int) -> None:
        self.width, self.depth = width, depth
        address = max((depth - 1).bit_length(), 1)
        super().__init__(
            {
                "write_enable": Out(1),
                "write_address": Out(address),
                "write_data": Out(width),
                "read_enable": Out(1),
                "read_address": Out(address),
                "read_data": In(width),
            }
        )


class Words(wiring.Component):
    """Words that are written one at a time and can all be read at once.

    A word written at a clock edge is visible after that edge; with latches, half a cycle later, because address and
    data are registered and the latches open in the low phase of the clock.

    Args:
        width: bits of a word.
        depth: number of words.
        storage: "flip-flops" or "latches".
    """

    def __init__(self, width: int, depth: int, storage: str) -> None:
        check_storage(storage, but="memory")
        self.width, self.depth, self.storage = width, depth, storage
        self.words = [Signal(width, name=f"word_{index}", reset_less=True) for index in range(depth)]
        super().__init__({"enable": In(1), "address": In(max((depth - 1).bit_length(), 1)), "data": In(width)})

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        if self.storage == "flip-flops":
            for index, word in enumerate(self.words):
                with m.If(self.enable & (self.address == index)):
                    m.d.sync += word.eq(self.data)
            return m
        data = Signal(self.width, reset_less=True)
        with m.If(self.enable):
            m.d.sync += data.eq(self.data)
        for index, word in enumerate(self.words):
            chosen = Signal(name=f"chosen_{index}")
            m.d.sync += chosen.eq(self.enable & (self.address == index))
            m.submodules[f"latch_{index}"] = latch(chosen & ~ClockSignal(), data, word)
        return m


def latch(enable: object, data: Signal, output: Signal) -> Instance:
    """Return a latch, transparent while `enable` is high, as the Yosys cell that `flow.verilog` translates."""
    return Instance("$dlatch", p_WIDTH=len(data), p_EN_POLARITY=1, i_EN=enable, i_D=data, o_Q=output)


class WordMemory(wiring.Component):
    """A memory with one write and one read port, behind a `MemoryPort`.

    Args:
        width: bits of a word.
        depth: number of words.
        storage: "flip-flops" (a memory cell that the synthesis tool maps) or "latches".
    """

    def __init__(self, width: int, depth: int, storage: str = "flip-flops") -> None:
        check_storage(storage, but="memory")
        self.width, self.depth, self.storage = width, depth, storage
        super().__init__({"port": In(MemoryPort(width, depth))})

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        port = self.port
        if self.storage == "flip-flops":
            m.submodules.array = words = Memory(shape=self.width, depth=self.depth, init=[])
            write, read = words.write_port(), words.read_port()
            m.d.comb += [
                write.en.eq(port.write_enable),
                write.addr.eq(port.write_address),
                write.data.eq(port.write_data),
                read.en.eq(port.read_enable),
                read.addr.eq(port.read_address),
                port.read_data.eq(read.data),
            ]
            return m
        m.submodules.words = latches = Words(self.width, self.depth, "latches")
        m.d.comb += [
            latches.enable.eq(port.write_enable),
            latches.address.eq(port.write_address),
            latches.data.eq(port.write_data),
        ]
        held = Signal(self.width, reset_less=True)
        with m.If(port.read_enable):
            m.d.sync += held.eq(Array(latches.words)[port.read_address])
        m.d.comb += port.read_data.eq(held)
        return m
