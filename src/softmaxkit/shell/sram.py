"""SRAM macros that the row memories of a unit are made of: side by side, one behind the other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softmaxkit.flow.sram import MACROS
from softmaxkit.suggestions import suggestion

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit


@dataclass(frozen=True)
class SramMacro:
    """A macro with the ports of OpenRAM's `1rw1r`: 0 reads and writes, 1 reads.

    Its output is valid from the second half of the cycle after a read until that cycle ends.

    Attributes:
        name: of its module.
        width: bits of a word.
        depth: number of words, a power of 2.
        write_bits: bits that its write mask has a bit for; as many as its width where it has no mask.
    """

    name: str
    width: int
    depth: int
    write_bits: int

    @property
    def masks(self) -> int:
        """Bits of the write mask; 0 where there is none."""
        return self.width // self.write_bits if self.write_bits < self.width else 0

    @property
    def address_bits(self) -> int:
        """Width of an address."""
        return (self.depth - 1).bit_length()

    def count(self, width: int, words: int) -> int:
        """Return how many make up a memory."""
        return -(-width // self.width) * -(-words // self.depth)


WRITE_BITS = 8
"""Bits for which a macro of sky130 has a bit of its write mask."""
SKY130 = tuple(SramMacro(macro.name, macro.width, macro.depth, WRITE_BITS) for macro in MACROS["sky130"])
"""Those with published figures; they have a port to write and one to read."""

FORM = re.compile(r"(?P<name>[A-Za-z_]\w*):(?P<width>\d+)x(?P<depth>\d+)(?:/(?P<write>\d+))?")


def choose_macro(text: str, unit: SoftmaxUnit) -> SramMacro:
    """Return the macro for the memories of a unit.

    Args:
        text: "sky130", for that of `SKY130` of which the fewest bits are needed; the name of one of them; or
            `NAME:WIDTHxDEPTH`, with `/BITS` behind it where its write mask has a bit for so many.
        unit: whose memories they are.

    Raises:
        ValueError: the text names none, or the unit has no memories.
    """
    if not unit.memories:
        raise ValueError(
            f"SRAM macros are for units whose rows wait in memories; this one of {unit.spec.method} has storage "
            f"{unit.storage!r}" + (", take --storage memory" if "memory" in unit.spec.storages else " and no rows wait")
        )
    memories = [unit.signature.members[name].signature for name in unit.memories]

    def bits(macro: SramMacro) -> int:
        return macro.width * macro.depth * sum(macro.count(each.width, each.depth) for each in memories)

    named = {macro.name: macro for macro in SKY130}
    if text == "sky130":
        return min(SKY130, key=bits)
    return named[text] if text in named else read_macro(text, [*named, "sky130"])


def read_macro(text: str, names: Sequence[str]) -> SramMacro:
    """Read `NAME:WIDTHxDEPTH`, with or without `/BITS`; `names` are what else might have been meant.

    Raises:
        ValueError: it is none.
    """
    form = FORM.fullmatch(text)
    if form is None:
        raise ValueError(f"an SRAM macro is sky130 or NAME:WIDTHxDEPTH[/BITS], not {text!r}; {suggestion(text, names)}")
    width, depth = int(form["width"]), int(form["depth"])
    write = int(form["write"] or width)
    if not width or depth < 2 or depth & (depth - 1):
        raise ValueError(f"an SRAM macro has 1 bit or more and a power of 2 of words, 2 or more, not {width}x{depth}")
    if not write or width % write:
        raise ValueError(f"the write mask of an SRAM macro has a bit for a divisor of its {width} bits, not {write}")
    return SramMacro(form["name"], width, depth, write)
