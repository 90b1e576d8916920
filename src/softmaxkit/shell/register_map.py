"""The register map of a shell, as data from which the hardware, the SystemRDL and the README are derived."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, NamedTuple

from softmaxkit.shell.options import ShellOptions
from softmaxkit.shell.row_length import LENGTH_BITS, OFFSET_BITS
from softmaxkit.shell.status import COUNT_BITS, ERRORS

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit

VERSION = 1
"""Version of the register map; it changes whenever software must change."""

WORD = 4
"""Bytes of a register."""

Access = Literal["constant", "read", "write", "clear ones", "clear", "pulse"]
"""Software's access to a field.

- "constant": reads as its reset value.
- "read": read-only; set by hardware.
- "write": readable and writable.
- "clear ones": set by hardware; writing 1 clears a bit.
- "clear": set by hardware; any write clears the field.
- "pulse": writing 1 triggers an action; reads as 0.
"""


class Field(NamedTuple):
    """A field of a register.

    Attributes:
        name: unique within its register.
        bits: width; the fields of a register are adjacent, from bit 0 up.
        access: see `Access`.
        reset: value after a reset, or of a constant.
        about: one-line description.
        signed: two's complement, sign-extended when read.
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
        name: unique within the map.
        address: in bytes.
        about: one-line description.
        fields: from bit 0 up.
    """

    name: str
    address: int
    about: str
    fields: tuple[Field, ...]

    @property
    def places(self) -> list[tuple[Field, int]]:
        """The fields, each with the number of its lowest bit."""
        return list(zip(self.fields, accumulate((field.bits for field in self.fields), initial=0), strict=False))

    @property
    def sign_bits(self) -> int:
        """Number of bits above the register's only field that read as copies of its sign; 0 if it has none."""
        return 32 - self.fields[0].bits if len(self.fields) == 1 and self.fields[0].signed else 0


class Table(NamedTuple):
    """A table of a unit's constants, one register per word.

    Attributes:
        name: of the unit's register or table.
        address: byte offset of the first word from the start of a set.
        words: number of words.
        bits: width of a word.
        signed: words are in two's complement.
        about: meaning of the words; empty if the unit does not say.
    """

    name: str
    address: int
    words: int
    bits: int
    signed: bool
    about: str


@dataclass(frozen=True)
class RegisterMap:
    """The address map of an AXI4-Lite port.

    Attributes:
        registers: of the shell.
        tables: of the unit's constants, the same in every set.
        base: byte address of the first set of constants.
        stride: bytes from one set to the next.
        sets: number of sets of constants: those of the unit if it has several, else one per tag if the shell stores
            them, else 1; 0 without loadable constants.
        readable: constants can be read back.
    """

    registers: tuple[Register, ...]
    tables: tuple[Table, ...]
    base: int
    stride: int
    sets: int
    readable: bool

    @property
    def data_bits(self) -> int:
        """Width of the widest constant, which is what a copy stores of every word."""
        return max(table.bits for table in self.tables)

    @property
    def address_bits(self) -> int:
        """Width of byte addresses."""
        return (self.base + self.stride * self.sets - 1).bit_length()


def register_map(unit: SoftmaxUnit, options: ShellOptions) -> RegisterMap:
    """Return the register map of a shell; the address of a register does not depend on the other options.

    Raises:
        ValueError: a word of the unit's constants is wider than a register.
    """
    registers = [
        Register(
            "identity",
            0x00,
            "identification",
            (
                Field("version", 8, "constant", VERSION, "version of this register map"),
                Field("lanes", 9, "constant", unit.lanes, "positions per beat"),
            ),
        ),
        Register(
            "capacity",
            0x04,
            "limits of the unit",
            (Field("max_row", LENGTH_BITS, "constant", unit.max_row, "positions of the longest row"),),
        ),
        Register(
            "state",
            0x08,
            "current activity",
            (
                Field("busy", 1, "read", 0, "a row has entered and its last result has not left"),
                *_loading(unit, options),
            ),
        ),
    ]
    if options.status:
        errors = tuple(Field(name, 1, "clear ones", 0, about) for name, about in ERRORS.items())
        enables = tuple(Field(name, 1, "write", 0, "1: this error raises the interrupt") for name in ERRORS)
        registers += [
            Register("errors", 0x0C, "sticky error flags; writing 1 clears a flag", errors),
            Register("interrupt_enable", 0x10, "errors that raise the interrupt", enables),
            *(
                Register(
                    f"saturated_{kind}",
                    0x14 + place * WORD,
                    f"number of {what}; any write sets it to 0, and it stays at its maximum",
                    (Field("count", COUNT_BITS, "clear", 0, f"saturated {kind}"),),
                )
                for place, (kind, what) in enumerate(
                    (
                        ("scores", "attended scores at an end of their range"),
                        ("results", "results that are the largest code"),
                    )
                )
            ),
        ]
    if options.row_length:
        registers += [
            Register(
                "row_length",
                0x20,
                "length of the following rows; 0 is an error",
                (Field("positions", LENGTH_BITS, "write", unit.max_row, "positions per row"),),
            ),
            Register(
                "causal",
                0x24,
                "causal mask: row i of a block attends to its first i + offset + 1 positions",
                (Field("enable", 1, "write", 0, "0: rows attend to all of their positions"),),
            ),
            Register(
                "causal_offset",
                0x28,
                "offset of the causal mask",
                (Field("offset", OFFSET_BITS, "write", 0, "two's complement", True),),
            ),
            Register(
                "block_rows",
                0x2C,
                "rows per block, after which i restarts at 0; if i has passed it, write block too",
                (Field("rows", LENGTH_BITS, "write", 0, "0: i restarts only after 131,072 rows"),),
            ),
            Register(
                "block",
                0x30,
                "control of blocks",
                (Field("restart", 1, "pulse", 0, "1: the next row is the first of a block"),),
            ),
        ]
    if unit.registers is None:
        return RegisterMap(tuple(registers), (), 0x40, 0, 0, False)
    registers.append(
        Register(
            "constants",
            0x34,
            "control of the loadable constants",
            (Field("load", 1, "pulse", 0, "1: use the words written so far, from the next row on"),),
        )
    )
    tables = tuple(
        Table(
            register.name,
            unit.registers.address(register.name) * WORD,
            register.depth,
            register.shape.width,
            register.shape.signed,
            register.meaning,
        )
        for register in unit.registers.registers
    )
    if unit.registers.data_bits > 8 * WORD:
        raise ValueError(
            f"constants of this unit have up to {unit.registers.data_bits} bits, a register of AXI4-Lite {8 * WORD}; "
            "leave --axi-lite out and load them through s_axis_cfg"
        )
    sets = unit.sets if unit.sets > 1 else max(options.tags, 1) if options.has_copy(unit) else 1
    stride = max(1 << (unit.registers.words * WORD - 1).bit_length(), 0x40)
    return RegisterMap(tuple(registers), tables, stride, stride, sets, options.has_copy(unit))


def _loading(unit: SoftmaxUnit, options: ShellOptions) -> tuple[Field, ...]:
    if unit.registers is None:
        return ()
    if options.has_copy(unit):
        about = "the next row waits until its constants have been loaded from the copy into the unit"
    else:
        about = "some of the written constants are not in use yet"
    return (Field("loading", 1, "read", 0, about),)
