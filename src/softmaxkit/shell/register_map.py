"""The registers of a shell, as data: hardware, SystemRDL and the note are derived from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from softmaxkit.shell.options import ShellOptions
from softmaxkit.shell.row_length import LENGTH_BITS, OFFSET_BITS
from softmaxkit.shell.status import COUNT_BITS, ERRORS

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit

VERSION = 1
"""Of this map: it changes where software has to."""

WORD = 4
"""Bytes of a register."""

Access = Literal["constant", "read", "write", "clear ones", "clear", "pulse"]
"""How software sees a field: a constant; hardware's, to be read; its own, to be written and read; hardware's, cleared
by writing 1 to its bits, or by any write; a bit that acts when 1 is written, and reads 0."""


class Field(NamedTuple):
    """A field of a register.

    Attributes:
        name: within its register.
        bits: width; fields follow each other from bit 0.
        access: see `Access`.
        reset: after a reset; what a constant is.
        about: a line.
        signed: is it in two's complement?
    """

    name: str
    bits: int
    access: Access
    reset: int = 0
    about: str = ""
    signed: bool = False


@dataclass(frozen=True)
class Register:
    """A register of 32 bits.

    Attributes:
        name: in the map.
        address: in bytes.
        about: a line.
        fields: from bit 0 up.
    """

    name: str
    address: int
    about: str
    fields: tuple[Field, ...]


class Table(NamedTuple):
    """Words of a unit's constants, a register each.

    Attributes:
        name: of the unit's register or table.
        address: of its first word, in bytes, from the start of a set.
        words: how many.
        bits: of a word.
        signed: are they in two's complement?
    """

    name: str
    address: int
    words: int
    bits: int
    signed: bool


@dataclass(frozen=True)
class RegisterMap:
    """All that is behind an AXI4-Lite port.

    Attributes:
        registers: of the shell.
        tables: of the unit's constants.
        base: address of the first set of constants, in bytes.
        stride: from a set to the next.
        sets: of constants: those of the unit, else one a tag, one without, or none.
        readable: can constants be read back?
    """

    registers: tuple[Register, ...]
    tables: tuple[Table, ...]
    base: int
    stride: int
    sets: int
    readable: bool

    @property
    def address_bits(self) -> int:
        """Width of byte addresses."""
        return (self.base + self.stride * self.sets - 1).bit_length()


def register_map(unit: SoftmaxUnit, options: ShellOptions) -> RegisterMap:
    """Return the registers of a shell; a part's are at the same address whatever else there is.

    Raises:
        ValueError: a word of the unit's constants is wider than a register.
    """
    registers = [
        Register(
            "identity",
            0x00,
            "what this is",
            (
                Field("version", 8, "constant", VERSION, "of this register map"),
                Field("lanes", 9, "constant", unit.lanes, "positions a beat"),
            ),
        ),
        Register(
            "capacity", 0x04, "what fits", (Field("max_row", LENGTH_BITS, "constant", unit.max_row, "positions"),)
        ),
        Register(
            "state", 0x08, "what goes on", (Field("busy", 1, "read", 0, "a row is inside"), *_loading(unit, options))
        ),
    ]
    if options.status:
        errors = tuple(Field(name, 1, "clear ones", 0, about) for name, about in ERRORS.items())
        enables = tuple(Field(name, 1, "write", 0, "raises the interrupt") for name in ERRORS)
        registers += [
            Register("errors", 0x0C, "errors since they were cleared, by writing 1", errors),
            Register("interrupt_enable", 0x10, "errors that raise the interrupt", enables),
            *(
                Register(
                    f"saturated_{kind}",
                    0x14 + place * WORD,
                    f"{kind} that were {what}; a write sets it to 0, and it stays at its largest value",
                    (Field("count", COUNT_BITS, "clear", 0, f"of saturated {kind}"),),
                )
                for place, (kind, what) in enumerate(
                    (("scores", "attended and at an end of their range"), ("results", "the largest code"))
                )
            ),
        ]
    if options.row_length:
        registers += [
            Register(
                "row_length",
                0x20,
                "of the rows to come; 0 is an error",
                (Field("positions", LENGTH_BITS, "write", unit.max_row, "positions of a row"),),
            ),
            Register(
                "causal",
                0x24,
                "row i of a block attends to its first i + offset + 1 positions",
                (Field("enable", 1, "write", 0, "0: rows attend to all their positions"),),
            ),
            Register(
                "causal_offset", 0x28, "of a block's first row", (Field("offset", OFFSET_BITS, "write", 0, "", True),)
            ),
            Register(
                "block_rows",
                0x2C,
                "rows after which their count begins again",
                (Field("rows", LENGTH_BITS, "write", 0, "0: it never does, or only after 131,072"),),
            ),
            Register(
                "block",
                0x30,
                "the count of rows",
                (Field("restart", 1, "pulse", 0, "the next row is a block's first"),),
            ),
        ]
    if unit.registers is None:
        return RegisterMap(tuple(registers), (), 0x40, 0, 0, False)
    registers.append(
        Register(
            "constants",
            0x34,
            "the words written",
            (Field("load", 1, "pulse", 0, "rows to come are to have them"),),
        )
    )
    tables = tuple(
        Table(each.name, unit.registers.address(each.name) * WORD, each.depth, each.shape.width, each.shape.signed)
        for each in unit.registers.registers
    )
    if unit.registers.data_bits > 8 * WORD:
        raise ValueError(
            f"constants of this unit have up to {unit.registers.data_bits} bits, and a register {8 * WORD}; "
            "load them through their stream"
        )
    sets = unit.sets if unit.sets > 1 else max(options.tags, 1) if options.has_copy(unit) else 1
    stride = max(1 << (unit.registers.words * WORD - 1).bit_length(), 0x40)
    return RegisterMap(tuple(registers), tables, stride, stride, sets, options.has_copy(unit))


def _loading(unit: SoftmaxUnit, options: ShellOptions) -> tuple[Field, ...]:
    if unit.registers is None:
        return ()
    return (Field("loading", 1, "read", 0, "constants that were written are not all in use yet"),)
