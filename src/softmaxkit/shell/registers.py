"""The registers of a shell in hardware: streams of reads and writes on one side, fields on the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from softmaxkit.shell.register_map import WORD, Field, RegisterMap


class Registers(wiring.Component):
    """The registers of a map, and the decoder that forwards accesses to the constants.

    Field `f` of register `r` is a port `r_f`: an input if hardware sets the value, an output if software does. If
    software can clear it, there is also an output `r_f_clear`: one bit per bit of the field for "clear ones", a single
    bit for "clear".

    Args:
        registers: the register map.

    Attributes:
        write, write_error, read, read_data, read_error: those of `softmaxkit.shell.axi_lite.AxiLiteSubordinate`.
        constant_write, constant_read: accesses to constants, by word offset from the first set.
        constant_data: the word read, in the cycle after `constant_read` transferred.
    """

    def __init__(self, registers: RegisterMap) -> None:
        self.map = registers
        words = registers.address_bits - 2
        ports: dict[str, Any] = {
            "write": In(stream.Signature(data.StructLayout({"address": words, "data": 32}))),
            "write_error": Out(1),
            "read": In(stream.Signature(words)),
            "read_data": Out(32),
            "read_error": Out(1),
        }
        for name, field in self._fields():
            if field.access in ("read", "clear ones", "clear"):
                ports[name] = In(field.bits)
            if field.access in ("write", "pulse"):
                ports[name] = Out(field.bits)
            if field.access in ("clear ones", "clear"):
                ports[f"{name}_clear"] = Out(field.bits if field.access == "clear ones" else 1)
        if registers.sets:
            ports["constant_write"] = Out(stream.Signature(data.StructLayout({"address": words, "data": 32})))
            if registers.readable:
                ports |= {"constant_read": Out(stream.Signature(words)), "constant_data": In(32)}
        super().__init__(ports)

    def _fields(self) -> Iterator[tuple[str, Field]]:
        for register in self.map.registers:
            for field in register.fields:
                yield f"{register.name}_{field.name}", field

    def elaborate(self, platform: object) -> Module:
        """Build the Amaranth module."""
        m = Module()
        registers, write, read = self.map, self.write, self.read
        constant, other = self._is_constant(write.p.address), self._is_constant(read.payload)
        m.d.comb += [write.ready.eq(1), read.ready.eq(1)]
        word, error, from_constants = Signal(32), Signal(), Signal()
        m.d.comb += [self.write_error.eq(1), self.read_data.eq(word), self.read_error.eq(error)]
        taken = read.valid & read.ready
        m.d.sync += from_constants.eq(0)
        with m.If(taken):
            m.d.sync += [word.eq(0), error.eq(1)]
        self._register_words(m, write, read, word, error)
        if registers.sets:
            with m.If(constant):
                m.d.comb += [
                    self.constant_write.valid.eq(write.valid),
                    self.constant_write.p.address.eq(write.p.address - registers.base // WORD),
                    self.constant_write.p.data.eq(write.p.data),
                    write.ready.eq(self.constant_write.ready),
                    self.write_error.eq(0),
                ]
        if registers.readable:
            with m.If(other):
                m.d.comb += [
                    self.constant_read.valid.eq(read.valid),
                    self.constant_read.payload.eq(read.payload - registers.base // WORD),
                    read.ready.eq(self.constant_read.ready),
                ]
                m.d.sync += [from_constants.eq(taken), error.eq(0)]
            with m.If(from_constants):
                m.d.comb += self.read_data.eq(self.constant_data)
        return m

    def _is_constant(self, address: Value) -> Value:
        """Return whether a word address is that of a constant of the unit."""
        registers = self.map
        if not registers.sets:
            return Const(0)
        words = sum(table.words for table in registers.tables)
        within = address[: (registers.stride // WORD - 1).bit_length()] < words
        end = registers.base + registers.stride * registers.sets  # the address space may end later, at a power of 2
        return (address >= registers.base // WORD) & (address < end // WORD) & within

    def _register_words(self, m: Module, write: Any, read: Any, word: Signal, error: Signal) -> None:
        """Build the shell's own registers."""
        for register in self.map.registers:
            written = Signal(name=f"{register.name}_written")
            values = []
            m.d.comb += written.eq(write.valid & (write.p.address == register.address // WORD))
            for field, at in register.places:
                name = f"{register.name}_{field.name}"
                new = write.p.data[at : at + field.bits]
                values.append(self._field(m, name, field, written, new))
            with m.If(write.p.address == register.address // WORD):
                m.d.comb += self.write_error.eq(all(field.access in ("constant", "read") for field in register.fields))
            with m.If(read.valid & (read.payload == register.address // WORD)):
                whole = Cat(values)
                m.d.sync += [word.eq(whole.as_signed() if register.sign_bits else whole), error.eq(0)]

    def _field(self, m: Module, name: str, field: Field, written: Value, new: Value) -> Value:
        """Build a field, and return the value that software reads."""
        if field.access == "constant":
            return Const(field.reset, field.bits)
        port = getattr(self, name)
        if field.access == "write":
            value = Signal(field.bits, name=f"{name}_value", init=field.reset)
            with m.If(written):
                m.d.sync += value.eq(new)
            m.d.comb += port.eq(value)
            return value
        if field.access == "pulse":
            m.d.comb += port.eq(Mux(written, new, 0))
            return Const(0, field.bits)
        if field.access == "clear ones":
            m.d.comb += getattr(self, f"{name}_clear").eq(Mux(written, new, 0))
        if field.access == "clear":
            m.d.comb += getattr(self, f"{name}_clear").eq(written)
        return port
