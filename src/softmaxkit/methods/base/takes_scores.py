"""What every component has in common whose input is scores."""

from __future__ import annotations

from amaranth.hdl import Module, Shape, Value
from amaranth.lib import wiring

from softmaxkit.blocks.requantise import round_places, saturate_to
from softmaxkit.methods.base.spec import Spec


class TakesScores(wiring.Component):
    """Base of the components whose input is a method's score codes.

    Attributes:
        spec: the spec.
        conversion_cycles: 1 if the product that `score_code` converts is registered first, since the conversion takes a
            cycle of its own; 0 if it follows the multiplier in the same cycle.
    """

    spec: Spec
    conversion_cycles = 0

    @property
    def code_shape(self) -> Shape:
        """Shape of a score code: signed, `spec.score_bits` wide."""
        return Shape(self.spec.score_bits, signed=True)

    def score_code(self, m: Module, name: str, product: Value, places: int) -> Value:
        """Build the logic of `Spec.scores_of`; return the score code of a signed product."""
        return saturate_to(m, name, round_places(m, f"{name}_rounded", product, places), self.code_shape)

    def refused_cycles(self, length: int, spacing: int) -> int:
        """Return the cycles for which backpressure delays the last scores of a row; 0 in most units.

        Args:
            length: number of scores in the row; the previous row is no longer than this.
            spacing: cycles from one beat of scores to the next.
        """
        return 0
