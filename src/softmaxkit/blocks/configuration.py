"""The configuration port: registers that can only be written between rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from amaranth.hdl import Const, Module, Shape, Signal, Value
from amaranth.lib import data

from softmaxkit.blocks.piecewise_linear import lookup
from softmaxkit.blocks.storage import Words as Table

MAX_SETS = 16
"""Most sets of constants that a unit can hold."""

Words = Mapping[str, Sequence[int] | Sequence[Value]]
"""Words of each table or register by name: integers if the constants are baked in, signals if they are loadable."""


class Register(NamedTuple):
    """One register, or one table of words, on a configuration port.

    Attributes:
        name: of the register or table.
        shape: of a word.
        depth: number of words.
        meaning: of its words, for those who write them.
    """

    name: str
    shape: Shape
    depth: int = 1
    meaning: str = ""


class RegisterMap:
    """Registers at consecutive addresses from 0; with several sets, the set number forms the upper address bits.

    Args:
        registers: of one set, in address order.
        sets: number of sets, 1 to 16; every register exists once in each.

    Attributes:
        words: number of words in a set.
        word_bits: width of the address of a word within its set.
        set_bits: width of a set number; 0 with a single set.
        stride: address distance between the same word of consecutive sets.
        address_bits: width of the whole address.
        data_bits: width of the widest word.

    Raises:
        ValueError: the number of sets is out of range.
    """

    def __init__(self, registers: Sequence[Register], sets: int = 1) -> None:
        if type(sets) is not int or not 1 <= sets <= MAX_SETS:
            raise ValueError(f"sets is a whole number from 1 to {MAX_SETS}, not {sets!r}")
        self.registers, self.sets = tuple(registers), sets
        self.words = sum(register.depth for register in registers)
        self.word_bits, self.set_bits = max((self.words - 1).bit_length(), 1), (sets - 1).bit_length()
        self.stride = 1 << self.word_bits
        self.address_bits = self.word_bits + self.set_bits
        self.data_bits = max(register.shape.width for register in registers)

    @property
    def layout(self) -> data.StructLayout:
        """Payload of the port: write `data` to `address`; `last` ends a group, which takes effect as a whole."""
        return data.StructLayout({"address": self.address_bits, "data": self.data_bits, "last": 1})

    def address(self, name: str) -> int:
        """Return the address of a register, or of the first word of a table, in set 0.

        Raises:
            KeyError: there is no register of that name.
        """
        address = 0
        for register in self.registers:
            if register.name == name:
                return address
            address += register.depth
        raise KeyError(name)

    def writes(self, values: dict[str, int | Sequence[int]], of_set: int = 0) -> list[tuple[int, int]]:
        """Return the `(address, data)` pairs that load these values into a set.

        Raises:
            ValueError: a value does not fit its register, or a table has the wrong number of words.
        """
        writes = []
        for register in self.registers:
            value = values[register.name]
            words = [value] if isinstance(value, int) else list(value)
            low = -(1 << (register.shape.width - 1)) if register.shape.signed else 0
            high = low + (1 << register.shape.width) - 1
            if len(words) != register.depth:
                raise ValueError(f"{register.name} of this unit has {register.depth} words, not {len(words)}")
            for place, word in enumerate(words):
                if not low <= word <= high:
                    raise ValueError(f"{register.name} of this unit is from {low} to {high}, not {word}")
                address = of_set * self.stride + self.address(register.name) + place
                writes.append((address, word & ((1 << self.data_bits) - 1)))
        return writes


def hold_between_rows(m: Module, scores: Any, port: Any, busy: Value) -> tuple[Value, Value]:
    """Accept writes only while the unit is empty, and start rows only while no group of writes is open.

    Args:
        m: module to add the logic to.
        scores: the unit's score stream.
        port: the configuration port.
        busy: high while a row is inside the unit.

    Returns:
        `(hold, write)`: the next row must wait; a write is accepted in this cycle.
    """
    inside, grouped, settling = Signal(name="row_inside"), Signal(name="group_open"), Signal(name="settling")
    with m.If(scores.valid & scores.ready):
        m.d.sync += inside.eq(~scores.p.last)
    m.d.comb += port.ready.eq(~inside & ~busy)
    write = port.valid & port.ready
    with m.If(write):
        m.d.sync += grouped.eq(~port.p.last)
    m.d.sync += settling.eq(write)  # a latch takes its new word half a cycle after the write
    return ~inside & (port.valid | grouped | settling), write


def build_registers(m: Module, registers: RegisterMap, port: Any, write: Value, storage: str) -> list[Words]:
    """Build the registers; return one mapping per set, from the name of a register to its words.

    Args:
        m: module to add the logic to.
        registers: to build.
        port: configuration port.
        write: a write is accepted in this cycle.
        storage: of tables and of registers in several sets, "flip-flops" or "latches".
    """
    sets: list[dict[str, Sequence[Value]]] = [{} for _ in range(registers.sets)]
    word = port.p.address if registers.sets == 1 else port.p.address[: registers.word_bits]
    for register in registers.registers:
        first = registers.address(register.name)
        if register.depth == 1 and registers.sets == 1:
            held = Signal(register.shape, name=register.name, reset_less=True)
            with m.If(write & (word == first)):
                m.d.sync += held.eq(port.p.data[: register.shape.width])
            sets[0][register.name] = [held]
            continue
        # One table for all sets, so that they share the write-data register of latches.
        depth = register.depth * registers.sets
        place = word - first
        if registers.sets > 1:
            place = place + port.p.address[registers.word_bits :] * register.depth
        m.submodules[f"{register.name}_table"] = table = Table(register.shape.width, depth, storage)
        m.d.comb += [
            table.enable.eq(write & _within(word, first, first + register.depth)),
            table.address.eq(place),
            table.data.eq(port.p.data),
        ]
        words = [entry.as_signed() if register.shape.signed else entry for entry in table.words]
        for index, of_set in enumerate(sets):
            of_set[register.name] = words[index * register.depth :][: register.depth]
    return [*sets]


def number_of_set(scores: Any) -> Value:
    """Return the set number that a beat of scores carries; 0 in a unit with a single set of constants."""
    return scores.p.set if "set" in scores.payload.shape().members else Const(0)


def words_of(m: Module, name: str, sets: Sequence[Words], number: Value, *names: str) -> Words:
    """Return the words of one set, selected once for a whole pipeline stage.

    The set is selected for all lanes together, before their look-ups. Even with one lane this costs no more gates than
    a longer look-up index, and while consecutive rows use the same set only the look-up itself toggles.

    Args:
        m: module to add the logic to.
        name: of the stage; prefix of its signals.
        sets: words of each set.
        number: set number, less than the number of sets.
        names: registers that the stage reads.
    """
    if len(sets) == 1:
        return sets[0]
    return {
        register: [
            lookup(m, f"{name}_{register}{index}", words, number)
            for index, words in enumerate(zip(*(registers[register] for registers in sets), strict=True))
        ]
        for register in names
    }


def _within(address: Value, first: int, end: int) -> Value:
    return (address >= first) & (address < end) if first else address < end


def rows_inside(m: Module, scores: Any, results: Any, most: int) -> Value:
    """Return whether a row has entered completely but not left completely; at most `most` such rows fit inside."""
    count = Signal(range(most + 1), name="rows_inside")
    comes, leaves = scores.valid & scores.ready & scores.p.last, results.valid & results.ready & results.p.last
    m.d.sync += count.eq(count + comes - leaves)
    return count != 0
