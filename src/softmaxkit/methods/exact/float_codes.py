"""Scores and results as codes of a small float, where other methods have fixed point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from array_api_compat import array_namespace

from softmaxkit.formats import Array, Float
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.spec import Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FloatCodes(Spec):
    """Base of a spec whose score and result codes are the bit patterns of `format`."""

    format: Float

    @property
    def score_bits(self) -> int:
        """Width of a score code in bits."""
        return self.format.bits

    def code_range(self) -> tuple[int, int]:
        """Return 0 and the largest bit pattern."""
        return 0, (1 << self.format.bits) - 1

    def score_range(self) -> tuple[int, int]:
        """Return the codes of the most negative and the largest number."""
        lowest, highest = self.format.encode(np.array([-self.format.largest, self.format.largest]))
        return int(lowest), int(highest)

    def encode(self, scores: Array, constants: Constants) -> Array:
        """Encode real scores in the float format."""
        return self.format.encode(scores)

    def score_values(self, codes: Array, constants: Constants) -> NDArray[np.float64]:
        """Decode float codes to real scores."""
        return np.asarray(self.format.decode(codes), np.float64)

    def score_limits(self, constants: Constants) -> tuple[float, float]:
        """Return the most negative and the largest number of the format."""
        return -self.format.largest, self.format.largest

    def scores_of(self, products: Array, places: int) -> Array:
        """Convert `products * 2**-places` to the nearest codes of the float format."""
        xp = array_namespace(products)
        return self.format.join(products < 0, xp.abs(products), xp.full_like(products, -places))

    def _decode(self, codes: Array, constants: Any) -> Array:
        """Decode float codes to probabilities.

        Raises:
            ValueError: a code is out of range.
        """
        largest = (1 << self.format.bits) - 1
        outside = (codes < 0) | (codes > largest)
        if array_namespace(codes).any(outside):
            raise ValueError(f"codes of {self.format} must be from 0 to {largest}, got {int(codes[outside][0])}")
        return self.format.decode(codes)
