"""Words that a unit holds: in flip-flops, in latches, or in a memory outside of it."""

from __future__ import annotations

from typing import Literal, get_args

from amaranth.hdl import Array, ClockSignal, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

Storage = Literal["flip-flops", "latches", "memory"]
"""Where rows (and loadable tables, which take no memory) are held.

"memory" gives the unit a port for an SRAM, or a register file, with one write and one read port.
"""


def check_storage(storage: str, but: str = "") -> None:
    """Refuse what is no storage.

    Raises:
        ValueError: it is none of the choices.
    """
    choices = [each for each in get_args(Storage) if each != but]
    if storage not in choices:
        raise ValueError(f"storage is {' or '.join(map(repr, choices))} for this unit, not {storage!r}")


class MemoryPort(wiring.Signature):
    """The port to a memory of `depth` words of `width` bits, as its user sees it.

    A read that is enabled at a clock edge gives its data after it, and keeps them until the next.
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
    """Words that are written one at a time and can all be seen at once.

    What is written at a clock edge can be seen after it; with latches, half a cycle later: they follow in the low
    phase of the clock, from registers that hold address and data meanwhile.

    Args:
        width: bits of a word.
        depth: how many.
        storage: "flip-flops" or "latches".
    """

    def __init__(self, width: int, depth: int, storage: str) -> None:
        check_storage(storage, but="memory")
        self.width, self.depth, self.storage = width, depth, storage
        self.words = [Signal(width, name=f"word_{index}", reset_less=True) for index in range(depth)]
        super().__init__({"enable": In(1), "address": In(max((depth - 1).bit_length(), 1)), "data": In(width)})

    def elaborate(self, platform: object) -> Module:
        """Build it."""
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
    """Return a latch, transparent while `enable` is high. It is a cell of Yosys, which `flow.verilog` writes out."""
    return Instance("$dlatch", p_WIDTH=len(data), p_EN_POLARITY=1, i_EN=enable, i_D=data, o_Q=output)


class WordMemory(wiring.Component):
    """A memory of one write and one read port, behind a `MemoryPort`.

    Args:
        width: bits of a word.
        depth: how many.
        storage: "flip-flops" (a memory in the netlist, for a synthesiser to map) or "latches".
    """

    def __init__(self, width: int, depth: int, storage: str = "flip-flops") -> None:
        check_storage(storage, but="memory")
        self.width, self.depth, self.storage = width, depth, storage
        super().__init__({"port": In(MemoryPort(width, depth))})

    def elaborate(self, platform: object) -> Module:
        """Build it."""
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
