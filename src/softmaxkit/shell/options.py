"""Which parts of the shell to build, and which go together with a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from softmaxkit.suggestions import suggestion

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit

MOST_TAGS = 256

SLICED = ("scores", "results", "both")
"""Streams between shell and unit that may have a register slice."""


@dataclass(frozen=True)
class ShellOptions:
    """Parts of a shell; what is not asked for is not built.

    Attributes:
        keep: `tkeep` in and out: positions whose bytes are not kept are no part of their row.
        row_length: rows have the length of a number, and causal masks come from an offset, in place of `tlast` and
            mask bits at the input.
        status: errors that stay until they are cleared, `busy`, counts of saturated scores and results, an interrupt.
        axi_lite: an AXI4-Lite port for all numbers, and for the constants of a loadable unit.
        read_back: loadable constants can be read back, from a copy in the shell, which also loads them.
        tags: number of tags, `tid`, that rows carry through; 0 for none. In a unit with several sets of constants, tag
            t takes set t, and tags beyond the last set take set 0. With `axi_lite` and a loadable unit of one set, tags
            have constants of their own in the copy, from which the unit is loaded anew for another tag.
        register_slice: streams between shell and unit that a full register slice cuts, of `SLICED`: their valid, ready
            and payload are registers, for a cycle each; "" for none.
    """

    keep: bool = False
    row_length: bool = False
    status: bool = False
    axi_lite: bool = False
    read_back: bool = False
    tags: int = 0
    register_slice: str = ""

    @property
    def any(self) -> bool:
        """Is there anything to build?"""
        return self != ShellOptions()

    @property
    def tag_bits(self) -> int:
        """Width of `tid`."""
        return max((self.tags - 1).bit_length(), 1) if self.tags else 0

    def has_slice(self, stream: str) -> bool:
        """Is there a register slice in a stream?"""
        return self.register_slice in (stream, "both")

    @property
    def slices(self) -> int:
        """How many register slices there are."""
        return self.has_slice("scores") + self.has_slice("results")

    def has_copy(self, unit: SoftmaxUnit) -> bool:
        """Does the shell hold a copy of the constants: to be read back, or one a tag where the unit has one set?"""
        return self.axi_lite and unit.registers is not None and bool(self.read_back or (self.tags and unit.sets == 1))

    def check(self, unit: SoftmaxUnit) -> None:
        """Refuse options that do not go together or not with a unit.

        Raises:
            ValueError: which, and what would.
        """
        if self.tags and not 2 <= self.tags <= MOST_TAGS:
            raise ValueError(
                f"there are 2 to {MOST_TAGS} tags, not {self.tags}; leave them out where all rows are alike"
            )
        if self.register_slice and self.register_slice not in SLICED:
            raise ValueError(
                f"a register slice is in {', '.join(SLICED)}, not {self.register_slice!r}; "
                f"{suggestion(self.register_slice, SLICED)}"
            )
        if self.read_back and not self.axi_lite:
            raise ValueError("constants are read back through AXI4-Lite, which is not asked for (--axi-lite)")
        if self.read_back and unit.registers is None:
            raise ValueError(f"this unit of {unit.spec.method} has no loadable constants to read back")
        if self.axi_lite and not (self.row_length or self.status or unit.registers is not None):
            raise ValueError(
                f"this unit of {unit.spec.method} has no loadable constants, so AXI4-Lite has nothing to say; add the "
                "row length or the status (--row-length, --status), or leave it out"
            )
        if unit.sets > 1 and not self.tags:
            raise ValueError(
                f"rows choose among the {unit.sets} sets of constants of the unit by their tags; give the shell as "
                f"many (--tags {unit.sets}), or leave the sets out"
            )
        if unit.masks != 1:
            raise ValueError("the shell takes units of one mask bit a lane, not those whose halves work apart")
