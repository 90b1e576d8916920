"""The sizes of an attention engine."""

from __future__ import annotations

from dataclasses import dataclass

from softmaxkit.blocks.stream import beats
from softmaxkit.engine.limits import LARGEST


@dataclass(frozen=True)
class EngineSizes:
    """The sizes of an engine.

    Args:
        rows: keys processed in parallel: the lanes of the unit, and the rows of each multiplier array.
        columns: channels processed in parallel; a divisor of `channels`.
        channels: of a query, key, value and output.
        max_keys: capacity of each buffer, in keys.

    Raises:
        ValueError: sizes that cannot be built.
    """

    rows: int
    columns: int
    channels: int
    max_keys: int

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} of an engine is a whole number from 1 to {most}, not {value!r}")
        if self.channels % self.columns:
            raise ValueError(f"columns of an engine divide its {self.channels} channels, not {self.columns}")

    @property
    def steps(self) -> int:
        """Cycles of an array per beat of `rows` keys."""
        return self.channels // self.columns

    @property
    def words(self) -> int:
        """Number of words in a buffer."""
        return beats(self.max_keys, self.rows) * self.steps

    @property
    def word_bits(self) -> int:
        """Width of a buffer word: 8-bit codes of `rows` keys, `columns` channels each."""
        return 8 * self.rows * self.columns

    @property
    def address_bits(self) -> int:
        """Width of the address of a word in one buffer."""
        return max((self.words - 1).bit_length(), 1)

    def beats(self, attended: int) -> int:
        """Return the number of beats of a row that attends to `attended` keys; 1 if it attends to none."""
        return max(beats(min(attended, self.max_keys), self.rows), 1)
