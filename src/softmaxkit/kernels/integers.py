"""The integers of golden for rows of scores, by native kernels: tables in, real scores in, decoded probabilities out.

A kernel encodes scores as `Spec.encode` does, computes what `Spec.golden` computes, and decodes as `Spec.decode` does,
equal in every bit, row by row. What is nonlinear comes from tables that golden has filled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from torch import Tensor

from softmaxkit.formats import Rounding
from softmaxkit.kernels.launch import loaded, run
from softmaxkit.tables import GUARD_BITS, Reciprocal

WORD_BITS, LANE_BITS = 60, 28
"""Bits that numbers may have where kernels shift and round them: in 64 bits, and in vectors of 32-bit lanes."""


@dataclass(frozen=True, eq=False)
class IntegerKernel(ABC):
    """What a native kernel needs to compute golden of one spec and its constants."""

    name: ClassVar[str]

    def __call__(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return decoded probabilities, float32; as the integer mode of `SoftmaxModule`, NaN and infinities too.

        Args:
            scores: floating on the CPU, (..., keys), taken as float32; (..., heads, queries, keys) where heads differ.
            mask: boolean, True where attended, broadcasts to the scores.

        Raises:
            RuntimeError: no kernels are built.
            TypeError, ValueError: scores or a mask of another kind, or that do not fit.
        """
        return run(f"integer_{self.name}", scores.float(), mask, False, *self._parameters(loaded()))

    @abstractmethod
    def _parameters(self, kernels: ModuleType) -> tuple[Any, ...]:
        """Return the tables as the native module takes them."""


@dataclass(frozen=True, eq=False)
class ExactKernel(IntegerKernel):
    """Exact softmax in a small float.

    Attributes:
        mantissa_bits, smallest, largest: of the format.
        farthest: the distance to the maximum from which on exponentials are 0.
        exponentials: int32, of the distance 0 and of all numbers of the format from `smallest` to `farthest`, in whole
            steps of its finest spacing.
        significands, shifts: int32, the same as `significand * 2**-(mantissa_bits + 1 + shift)`.
        slice_width: of the online schedule; 0 for three passes.
        reciprocal: of the sum.
    """

    name = "exact"

    mantissa_bits: int
    smallest: float
    largest: float
    farthest: float
    exponentials: Tensor
    significands: Tensor
    shifts: Tensor
    slice_width: int
    reciprocal: Reciprocal

    def _parameters(self, kernels: ModuleType) -> tuple[Any, ...]:
        tables = (table.data_ptr() for table in (self.exponentials, self.significands, self.shifts))
        reciprocal = _reciprocal(kernels, self.reciprocal)
        sizes = (self.mantissa_bits, self.smallest, self.farthest, self.largest)
        return (kernels.IntegerExact(*sizes, *tables, self.slice_width, reciprocal),)


@dataclass(frozen=True, eq=False)
class ConsmaxKernel(IntegerKernel):
    """ConSmax, whose probabilities hang on the score's code alone.

    Attributes:
        scales: real score scales, one or one a head.
        lowest, highest: codes that scores saturate to.
        probabilities: float32, (heads, codes), the lowest code first.
    """

    name = "consmax"

    scales: tuple[float, ...]
    lowest: int
    highest: int
    probabilities: Tensor

    def __call__(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return decoded probabilities, as `IntegerKernel`; NaN only where a score is."""
        heads = len(self.scales)
        if heads > 1 and (scores.ndim < 3 or scores.shape[-3] != heads):
            raise ValueError(f"scores are (..., {heads}, queries, keys), not {tuple(scores.shape)}")
        return super().__call__(scores, mask)

    def _parameters(self, kernels: ModuleType) -> tuple[Any, ...]:
        table = self.probabilities.data_ptr()
        return (kernels.IntegerConsmax(self.scales, self.lowest, self.highest, table),)


@dataclass(frozen=True, eq=False)
class SoftermaxKernel(IntegerKernel):
    """Softermax, slice by slice.

    Attributes:
        scale, lowest, highest: real score scale, and the codes that scores saturate to.
        fraction_bits: of the input.
        ceil: are whole maxima rounded up?
        rounding: of all the rest.
        powers: int32, a 0, then the powers of scores less a whole maximum, for codes from `least_difference` on.
        least_difference: see there.
        slice_width: positions that are summed together.
        sum_places: fraction bits that powers have more than their sum.
        sum_limit: largest code of the sum.
        reciprocal: of the sum.
        places: fraction bits that power * mantissa has more than the output, the reciprocal's exponent apart.
        limit: largest output code.
        step: of the output.
        narrow: do products fit 32-bit lanes?
    """

    name = "softermax"

    scale: float
    lowest: int
    highest: int
    fraction_bits: int
    ceil: bool
    rounding: Rounding
    powers: Tensor
    least_difference: int
    slice_width: int
    sum_places: int
    sum_limit: int
    reciprocal: Reciprocal
    places: int
    limit: int
    step: float
    narrow: bool

    def _parameters(self, kernels: ModuleType) -> tuple[Any, ...]:
        tables = kernels.IntegerSoftermax(
            *(self.scale, self.lowest, self.highest, self.fraction_bits, self.ceil, self.rounding == "nearest"),
            *(self.powers.data_ptr(), self.least_difference, self.slice_width, self.sum_places, self.sum_limit),
            _reciprocal(kernels, self.reciprocal, self.rounding),
            *(self.places, self.limit, self.step),
        )
        return tables, self.narrow


@dataclass(frozen=True, eq=False)
class ExaqKernel(IntegerKernel):
    """EXAQ with 4, 8 or 16 levels.

    Attributes:
        scale, lowest, highest: as `SoftermaxKernel`.
        thresholds: ascending, the least difference to the highest code of each level but the lowest.
        exponentials: of the levels.
        reciprocal, places, limit, step: as `SoftermaxKernel`.
    """

    name = "exaq"

    scale: float
    lowest: int
    highest: int
    thresholds: tuple[int, ...]
    exponentials: tuple[int, ...]
    reciprocal: Reciprocal
    places: int
    limit: int
    step: float

    def _parameters(self, kernels: ModuleType) -> tuple[Any, ...]:
        scores = (self.scale, self.lowest, self.highest)
        tables = (self.thresholds, self.exponentials, _reciprocal(kernels, self.reciprocal))
        return (kernels.IntegerExaq(*scores, *tables, self.places, self.limit, self.step),)


def _reciprocal(kernels: ModuleType, reciprocal: Reciprocal, rounding: Rounding = "nearest") -> Any:
    table = reciprocal.table
    sizes = (table.input_bits, table.rest_bits, GUARD_BITS)
    return kernels.Reciprocal(table.offsets, table.slopes, *sizes, rounding == "nearest")
