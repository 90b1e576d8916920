"""Transfer of constants from AXI4-Lite to a unit: word by word, or from a copy that can be read back."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from softmaxkit.blocks.configuration import RegisterMap


class ConstantsPassage(wiring.Component):
    """Passes words on to the unit; all words up to a `load` form one group.

    The newest word waits here, because only the next write or `load` tells whether it ends the group. A write therefore
    waits for the word before it, which the unit accepts once no row is inside; from then on no row begins until the
    group ends.

    Args:
        registers: of the unit.

    Attributes:
        write: stream of words with their addresses.
        load: end the group.
        configuration: stream to the unit.
        loading: some written words are not in use yet.
    """

    def __init__(self, registers: RegisterMap) -> None:
        words = data.StructLayout({"address": registers.address_bits, "data": registers.data_bits})
        super().__init__(
            {
                "write": In(stream.Signature(words)),
                "load": In(1),
                "configuration": Out(stream.Signature(registers.layout)),
                "loading": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        write, target = self.write, self.configuration
        word, waiting, closing, grouped = Signal(write.payload.shape()), Signal(), Signal(), Signal()
        closes = closing | self.load
        taken = target.valid & target.ready
        m.d.comb += [
            target.valid.eq(waiting & (write.valid | closes)),
            target.p.address.eq(word.address),
            target.p.data.eq(word.data),
            target.p.last.eq(closes),
            write.ready.eq(~waiting | (target.ready & ~closes)),
            self.loading.eq(waiting | grouped),
        ]
        with m.If(write.valid & write.ready):
            m.d.sync += [waiting.eq(1), word.eq(write.payload)]
        with m.Elif(taken):
            m.d.sync += waiting.eq(0)
        with m.If(taken):
            m.d.sync += [closing.eq(0), grouped.eq(~closes)]
        with m.Elif(self.load & waiting):
            m.d.sync += closing.eq(1)
        return m


class ConstantsCopy(wiring.Component):
    """Stores sets of constants and loads a set into the unit, as one group, when a row needs it.

    Once the unit accepts the first word, loading takes one cycle per word after a few cycles of latency. Read-back uses
    the cycles in which no word is fetched for loading, so it hardly waits while the unit refuses the first word. A word
    written while its set is being loaded may or may not be included; the `load` that follows it loads the set again.

    Args:
        registers: of the unit.
        sets: number of sets. A unit that stores all of them is loaded with all of them; otherwise, with more than one
            set, the next row selects the set to load.

    Attributes:
        write: stream of words with their addresses and set numbers.
        read: stream of addresses and set numbers to read.
        read_data: the word read, in the cycle after `read` transferred.
        load: use the words written so far from the next row on.
        wanted: set number of the next row.
        waiting: the next row is waiting; `wanted` and `waiting` are ignored with one set, or if the unit stores all.
        configuration: stream to the unit.
        loading: the unit must be loaded, or is being loaded.
    """

    def __init__(self, registers: RegisterMap, sets: int) -> None:
        self.registers, self.sets = registers, sets
        self.place = data.StructLayout({"address": registers.word_bits, "set": max((sets - 1).bit_length(), 1)})
        super().__init__(
            {
                "write": In(stream.Signature(data.StructLayout({"place": self.place, "data": registers.data_bits}))),
                "read": In(stream.Signature(self.place)),
                "read_data": Out(registers.data_bits),
                "load": In(1),
                "wanted": In(self.place["set"].shape),
                "waiting": In(1),
                "configuration": Out(stream.Signature(registers.layout)),
                "loading": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        target, whole = self.configuration, self.registers.sets > 1
        words = self.registers.words * self.registers.sets  # loaded as one group
        choice = self.sets > 1 and not whole
        m.submodules.words = memory = Memory(
            shape=self.registers.data_bits, depth=self.sets * self.registers.words, init=[]
        )
        to_write, to_read = memory.write_port(), memory.read_port()
        # A unit without a selectable set is not loaded before the first `load`.
        stale, loaded = Signal(init=choice), Signal.like(self.wanted)
        running, fetching, index = Signal(), Signal(), Signal(range(words + 1))
        flowing = Signal()  # the unit has accepted a word, and so will accept the next
        other = (self.waiting & (stale | (self.wanted != loaded))) if choice else stale
        taken = target.valid & target.ready
        fetch, moves = Signal(), Signal()
        m.d.comb += [
            moves.eq(fetching & (~target.valid | target.ready)),  # the word at the memory's output is passed on
            fetch.eq(running & (index != words) & (~fetching | moves) & ((index == 0) | flowing | taken)),
            self.loading.eq(other | running),
            self.write.ready.eq(1),
            to_write.en.eq(self.write.valid),
            to_write.addr.eq(self._address(self.write.p.place.address, self.write.p.place.set)),
            to_write.data.eq(self.write.p.data),
            self.read.ready.eq(~fetch & (~fetching | moves)),
            to_read.en.eq(fetch | (self.read.valid & self.read.ready)),
            to_read.addr.eq(self._address(self.read.p.address, self.read.p.set)),
            self.read_data.eq(to_read.data),
        ]
        with m.If(fetch):
            m.d.comb += to_read.addr.eq(index if whole else self._address(index, loaded))
            m.d.sync += index.eq(index + 1)
        address: Value = index - 1
        if whole:  # the unit addresses a word by set number and, below it, word number
            place, fetched = Signal(self.place), Signal(self.place)
            address = Cat(fetched.address, fetched.set)
            ends = place.address == self.registers.words - 1
            with m.If(fetch):
                m.d.sync += [
                    Value.cast(fetched).eq(Value.cast(place)),
                    place.address.eq(Mux(ends, 0, place.address + 1)),
                    place.set.eq(place.set + ends),
                ]
            with m.If(~running):
                m.d.sync += Value.cast(place).eq(0)
        m.d.sync += fetching.eq(fetch | (fetching & ~moves))
        with m.If(taken):
            m.d.sync += [target.valid.eq(0), flowing.eq(~target.p.last)]
        with m.If(moves):
            m.d.sync += [
                target.valid.eq(1),
                target.p.address.eq(address),
                target.p.data.eq(to_read.data),
                target.p.last.eq(index == words),
            ]
        with m.If(taken & target.p.last):
            m.d.sync += running.eq(0)
        with m.If(~running & other):
            m.d.sync += [running.eq(1), index.eq(0), stale.eq(0), loaded.eq(self.wanted)]
        with m.If(self.load):
            m.d.sync += stale.eq(1)
        return m

    def _address(self, word: Value, of_set: Value) -> Value:
        """Return the address of a word in the memory."""
        return word + (of_set * self.registers.words if self.sets > 1 else Const(0))


def switch_cycles(registers: RegisterMap) -> int:
    """Return the most cycles from the last result of a row to the first beat of a row with another tag."""
    return registers.words + 4
