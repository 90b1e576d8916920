"""The spec of exact softmax, the FP16 baseline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from softmaxkit.formats import FP16, UQ, Array, Fixed, Float
from softmaxkit.masks import exact_softmax
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.deferred import DeferredRows
from softmaxkit.methods.base.fields import check_slice_width
from softmaxkit.methods.base.published import Published, consmax_paper
from softmaxkit.methods.base.spec import Dataflow, Training
from softmaxkit.methods.exact.bounds import error_bound
from softmaxkit.methods.exact.float_codes import FloatCodes
from softmaxkit.tables import (
    PiecewiseLinear,
    Reciprocal,
    fit,
    inverse_power_series,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from softmaxkit.methods.base.deferred_unit import DeferredUnit
    from softmaxkit.methods.base.forms import Form
    from softmaxkit.methods.base.online import OnlineSoftmax
    from softmaxkit.methods.exact.module import ExactModule

WEIGHT: Fixed = UQ(0, 8)
"""Format of a result or an exponential as the weight of an 8-bit value: 1 saturates to 255/256."""
MAX_DEGREE = 5
"""Highest degree of a Taylor series: even with one segment its error is below half an ulp of FP16."""
ROOM_BITS = 4
"""Extra fraction bits of the fixed-point argument of exp, beyond the mantissa bits of the format."""


@dataclass(frozen=True)
class Exact(FloatCodes):
    """Exact softmax in a small float: maximum, subtraction, exp within 1 ulp, exact sum, reciprocal and product.

    Args:
        format: format of scores, exponentials and results. Exponentials are multiples of
            `smallest * 2**-mantissa_bits`, so their sum is exact and does not depend on the order of keys.
        schedule: "three-pass" finds the maximum of the row first; "online" uses the running maximum and rescales the
            sum, slice by slice. Their integers differ.
        slice_width: number of consecutive positions in one step of the online schedule; does not depend on a unit's
            lanes.
        exponential_segments: number of segments (lines or series) of 2**-x for x in [0, 1); a power of two.
        reciprocal_segments: number of line segments of 1/x for x in [1, 2); a power of two.
        taylor_degree: degree of the Taylor series about the start of each segment, 1 to 5; 0 interpolates linearly
            between the ends.

    Raises:
        ValueError: the exact sum of the format does not fit 64-bit integers, or a size is not supported.
    """

    method: ClassVar[str] = "exact"
    title: ClassVar[str] = "Exact"
    summary: ClassVar[str] = "softmax itself: online in software, FP16 with an exact sum in hardware"
    source: ClassVar[str] = "Milakov & Gimelshein 2018, arXiv 1805.02867"
    trained: ClassVar[Training] = "from scratch"
    colour: ClassVar[str] = "#7d8791"
    dataflow: ClassVar[Dataflow] = "deferred"
    published: ClassVar[tuple[Published, ...]] = consmax_paper(
        "softmax (FP16, DesignWare)",
        ("16 nm", "commercial", 909, 0.011, 1.5, 1.5),
        ("130 nm", "commercial", 286, 0.18, 51, 178.5),
        ("16 nm", "open", 500, 0.011, 10.2, 2.7),
        ("sky130", "open", 88, 0.2, 42.2, 255.3),
    )

    format: Float = FP16
    schedule: Literal["three-pass", "online"] = "three-pass"
    slice_width: int = 16
    exponential_segments: int = 64
    reciprocal_segments: int = 64
    taylor_degree: int = 0

    def __post_init__(self) -> None:
        self._check_fields()
        if self.format.exponent_bits not in (4, 5) or self.format.mantissa_bits > 12:
            raise ValueError(
                "Exact.format must have 4 or 5 exponent bits, for the range of exp, and at most 12 mantissa bits, so "
                f"that its sum is exact in 64-bit integers, got {self.format}; FP16 is Float(5,10)"
            )
        check_slice_width(self, self.slice_width)
        if not 0 <= self.taylor_degree <= MAX_DEGREE:
            raise ValueError(
                f"Exact.taylor_degree must be from 1 to {MAX_DEGREE}, or 0 for lines, got {self.taylor_degree}"
            )
        _ = self.exponential, self.reciprocal.table  # checks the segment counts

    @property
    def sum_fraction_bits(self) -> int:
        """Fraction bits with which all exponentials, and so the sum, are exact: 24 for FP16."""
        return self.format.mantissa_bits - self.format.min_exponent

    @property
    def argument_bits(self) -> int:
        """Fraction bits of the fixed-point argument of exp: 14 for FP16."""
        return self.format.mantissa_bits + ROOM_BITS

    @property
    def log2e(self) -> tuple[int, int]:
        """log2(e) as `(code, fraction bits)`."""
        bits = self.argument_bits + ROOM_BITS
        return round(np.log2(np.e) * 2**bits), bits

    @cached_property
    def exponential(self) -> PiecewiseLinear:
        """Table of 2**-x for x in [0, 1), as a significand of the format."""
        sizes = self.exponential_segments, self.argument_bits, self.format.mantissa_bits + 1
        return (
            inverse_power_series(self.taylor_degree, *sizes) if self.taylor_degree else fit(lambda x: 2.0**-x, *sizes)
        )

    @property
    def bends(self) -> int:
        """Number of evaluation steps of a Taylor series beyond that of a line; 0 for lines."""
        return len(self.exponential.curves)

    @property
    def reciprocal(self) -> Reciprocal:
        """Table of the reciprocal of the sum, as a significand of the format."""
        return Reciprocal(self.reciprocal_segments, self.format.mantissa_bits + 1)

    def reference(self, scores: ArrayLike, mask: ArrayLike | None = None, **parameters: Any) -> NDArray[np.float64]:
        """Compute softmax in float64: `exp(s - max) / sum(exp(s - max))` over the attended keys; no parameters."""
        self.check_parameters(parameters)
        return exact_softmax(scores, mask)

    def constants(self, **parameters: Any) -> Constants:
        """Return the constants: only a score scale of 1, since scores are floats."""
        self.check_parameters(parameters)
        return Constants(scale=(1, 0), form=self.constants_form)

    @property
    def training(self) -> Training:
        """How a model is prepared: the baseline from scratch; other formats and schedules reuse that model."""
        return self.trained if self.is_baseline else "calibrated"

    @property
    def is_baseline(self) -> bool:
        """Whether all fields have their defaults, which makes it the baseline for all comparisons."""
        return not self.differences()

    def weights(self, codes: Array) -> Array:
        """Convert float codes to fixed point, rounded once."""
        from softmaxkit.methods.exact.golden import fixed_point, fixed_weights

        return fixed_weights(self, fixed_point(codes, self.format))

    def weight_step(self, constants: Constants) -> float:
        """Return the probability that a weight of 1 represents."""
        return WEIGHT.resolution

    def _golden(self, codes: Array, mask: Array | None, constants: Constants) -> Array:
        """Map float codes to float codes, see `softmaxkit.methods.exact.golden`."""
        from softmaxkit.methods.exact.golden import golden

        return golden(self, codes, mask)

    @property
    def divides_last(self) -> bool:
        """Whether deferred division is supported: always, with either schedule."""
        return True

    def sliced_for(self, lanes: int) -> Self:
        """Return this spec with slices of at least `lanes` positions."""
        return replace(self, slice_width=lanes) if lanes > self.slice_width else self

    def _deferred(self, codes: Array, mask: Array | None, constants: Constants) -> DeferredRows:
        """Compute rows with deferred division, see `softmaxkit.methods.exact.golden`."""
        from softmaxkit.methods.exact.golden import deferred

        return deferred(self, codes, mask)

    def deferred_unit(self, lanes: int, **sizes: Any) -> DeferredUnit:
        """Return the hardware of `deferred`: exponentials relative to the running maximum, and the sum's reciprocal."""
        from softmaxkit.methods.exact.deferred import Deferred

        return Deferred(self, lanes, **sizes)

    def error_bound(
        self, codes: Array, mask: Array | None, constants: Constants, **parameters: Any
    ) -> NDArray[np.float64]:
        """Bound golden against `reference`, see `softmaxkit.methods.exact.bounds`."""
        self.check_parameters(parameters)
        return error_bound(self, self.score_values(codes, constants), mask)

    def module(self, heads: int | None = None, mode: str = "float", **parameters: Any) -> ExactModule:
        """Return the torch module; it has no learned parameters."""
        from softmaxkit.methods.exact.module import ExactModule

        self.check_parameters(parameters, function=self.module)
        return ExactModule(self, heads, mode)

    @classmethod
    def widest(cls, keys: int) -> Self:
        """Return the default spec, in FP16."""
        return cls()

    def narrower(self) -> dict[str, list[Self]]:
        """Return formats with fewer mantissa bits."""
        few = range(5, self.format.mantissa_bits)
        return {"mantissa": [replace(self, format=Float(self.format.exponent_bits, bits)) for bits in few]}

    @classmethod
    def forms(cls) -> list[Form]:
        """Return the three-pass and the online schedule."""
        from softmaxkit.methods.base.forms import Form

        return [Form("three-pass", cls()), Form("online", cls(schedule="online"), main=False)]

    def partial(self, **parameters: Any) -> OnlineSoftmax:
        """Return an empty state of online softmax."""
        from softmaxkit.methods.base.online import OnlineSoftmax

        self.check_parameters(parameters)
        return OnlineSoftmax()
