"""The integers of a spec around an attention engine: those before and after it, and a division after the products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from softmaxkit.formats import Array, Fixed
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.deferred import DeferredRows
from softmaxkit.methods.base.integers import Integers
from softmaxkit.rounding import shift_right

if TYPE_CHECKING:
    from softmaxkit.methods.base.deferred_unit import DeferredUnit


class EngineIntegers(Integers):
    """The defaults are for scores and results in fixed point, and for a division before the weighted sum."""

    def scores_of(self, products: Array, places: int) -> Array:
        """Convert `products * 2**-places`, in units of the score scale, to the nearest score codes.

        Args:
            products: int64, any shape, magnitude below 2**61.
            places: number of fraction bits, 0 or more.
        """
        return Fixed(self.score_bits, 0).saturate(shift_right(products, places))

    def weights(self, codes: Array) -> Array:
        """Convert result codes to the unsigned fixed-point weights of the values; the identity by default."""
        return codes

    def weight_step(self, constants: Constants) -> float:
        """Return the probability that a weight of 1 represents."""
        return float(self.decode(np.ones(1, np.int64), constants)[0])

    @property
    def divides_last(self) -> bool:
        """Whether `deferred_unit` exists: hardware that divides after the weighted sum."""
        return False

    def sliced_for(self, lanes: int) -> Self:
        """Return this spec with slices of whole beats of `lanes`; `self` if it has no slices, or wide enough ones."""
        return self

    def deferred(self, codes: Array, mask: Array | None, constants: Constants) -> DeferredRows:
        """Compute the integers of rows with deferred division, exactly as `deferred_unit` does.

        Args:
            codes: score codes, integers of any width, (..., keys), at least one key.
            mask: boolean, broadcasts to the codes.
            constants: constants built by this spec.

        Raises:
            TypeError, ValueError: as in `golden`; or there are no keys, or the spec does not support deferred division.
        """
        codes = self._checked(codes, mask, constants)
        if codes.shape[-1] == 0:
            raise ValueError(
                "deferred division requires at least one key, got codes of shape " + str(tuple(codes.shape))
            )
        return self._deferred(codes, mask, constants)

    def _deferred(self, codes: Array, mask: Array | None, constants: Any) -> DeferredRows:
        """Compute `deferred` on checked int64 codes."""
        raise ValueError(self._without_deferred())

    def deferred_unit(self, lanes: int, **sizes: Any) -> DeferredUnit:
        """Return the hardware of `deferred`, whose division comes after the weighted sum.

        Args:
            lanes: scores per cycle.
            sizes: `max_row`, `depth` and `storage`, as in `unit`; `pace`, the number of cycles for which the consumer
                of the weights is busy with one beat.

        Raises:
            ValueError: the method has no form with deferred division, or the sizes cannot be built.
        """
        raise ValueError(self._without_deferred())

    def _without_deferred(self) -> str:
        return f'{self.name} has no hardware that divides after the weighted sum; leave out pipeline="deferred"'
