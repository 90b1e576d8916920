"""How long the passes of the one adder are that computes a row's results serially, and when that is fast enough."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from amaranth.hdl import Value

from softmaxkit.blocks.stream import beats
from softmaxkit.methods.exaq.spec import Exaq
from softmaxkit.tables import GUARD_BITS

LANES = 2
"""Most lanes at which results are computed serially; with more, buffering levels meanwhile costs what this saves."""
DIGITS = (1, 2)
"""Candidate numbers of bits per cycle, the fewest first."""


@dataclass(frozen=True)
class Passes:
    """Lengths of the adder's passes.

    The first pass interpolates along a line of the reciprocal's table, after the sum has been normalised to its leading
    one; then one pass per level computes a product. A pass adds an operand for each set bit of a multiplier, lowest bit
    first, and shifts the sum down by one place per bit; its last cycle rounds. Shifting operands up beforehand makes a
    pass longer.

    Args:
        spec: the spec.
        sum_bits: width of a row's sum, which is at least 1.0 unless the row is fully masked.
        digit: bits per cycle.
    """

    spec: Exaq
    sum_bits: int
    digit: int

    @property
    def shifts(self) -> int:
        """Largest number of cycles to normalise a sum to its leading one."""
        return self.sum_bits - 1 - self.spec.exponential.fraction_bits

    @property
    def ends(self) -> list[int]:
        """Values at the ends of the line segments."""
        table = self.spec.reciprocal_table.table
        return [offset + slope for offset, slope in zip(table.offsets, table.slopes, strict=True)]

    @property
    def line_zeros(self) -> int:
        """Places by which the rest along a line is shifted up, so that the pass covers all bits of `ends`."""
        return self.digit * self.line_cycles - self._line_places

    @property
    def line_cycles(self) -> int:
        """Cycles of the pass along a line, excluding its rounding."""
        return -(-max(self._line_places, max(self.ends).bit_length()) // self.digit)

    @property
    def product_zeros(self) -> int:
        """Places by which the mantissa is shifted up, so that the pass covers all bits of an exponential."""
        return self.digit * self.product_cycles - self._product_places

    @property
    def product_cycles(self) -> int:
        """Cycles of the pass of a product, excluding its rounding."""
        return -(-max(self._product_places, self.shifts + self.spec.exponential.bits) // self.digit)

    @property
    def cycles(self) -> int:
        """Cycles from accepting a sum to returning its results, and to accepting the next sum."""
        return 1 + self.shifts + self.line_cycles + 1 + self.spec.levels * (self.product_cycles + 1)

    @property
    def _line_places(self) -> int:
        return self.spec.reciprocal_table.table.rest_bits + GUARD_BITS

    @property
    def _product_places(self) -> int:
        return self.shifts + self._least_places

    @property
    def _least_places(self) -> int:
        spec = self.spec
        return spec.exponential.fraction_bits + spec.reciprocal.fraction_bits - spec.output.fraction_bits

    def result_bits(self, exponential: int | Value) -> int:
        """Width of the results of a level, in bits, for its constant exponential or register."""
        output = self.spec.output
        if not isinstance(exponential, int):
            return output.bits
        largest = Fraction(exponential << self.spec.reciprocal.fraction_bits) / Fraction(2) ** self._least_places
        return max(min(round(largest), output.max_code).bit_length(), 1)


def choose_passes(spec: Exaq, sum_bits: int, lanes: int, max_row: int) -> Passes | None:
    """Return the slowest passes that complete within the longest row; None where multipliers are used instead."""
    candidates = [Passes(spec, sum_bits, digit) for digit in DIGITS]
    fitting = [passes for passes in candidates if lanes <= LANES and passes.cycles <= beats(max_row, lanes)]
    return fitting[0] if fitting else None
