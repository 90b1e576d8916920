"""Options of the shell, and which of them can be combined with each other and with a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from softmaxkit.suggestions import suggestion

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit

MAX_TAGS = 256

SLICED = ("scores", "results", "both")
"""Streams between shell and unit that can have a register slice."""


@dataclass(frozen=True)
class ShellOptions:
    """Parts of a shell; only the selected ones are built.

    Attributes:
        keep: `tkeep` at input and output: positions whose bytes are not all kept are not part of their row.
        row_length: a parameter sets the length of rows, and an offset their causal mask, in place of `tlast` and mask
            bits at the input.
        status: sticky error flags, `busy`, counts of saturated scores and results, and an interrupt.
        axi_lite: an AXI4-Lite port to all parameters and status, and to the constants of a loadable unit.
        read_back: loadable constants can be read back from a copy in the shell, from which the unit is loaded.
        tags: number of tags that rows can carry as `tid`; 0 for none. In a unit with several sets of constants, tag t
            selects set t, and tags beyond the last set select set 0. With `axi_lite` and a loadable unit with one set,
            the shell stores constants for each tag and reloads the unit when the tag changes.
        register_slice: streams between shell and unit, one of `SLICED`, that get a full register slice, which
            registers valid, ready and payload and adds one cycle; "" for none.
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
        """Whether any part is selected."""
        return self != ShellOptions()

    @property
    def tag_bits(self) -> int:
        """Width of `tid`."""
        return max((self.tags - 1).bit_length(), 1) if self.tags else 0

    def has_slice(self, stream: str) -> bool:
        """Return whether a stream has a register slice."""
        return self.register_slice in (stream, "both")

    @property
    def slices(self) -> int:
        """Number of register slices."""
        return self.has_slice("scores") + self.has_slice("results")

    def has_copy(self, unit: SoftmaxUnit) -> bool:
        """Return whether the shell stores the constants: for read-back, or a set per tag for a unit with one set."""
        return self.axi_lite and unit.registers is not None and bool(self.read_back or (self.tags and unit.sets == 1))

    def check(self, unit: SoftmaxUnit) -> None:
        """Refuse options that conflict with each other or with a unit.

        Raises:
            ValueError: the conflict, and how to resolve it.
        """
        if self.tags and not 2 <= self.tags <= MAX_TAGS:
            raise ValueError(
                f"the number of tags is from 2 to {MAX_TAGS}, not {self.tags}; leave --tags out if rows need none"
            )
        if self.register_slice and self.register_slice not in SLICED:
            raise ValueError(
                f"a register slice is for {', '.join(SLICED)}, not {self.register_slice!r}; "
                f"{suggestion(self.register_slice, SLICED)}"
            )
        if self.read_back and not self.axi_lite:
            raise ValueError("reading constants back needs AXI4-Lite; add --axi-lite or leave --read-back out")
        if self.read_back and unit.registers is None:
            raise ValueError(f"this unit of {unit.spec.method} has no loadable constants to read back")
        if self.axi_lite and not (self.row_length or self.status or unit.registers is not None):
            raise ValueError(
                f"this unit of {unit.spec.method} has no loadable constants, so AXI4-Lite would control nothing; "
                "add --row-length or --status, or leave --axi-lite out"
            )
        if unit.sets > 1 and self.tags < unit.sets:
            raise ValueError(
                f"rows select one of the {unit.sets} sets of constants of the unit by their tags, of which there are "
                f"{self.tags or 'none'}; add --tags {unit.sets} or leave --sets out"
            )
        if unit.masks != 1:
            raise ValueError("the shell supports one mask bit per lane, not units whose halves work apart")
