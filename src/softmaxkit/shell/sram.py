"""SRAM macros from which the row memories of a unit are composed, in width and in depth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softmaxkit.flow.identifiers import check_name
from softmaxkit.flow.sram import MACROS
from softmaxkit.suggestions import suggestion

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit


@dataclass(frozen=True)
class SramMacro:
    """A macro with the ports of OpenRAM's `1rw1r`: port 0 reads and writes, port 1 reads.

    Its output is valid in the second half of the cycle after a read.

    Attributes:
        name: of its module.
        width: bits per word.
        depth: number of words, a power of 2.
        write_bits: data bits per bit of the write mask; equal to `width` without a mask.
    """

    name: str
    width: int
    depth: int
    write_bits: int

    @property
    def in_pdk(self) -> bool:
        """Whether it is one of the macros that come with the PDK of sky130."""
        return self in SKY130

    def view(self, kind: str) -> str:
        """Return where LibreLane finds the macro's layout (gds), abstract (lef) or timing (lib).

        That is in the PDK, or else in a file of the macro's name next to the configuration, which the team supplies.
        """
        if not self.in_pdk:
            return f"dir::{self.name}.{kind}"
        corner = "_TT_1p8V_25C" if kind == "lib" else ""
        return f"pdk_dir::libs.ref/sky130_sram_macros/{kind}/{self.name}{corner}.{kind}"

    @property
    def masks(self) -> int:
        """Width of the write mask; 0 without one."""
        return self.width // self.write_bits if self.write_bits < self.width else 0

    @property
    def address_bits(self) -> int:
        """Width of an address."""
        return (self.depth - 1).bit_length()

    def columns(self, width: int) -> int:
        """Return the number of macros side by side in a memory of words of `width` bits."""
        return -(-width // self.width)

    def rows(self, words: int) -> int:
        """Return the number of macros stacked in a memory of `words` words."""
        return -(-words // self.depth)

    def count(self, width: int, words: int) -> int:
        """Return the number of macros in a memory of `words` words of `width` bits."""
        return self.columns(width) * self.rows(words)


WRITE_BITS = 8
"""Data bits per bit of the write mask of the sky130 macros."""
SKY130 = tuple(SramMacro(macro.name, macro.width, macro.depth, WRITE_BITS) for macro in MACROS["sky130"])
"""OpenRAM macros with published figures; they have one write and one read port."""

FORM = re.compile(r"(?P<name>\w+):(?P<width>\d+)x(?P<depth>\d+)(?:/(?P<write>\d+))?", re.ASCII)


def choose_macro(text: str, unit: SoftmaxUnit) -> SramMacro:
    """Return the macro for the memories of a unit.

    Args:
        text: "sky130" for the macro of `SKY130` that needs the fewest bits in total; the name of one of them; or
            `NAME:WIDTHxDEPTH`, followed by `/BITS` if each bit of its write mask covers BITS bits.
        unit: whose memories are composed.

    Raises:
        ValueError: the text describes no macro, or the unit has no memories.
    """
    if not unit.memories:
        raise ValueError(
            f"SRAM macros are for units with row memories; this unit of {unit.spec.method} has storage {unit.storage!r}"
            + ("; use --storage memory" if "memory" in unit.spec.storages else " and buffers no rows")
        )
    memories = [unit.signature.members[name].signature for name in unit.memories]

    def bits(macro: SramMacro) -> int:
        return macro.width * macro.depth * sum(macro.count(memory.width, memory.depth) for memory in memories)

    named = {macro.name: macro for macro in SKY130}
    if text == "sky130":
        return min(SKY130, key=bits)
    return named[text] if text in named else read_macro(text, [*named, "sky130"])


def read_macro(text: str, names: Sequence[str]) -> SramMacro:
    """Parse `NAME:WIDTHxDEPTH`, with or without `/BITS`.

    Args:
        text: to parse.
        names: valid alternatives to suggest in the error message.

    Raises:
        ValueError: the text has another form, or the sizes are not those of a macro.
    """
    form = FORM.fullmatch(text)
    if form is None:
        raise ValueError(f"an SRAM macro is sky130 or NAME:WIDTHxDEPTH[/BITS], not {text!r}; {suggestion(text, names)}")
    check_name(form["name"], "macro")
    width, depth = int(form["width"]), int(form["depth"])
    write = int(form["write"] or width)
    if not width or depth < 2 or depth & (depth - 1):
        raise ValueError(f"an SRAM macro is 1 bit wide or more and 2, 4, 8, ... words deep, not {width}x{depth}")
    if not write or width % write:
        raise ValueError(f"a bit of an SRAM macro's write mask covers a divisor of its {width} bits, not {write}")
    return SramMacro(form["name"], width, depth, write)
