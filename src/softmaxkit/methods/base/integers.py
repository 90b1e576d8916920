"""The integers of a method: score codes, the golden model and its results, and the constants that they go with."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from array_api_compat import array_namespace

from softmaxkit.formats import Array, Fixed
from softmaxkit.masks import broadcast_mask
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.fields import Fields

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Integers(Fields):
    """What a spec does with integers and constants; a method implements `score_bits`, `_golden` and `_decode`."""

    constants_class: ClassVar[type[Constants]] = Constants
    constants_fields: ClassVar[tuple[str, ...]] = ()
    """Names of the fields on which the constants depend; specs that agree in them can share constants."""

    # Score codes.

    @property
    @abstractmethod
    def score_bits(self) -> int:
        """Width of a score code in bits."""

    def encode(self, scores: Array, constants: Constants) -> Array:
        """Encode real scores as int64 score codes: divide by the score scale, round to nearest even, saturate."""
        xp = array_namespace(scores)
        return Fixed(self.score_bits, 0).encode(xp.astype(scores, xp.float64) / constants.score_scale(scores))

    def score_range(self) -> tuple[int, int]:
        """Return the codes of the lowest and the highest score, to which out-of-range scores saturate."""
        codes = Fixed(self.score_bits, 0)
        return codes.min_code, codes.max_code

    def code_range(self) -> tuple[int, int]:
        """Return the smallest and the largest integer that is a valid score code."""
        return self.score_range()

    def score_limits(self, constants: Constants) -> tuple[Any, Any]:
        """Return the lowest and the highest real score that does not saturate; tuples with one per head if stacked."""
        scale = constants.real_scale
        low, high = (
            tuple(code * of_head for of_head in scale) if isinstance(scale, tuple) else code * scale
            for code in self.score_range()
        )
        return low, high

    def score_values(self, codes: Array, constants: Constants) -> NDArray[np.float64]:
        """Decode score codes to real scores, float64 NumPy, shape of the codes.

        Raises:
            TypeError, ValueError: as in `golden`.
        """
        self.check_constants(constants)
        self._check_codes(np.asarray(codes))
        values: NDArray[np.float64] = np.asarray(codes, np.float64) * constants.score_scale(np.asarray(codes))
        return values

    # The golden model.

    def golden(self, codes: Array, mask: Array | None, constants: Constants) -> Array:
        """Compute the golden model: integers in, integers out, exactly as in the hardware.

        Args:
            codes: score codes, integers of any width, NumPy or torch, (..., keys).
            mask: boolean, True where attended, broadcasts to the codes; None attends to all.
            constants: constants built by this spec.

        Returns:
            Result codes, int64, shape of the codes; 0 where masked.

        Raises:
            TypeError: the codes are not integers, or the constants belong to another method.
            ValueError: the codes have no axis, the mask does not broadcast, an attended code is out of range, or the
                constants have another form.
        """
        return self._golden(self._checked(codes, mask, constants), mask, constants)

    @abstractmethod
    def _golden(self, codes: Array, mask: Array | None, constants: Any) -> Array:
        """Compute the golden model on checked int64 codes."""

    def decode(self, codes: Array, constants: Constants) -> Array:
        """Convert the result codes of `golden` to float64 probabilities, exactly.

        Raises:
            TypeError: the constants belong to another method.
            ValueError: the constants have another form.
        """
        self.check_constants(constants)
        return self._decode(codes, constants)

    @abstractmethod
    def _decode(self, codes: Array, constants: Any) -> Array:
        """Decode result codes; the constants are already checked."""

    def _checked(self, codes: Array, mask: Array | None, constants: Constants) -> Array:
        """Check codes, mask and constants as documented in `golden`; return the codes as int64."""
        xp = array_namespace(codes)
        if not xp.isdtype(codes.dtype, "integral"):
            raise TypeError(f"golden requires integer codes, got {codes.dtype}; encode scores with spec.encode")
        self.check_constants(constants)
        if codes.ndim < 1:
            raise ValueError("codes must have the shape (..., keys), got a single number")
        codes = xp.astype(codes, xp.int64)
        self._check_codes(codes, mask)
        low, high = self.code_range()
        # Masked codes are arbitrary; clip them so that they stay within the tables.
        return xp.clip(codes, low, high) if mask is not None else codes

    def _check_codes(self, codes: Array, mask: Array | None = None) -> None:
        """Raise ValueError if an attended code is out of range."""
        low, high = self.code_range()
        outside = (codes < low) | (codes > high)
        if mask is not None:
            outside = outside & broadcast_mask(codes, mask)
        if array_namespace(codes).any(outside):
            wrong = int(codes[outside][0])
            raise ValueError(
                f"score codes of {type(self).__name__} must be from {low} to {high}, got {wrong}; spec.encode saturates"
            )

    # Constants.

    def check_constants(self, constants: Constants) -> None:
        """Check that constants were built by this spec, or by one with equal `constants_fields`.

        Raises:
            TypeError: they belong to another method.
            ValueError: they have another form.
        """
        if type(constants) is not self.constants_class:
            raise TypeError(
                f"{type(self).__name__} requires {self.constants_class.__name__}, got {type(constants).__name__}; "
                "build them with spec.constants(...)"
            )
        if constants.form and constants.form != self.constants_form:
            fields = ", ".join(f"{name}={getattr(self, name)}" for name in self.constants_fields)
            raise ValueError(
                f"these constants were built by a different {type(self).__name__} than the one with {fields}; build "
                "them with spec.constants(...) of this spec"
            )

    @property
    def constants_form(self) -> int:
        """Non-zero checksum of the method and its `constants_fields`, which identifies the form of the constants."""
        fields = [f"{name}={getattr(self, name)}" for name in self.constants_fields]
        return zlib.crc32("; ".join([self.method, *fields]).encode()) or 1
