"""The side of a shell that software sees: AXI4-Lite, its registers, and the constants of the unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Const, Module, Value
from amaranth.lib import wiring

from softmaxkit.shell.axi_lite import AxiLiteSubordinate
from softmaxkit.shell.constants import ConstantsCopy, ConstantsPassage
from softmaxkit.shell.register_map import WORD, RegisterMap
from softmaxkit.shell.registers import Registers
from softmaxkit.shell.row_beats import set_of

if TYPE_CHECKING:
    from softmaxkit.shell.shell import Shell


def connect_registers(m: Module, shell: Shell, register_map: RegisterMap, busy: Value, beats: Any) -> Value:
    """Connect parameters and status to registers; return whether the next row must wait for constants.

    Args:
        m: module to add the logic to.
        shell: whose values are read and written, by the names of their ports.
        register_map: the register map of the shell.
        busy: a row is inside.
        beats: stream of the rows' beats, whose tags may select constants.
    """
    m.submodules.axi_lite = lite = AxiLiteSubordinate(register_map.address_bits)
    m.submodules.registers = registers = Registers(register_map)
    wiring.connect(m, wiring.flipped(shell.s_axil), lite.bus)
    wiring.connect(m, lite.write, registers.write)
    wiring.connect(m, lite.read, registers.read)
    m.d.comb += [
        lite.write_error.eq(registers.write_error),
        lite.read_data.eq(registers.read_data),
        lite.read_error.eq(registers.read_error),
        registers.state_busy.eq(busy),
    ]
    # A port corresponds to all fields of the register with its name.
    joined = {
        register.name: [f"{register.name}_{field.name}" for field in register.fields]
        for register in register_map.registers
    }
    joined |= {f"{name}_clear": [f"{field}_clear" for field in fields] for name, fields in joined.items()}
    joined["block_restart"] = joined.get("block", [])
    for name, value in shell.read.items():
        m.d.comb += Cat(getattr(registers, field) for field in joined[name]).eq(value)
    for name, port in shell.written.items():
        m.d.comb += port.eq(Cat(getattr(registers, field) for field in joined[name]))
    return _connect_constants(m, shell, register_map, registers, beats)


def _connect_constants(m: Module, shell: Shell, register_map: RegisterMap, registers: Registers, beats: Any) -> Value:
    """Connect the constants to the unit; return whether the next row must wait for them."""
    unit, options = shell.unit, shell.options
    if unit.registers is None:
        return Const(0)
    words, port = unit.registers, registers.constant_write
    stride = (register_map.stride // WORD - 1).bit_length()
    constants: ConstantsCopy | ConstantsPassage
    if options.has_copy(unit):
        m.submodules.constants = constants = ConstantsCopy(words, register_map.sets)
        place, read = constants.write.p.place, constants.read
        m.d.comb += [
            place.address.eq(port.p.address),
            place.set.eq(port.p.address[stride:]),
            read.valid.eq(registers.constant_read.valid),
            read.p.address.eq(registers.constant_read.payload),
            read.p.set.eq(registers.constant_read.payload[stride:]),
            registers.constant_read.ready.eq(read.ready),
            registers.constant_data.eq(constants.read_data),
            constants.waiting.eq(shell.waiting),
        ]
        if options.tags and unit.sets == 1:
            m.d.comb += constants.wanted.eq(set_of(beats.p.tag, register_map.sets))
    else:
        m.submodules.constants = constants = ConstantsPassage(words)
        address = port.p.address
        if unit.sets > 1:
            address = Cat(address[: words.word_bits], address[stride:][: words.set_bits])
        m.d.comb += constants.write.p.address.eq(address)
    m.d.comb += [
        constants.write.p.data.eq(port.p.data),
        constants.write.valid.eq(port.valid),
        port.ready.eq(constants.write.ready),
        constants.load.eq(registers.constants_load),
        registers.state_loading.eq(constants.loading),
    ]
    wiring.connect(m, constants.configuration, shell.inner.writes)
    return constants.loading if isinstance(constants, ConstantsCopy) else Const(0)
