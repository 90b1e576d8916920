"""The spec of Softermax: all formats, table sizes and roundings, with the paper's as defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from softmaxkit.formats import UQ, Array, Fixed, Q
from softmaxkit.masks import exact_softmax
from softmaxkit.methods.base.constants import Constants, encode_scale
from softmaxkit.methods.base.deferred import DeferredRows
from softmaxkit.methods.base.fields import check_slice_width
from softmaxkit.methods.base.format_rules import check_score_format, with_wider_scores
from softmaxkit.methods.base.published import FRONT, REST, Published, Ratio, UnitPart, consmax_paper
from softmaxkit.methods.base.spec import Dataflow, Spec, Training
from softmaxkit.methods.softermax.bounds import error_bound
from softmaxkit.tables import PiecewiseLinear, Reciprocal, power_of_two

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from softmaxkit.methods.base.deferred_unit import DeferredUnit
    from softmaxkit.methods.base.online import OnlineSoftmax
    from softmaxkit.methods.softermax.module import SoftermaxModule


@dataclass(frozen=True)
class Softermax(Spec):
    """Softermax: base-2 softmax in fixed point, slice by slice.

    Args:
        input: format of the scores and of the local maximum; signed.
        unnormalised: format of the powers of two; unsigned, with at least one integer bit.
        power_sum: format of the running sum; unsigned, with at least one integer and one fraction bit.
        reciprocal: format of the reciprocal's mantissa; `UQ(1, f)`.
        output: format of the probabilities; unsigned.
        slice_width: number of consecutive positions, masked ones included, that are summed exactly before they join the
            running sum. It affects the result, and does not depend on a unit's lanes.
        maximum: "online", a running maximum over the slices; "global", the row's maximum first and then one exact sum,
            which does not depend on the order of keys.
        integer_maximum: rounding of the maximum: with "ceil" the powers are in (0, 1], with "floor" in (0, 2).
        power_segments: number of line segments of 2**x for x in [0, 1); a power of two, at most
            2**input.fraction_bits.
        reciprocal_segments: number of line segments of 1/x for x in [1, 2); a power of two.
        rounding: rounding of each shift and product, "nearest" or "floor".
        log2e: fold log2(e) into the score scale, to approximate softmax to base e without fine-tuning.

    Raises:
        ValueError: a format or size is not supported.
    """

    method: ClassVar[str] = "softermax"
    title: ClassVar[str] = "Softermax"
    summary: ClassVar[str] = "base 2, integer running maximum, low-precision fixed point; fine-tuned"
    source: ClassVar[str] = "Stevens et al. 2021, arXiv 2103.09301"
    trained: ClassVar[Training] = "fine-tuned"
    colour: ClassVar[str] = "#d55e00"
    constants_fields: ClassVar[tuple[str, ...]] = ("input", "log2e")
    dataflow: ClassVar[Dataflow] = "deferred"
    published: ClassVar[tuple[Published, ...]] = consmax_paper(
        "Softermax",
        ("16 nm", "commercial", 1111, 0.0022, 0.67, 0.7),
        ("130 nm", "commercial", 333, 0.029, 8.5, 25.5),
        ("16 nm", "open", 1000, 0.0019, 2.82, 1.4),
        ("sky130", "open", 143, 0.033, 10.5, 73.5),
    )

    input: Fixed = Q(6, 2)
    unnormalised: Fixed = UQ(1, 15)
    power_sum: Fixed = UQ(10, 6)
    reciprocal: Fixed = UQ(1, 7)
    output: Fixed = UQ(1, 7)
    slice_width: int = 16
    maximum: Literal["online", "global"] = "online"
    integer_maximum: Literal["ceil", "floor"] = "ceil"
    power_segments: int = 4
    reciprocal_segments: int = 8
    rounding: Literal["nearest", "floor"] = "nearest"
    log2e: bool = False

    def __post_init__(self) -> None:
        self._check_fields()
        check_score_format(self, "input")
        if self.input.fraction_bits < 0:
            raise ValueError(f"Softermax.input must have 0 fraction bits or more, as Q(6,2) does, got {self.input}")
        for name in ("unnormalised", "power_sum", "reciprocal", "output"):
            number: Fixed = getattr(self, name)
            if number.signed or number.fraction_bits < 1 or number.integer_bits < 0:
                raise ValueError(
                    f"Softermax.{name} must be unsigned with at least 1 fraction bit, such as UQ(1,7), got {number}"
                )
        if self.power_sum.integer_bits < 1:
            raise ValueError(f"Softermax.power_sum must represent 1.0, as UQ(10,6) does, got {self.power_sum}")
        if self.unnormalised.integer_bits < 1 or self.unnormalised.bits > 24:
            raise ValueError(
                "Softermax.unnormalised must represent 1.0 in at most 24 bits, as UQ(1,15) does, got "
                f"{self.unnormalised}"
            )
        if self.reciprocal.integer_bits != 1:
            raise ValueError(
                f"Softermax.reciprocal must be a mantissa in (1/2, 1], such as UQ(1,7), got {self.reciprocal}"
            )
        check_slice_width(self, self.slice_width)
        _ = self.power_table, self.reciprocal_table.table  # checks the segment counts

    @property
    def power_table(self) -> PiecewiseLinear:
        """Table of 2**x for the fractions x of the input format."""
        return power_of_two(self.power_segments, self.input.fraction_bits, self.unnormalised.fraction_bits)

    @property
    def reciprocal_table(self) -> Reciprocal:
        """Table of the reciprocal of the sum."""
        return Reciprocal(self.reciprocal_segments, self.reciprocal.fraction_bits)

    @property
    def training(self) -> Training:
        """How a model is prepared: fine-tuned to base 2, or with `log2e` only calibrated, as it approximates base e."""
        return "calibrated" if self.log2e else self.trained

    @property
    def base(self) -> float:
        """Base of the powers of real scores: 2, or e with `log2e`."""
        return math.e if self.log2e else 2.0

    def reference(self, scores: ArrayLike, mask: ArrayLike | None = None, **parameters: Any) -> NDArray[np.float64]:
        """Compute softmax to base 2, or e with `log2e`, in float64; there are no parameters."""
        self.check_parameters(parameters)
        return exact_softmax(scores, mask, self.base)

    def constants(self, **parameters: Any) -> Constants:
        """Return the constants: as score scale one step of the input format, times ln 2 with `log2e`."""
        self.check_parameters(parameters)
        scale = encode_scale(self.input.resolution * (math.log(2) if self.log2e else 1.0))
        return Constants(scale=scale, form=self.constants_form)

    @property
    def score_bits(self) -> int:
        """Width of a score code in bits."""
        return self.input.bits

    def _golden(self, codes: Array, mask: Array | None, constants: Constants) -> Array:
        """Map input codes to output codes, see `softmaxkit.methods.softermax.golden`."""
        from softmaxkit.methods.softermax.golden import golden

        return golden(self, codes, mask)

    @property
    def divides_last(self) -> bool:
        """Whether deferred division is supported: with the online maximum, and formats as in `check_deferred`."""
        from softmaxkit.methods.softermax.golden import deferred_places

        return self.maximum == "online" and deferred_places(self) >= 0

    def sliced_for(self, lanes: int) -> Self:
        """Return this spec with slices of at least `lanes` positions."""
        return replace(self, slice_width=lanes) if lanes > self.slice_width else self

    def _deferred(self, codes: Array, mask: Array | None, constants: Constants) -> DeferredRows:
        """Compute rows with deferred division, see `softmaxkit.methods.softermax.golden`."""
        from softmaxkit.methods.softermax.golden import deferred

        return deferred(self, codes, mask)

    def deferred_unit(self, lanes: int, **sizes: Any) -> DeferredUnit:
        """Return the hardware of `deferred`: the unnormalised part, and the reciprocal of its sum."""
        from softmaxkit.methods.softermax.deferred import Deferred

        return Deferred(self, lanes, **sizes)

    def _decode(self, codes: Array, constants: Any) -> Array:
        """Convert output codes to probabilities."""
        return self.output.decode(codes)

    def error_bound(
        self, codes: Array, mask: Array | None, constants: Constants, **parameters: Any
    ) -> NDArray[np.float64]:
        """Bound golden against `reference`, see `softmaxkit.methods.softermax.bounds`."""
        self.check_parameters(parameters)
        return error_bound(self, codes, mask, constants)

    def module(self, heads: int | None = None, mode: str = "float", **parameters: Any) -> SoftermaxModule:
        """Return the torch module; it has no learned parameters, but the model is fine-tuned with it."""
        from softmaxkit.methods.softermax.module import SoftermaxModule

        self.check_parameters(parameters, function=self.module)
        return SoftermaxModule(self, heads, mode)

    @classmethod
    def widest(cls, keys: int) -> Self:
        """Return a spec with 16-bit outputs and reciprocals and `log2e`, whose sum does not saturate up to `keys`."""
        return cls(
            log2e=True,
            input=Q(9, 4),
            power_sum=UQ(max(10, keys.bit_length()), 12),
            reciprocal=UQ(1, 15),
            output=UQ(1, 15),
        )

    def narrower(self) -> dict[str, list[Self]]:
        """Return narrower formats of outputs, reciprocals, scores (range, then resolution) and sums."""
        return {
            "output": [replace(self, output=UQ(1, f)) for f in range(7, self.output.fraction_bits, 2)],
            "reciprocal": [replace(self, reciprocal=UQ(1, f)) for f in range(7, self.reciprocal.fraction_bits, 2)],
            "range of scores": [
                replace(self, input=Q(i, self.input.fraction_bits)) for i in range(5, self.input.integer_bits)
            ],
            "resolution of scores": [
                replace(self, input=Q(self.input.integer_bits, f)) for f in range(2, self.input.fraction_bits)
            ],
            "sum": [
                replace(self, power_sum=UQ(self.power_sum.integer_bits, f))
                for f in range(4, self.power_sum.fraction_bits, 2)
            ],
        }

    def reaching_further(self) -> list[Self]:
        """Return the spec with two more integer bits in the input, which quadruples the score range."""
        return with_wider_scores(self, "input")

    @classmethod
    def variants(cls) -> list[Self]:
        """Return the paper's formats, without and with `log2e`."""
        return [cls(), cls(log2e=True)]

    def partial(self, **parameters: Any) -> OnlineSoftmax:
        """Return an empty state of online softmax to base `base`."""
        from softmaxkit.methods.base.online import OnlineSoftmax

        self.check_parameters(parameters)
        return OnlineSoftmax(base=self.base)

    @classmethod
    def published_ratios(cls) -> list[Ratio]:
        """Return the ratios of the two parts of the unit to those of an FP16 softmax (arXiv 2103.09301, 7 nm)."""
        from softmaxkit.methods.exact import Exact

        halves = {"unnormalised part": (FRONT, "0.25", "0.10"), "normalisation": (REST, "0.65", "0.39")}
        return [
            Ratio(
                f"Softermax over softmax in FP16, {name} (7 nm)",
                area,
                energy,
                *(UnitPart(spec, parts=(part,), with_storage=False) for spec in (cls(), Exact())),
            )
            for name, (part, area, energy) in halves.items()
        ]
