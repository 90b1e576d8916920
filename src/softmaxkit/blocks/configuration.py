"""The configuration port: registers that can only be written between rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from amaranth.hdl import Module, Shape, Signal, Value
from amaranth.lib import data

from softmaxkit.blocks.storage import Words


class Register(NamedTuple):
    """One register, or one table of words, on a configuration port.

    Attributes:
        name: what it holds.
        shape: of a word.
        depth: number of words.
    """

    name: str
    shape: Shape
    depth: int = 1


class RegisterMap:
    """Registers at consecutive addresses from 0, in the order given."""

    def __init__(self, registers: Sequence[Register]) -> None:
        self.registers = tuple(registers)
        self.words = sum(register.depth for register in registers)
        self.address_bits = max((self.words - 1).bit_length(), 1)
        self.data_bits = max(register.shape.width for register in registers)

    @property
    def layout(self) -> data.StructLayout:
        """Payload of the port: write `data` to `address`. `last` closes a group, which takes effect as a whole."""
        return data.StructLayout({"address": self.address_bits, "data": self.data_bits, "last": 1})

    def address(self, name: str) -> int:
        """Return the address of a register, or of the first word of a table."""
        address = 0
        for register in self.registers:
            if register.name == name:
                return address
            address += register.depth
        raise KeyError(name)

    def writes(self, values: dict[str, int | Sequence[int]]) -> list[tuple[int, int]]:
        """Return the `(address, data)` pairs that load these values.

        Raises:
            ValueError: a value does not fit its register.
        """
        writes = []
        for register in self.registers:
            value = values[register.name]
            words = [value] if isinstance(value, int) else list(value)
            low = -(1 << (register.shape.width - 1)) if register.shape.signed else 0
            high = low + (1 << register.shape.width) - 1
            if len(words) != register.depth:
                raise ValueError(
                    f"{register.name} of the unit holds {register.depth} words, but {len(words)} are given"
                )
            for place, word in enumerate(words):
                if not low <= word <= high:
                    raise ValueError(f"{register.name} of the unit holds {low} to {high}, but {word} is to be loaded")
                writes.append((self.address(register.name) + place, word & ((1 << self.data_bits) - 1)))
        return writes


def hold_between_rows(m: Module, scores: Any, port: Any, busy: Value) -> tuple[Value, Value]:
    """Accept writes only between rows, with the unit empty, and rows only while no group of writes is open.

    Args:
        m: the module to build it in.
        scores: the unit's score stream.
        port: the configuration port.
        busy: high while a row is inside the unit.

    Returns:
        `(hold, write)`: scores have to wait; a write happens in this cycle.
    """
    inside, grouped, settling = Signal(name="row_inside"), Signal(name="group_open"), Signal(name="settling")
    with m.If(scores.valid & scores.ready):
        m.d.sync += inside.eq(~scores.p.last)
    m.d.comb += port.ready.eq(~inside & ~busy)
    write = port.valid & port.ready
    with m.If(write):
        m.d.sync += grouped.eq(~port.p.last)
    m.d.sync += settling.eq(write)  # latches hold a new word half a cycle later
    return ~inside & (port.valid | grouped | settling), write


def build_registers(
    m: Module, registers: RegisterMap, port: Any, write: Value, storage: str
) -> dict[str, Sequence[Value]]:
    """Build the registers and return their words by name."""
    words: dict[str, Sequence[Value]] = {}
    for register in registers.registers:
        first = registers.address(register.name)
        address = port.p.address
        if register.depth == 1:
            word = Signal(register.shape, name=register.name, reset_less=True)
            with m.If(write & (address == first)):
                m.d.sync += word.eq(port.p.data[: register.shape.width])
            words[register.name] = [word]
            continue
        m.submodules[f"{register.name}_table"] = table = Words(register.shape.width, register.depth, storage)
        m.d.comb += [
            table.enable.eq(write & _within(address, first, first + register.depth)),
            table.address.eq(address - first),
            table.data.eq(port.p.data),
        ]
        words[register.name] = [word.as_signed() if register.shape.signed else word for word in table.words]
    return words


def _within(address: Value, first: int, end: int) -> Value:
    return (address >= first) & (address < end) if first else address < end


def rows_inside(m: Module, scores: Any, results: Any, most: int) -> Value:
    """Return whether a complete row has gone in that has not completely come out; `most` rows fit inside at a time."""
    count = Signal(range(most + 1), name="rows_inside")
    comes, leaves = scores.valid & scores.ready & scores.p.last, results.valid & results.ready & results.p.last
    m.d.sync += count.eq(count + comes - leaves)
    return count != 0
