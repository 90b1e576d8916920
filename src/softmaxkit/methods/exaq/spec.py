"""The spec of EXAQ."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from softmaxkit.formats import UQ, Array, Fixed, Q
from softmaxkit.masks import check_row
from softmaxkit.methods.base import levels
from softmaxkit.methods.base.constants import Constants, encode_scale
from softmaxkit.methods.base.format_rules import with_wider_scores
from softmaxkit.methods.base.spec import Dataflow, Spec, Training
from softmaxkit.methods.exaq.constants import ExaqConstants, build
from softmaxkit.methods.exaq.parameters import LAPLACE_FIT, PARAMETERS, SAMPLE_CLIPS, required_clip
from softmaxkit.methods.exaq.rules import check_rules
from softmaxkit.tables import Reciprocal

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from softmaxkit.methods.base.forms import Form
    from softmaxkit.methods.exaq.module import ExaqModule
    from softmaxkit.methods.exaq.partial import LevelPartial


@dataclass(frozen=True)
class Exaq(Spec):
    """EXAQ: softmax with the input of exp quantised to 2**bits levels between a clip and the row's maximum.

    Args:
        bits: width of the input of exp: 2, 3 or 4.
        clip: how calibration sets the clip: "gaussian" and "laplace" (2 and 4 bits) use the paper's fits to the spread
            of `score - maximum`; "naive" uses the smallest value observed; "searched" and "output" search a grid for
            the least error of the probabilities, or of the attention output.
        scores: fixed-point format of the incoming scores; signed.
        scale: "format" uses the step of that format; "calibrated" keeps its width and sets the step from the data.
        exponential: format of the table of exponentials; unsigned, must represent 1.
        reciprocal: format of the reciprocal's mantissa; `UQ(1, f)`.
        reciprocal_segments: number of line segments of 1/x for x in [1, 2); a power of two.
        output: format of the probabilities; unsigned.
        accumulator: how the levels are summed: "packed" looks up several codes at once, "histogram" counts them, and
            "plain" adds one by one. The sums are equal.
        share: one clip, and one calibrated scale, per "layer" or per "head".

    Raises:
        ValueError: a format or size is not supported.
    """

    method: ClassVar[str] = "exaq"
    title: ClassVar[str] = "EXAQ"
    summary: ClassVar[str] = "2 to 4-bit input of exp, clip from calibration, table sums; no training"
    source: ClassVar[str] = "Shkolnik et al. 2024, arXiv 2410.03185"
    trained: ClassVar[Training] = "calibrated"
    colour: ClassVar[str] = "#009e73"
    dataflow: ClassVar[Dataflow] = "row"
    constants_class: ClassVar[type[Constants]] = ExaqConstants
    constants_fields: ClassVar[tuple[str, ...]] = ("bits", "scores", "exponential")
    parameters: ClassVar[tuple[str, ...]] = PARAMETERS
    required: ClassVar[tuple[str, ...]] = ("clip",)

    bits: Literal[2, 3, 4] = 2
    clip: Literal["gaussian", "laplace", "naive", "searched", "output"] = "gaussian"
    scores: Fixed = Q(6, 2)
    scale: Literal["format", "calibrated"] = "format"
    exponential: Fixed = UQ(1, 15)
    reciprocal: Fixed = UQ(1, 15)
    reciprocal_segments: int = 8
    output: Fixed = UQ(1, 15)
    accumulator: Literal["packed", "histogram", "plain"] = "packed"
    share: Literal["layer", "head"] = "layer"

    def __post_init__(self) -> None:
        self._check_fields()
        check_rules(self)

    @property
    def variant(self) -> str:
        """Bits and clip, which matter most in comparisons, and further differences from the defaults."""
        return ", ".join(filter(None, [f"{self.bits} bits", f"{self.clip} clip", self.differences(("bits", "clip"))]))

    @property
    def score_bits(self) -> int:
        """Width of a score code in bits."""
        return self.scores.bits

    @property
    def levels(self) -> int:
        """Number of levels, i.e. of distinct inputs of exp."""
        return 2**self.bits  # before torch 2.13, Dynamo cannot shift by a symbol

    @property
    def reciprocal_table(self) -> Reciprocal:
        """Table of the reciprocal of the sum."""
        return Reciprocal(self.reciprocal_segments, self.reciprocal.fraction_bits)

    def least_values(self, clip: float) -> list[float]:
        """Return, for each level except the lowest, the smallest float64 `score - maximum` that maps to it."""
        return levels.least_values(clip, self.levels)

    def exponentials(self, clip: float) -> list[float]:
        """Return exp at each level, the lowest first."""
        return [math.exp(clip * level / (self.levels - 1)) for level in reversed(range(self.levels))]

    def reference(self, scores: ArrayLike, mask: ArrayLike | None = None, **parameters: Any) -> NDArray[np.float64]:
        """Compute softmax of the quantised `score - maximum`, with an exact exp, in float64.

        Args:
            scores: real scores, (..., keys).
            mask: boolean, True where attended.
            parameters: `clip`, the lowest level, negative.

        Returns:
            Probabilities, shape of the scores; 0 where masked.

        Raises:
            TypeError: a parameter is unknown.
            ValueError: the clip is missing or not negative, a score is NaN, or the mask does not broadcast.
        """
        self.check_parameters(parameters, self.required)
        clip = required_clip(parameters)
        values, attended = check_row(scores, mask)
        level = levels.levels_of(values, attended, clip, self.levels)
        power = np.where(attended, np.exp(clip - clip * level / (self.levels - 1)), 0.0)
        total = power.sum(axis=-1, keepdims=True)
        return np.asarray(power / np.where(total > 0, total, 1.0))

    def constants(self, **parameters: Any) -> ExaqConstants:
        """Build the thresholds and the table of exponentials of one layer or head.

        Args:
            parameters: `clip`, the lowest level, negative, from calibration; `scale`, the real value of one step of the
                score code (default: the step of `scores`).

        Raises:
            TypeError: a parameter is unknown.
            ValueError: the clip is missing or not negative, or the scale is not positive.
        """
        self.check_parameters(parameters)
        self._check_one_head(parameters)
        scale = encode_scale(float(parameters.get("scale", self.scores.resolution)))
        return build(self, scale, required_clip(parameters))

    def _golden(self, codes: Array, mask: Array | None, constants: ExaqConstants) -> Array:
        """Map score codes to output codes, see `softmaxkit.methods.exaq.golden`."""
        from softmaxkit.methods.exaq.golden import golden

        return golden(self, codes, mask, constants)

    def _decode(self, codes: Array, constants: Any) -> Array:
        """Convert output codes to probabilities."""
        return self.output.decode(codes)

    def error_bound(
        self, codes: Array, mask: Array | None, constants: Constants, **parameters: Any
    ) -> NDArray[np.float64]:
        """Bound golden against `reference` with the same clip, where both have equal levels."""
        truth = self.reference(self.score_values(codes, constants), mask, **parameters)
        off, step = self.exponential.resolution / 2, self.output.resolution / 2
        return levels.quotient_error(truth, off, self.reciprocal_table.relative_error(), step, self.output.largest)

    def module(self, heads: int | None = None, mode: str = "float", **parameters: Any) -> ExaqModule:
        """Return the torch module.

        Args:
            heads: size of axis -3 of the scores; the heads share one clip unless `share` is "head".
            mode: "float", "integer" or "fused".
            parameters: `clip`, negative, and `scale`: single numbers, or sequences with one per head if `share` is
                "head". Without a clip the module must be calibrated before use.

        Raises:
            TypeError: a parameter is unknown.
            ValueError: the mode is unknown, or a parameter is out of range or has the wrong length.
        """
        from softmaxkit.methods.exaq.module import ExaqModule

        self.check_parameters(parameters, function=self.module)
        return ExaqModule(self, heads, mode, **parameters)

    def examples(self) -> list[Constants]:
        """Return constants for medium, narrow and wide clips."""
        return [self.constants(clip=clip) for clip in (-5.0, -2.5, -9.0)]

    @classmethod
    def widest(cls, keys: int) -> Self:
        """Return a spec with 4 bits, clips searched per head, and 12-bit scores with a calibrated step."""
        return cls(bits=4, clip="output", scale="calibrated", scores=Q(6, 6), share="head")

    def narrower(self) -> dict[str, list[Self]]:
        """Return fewer bits for the input of exp, and narrower outputs, reciprocals, exponentials and scores."""
        return {
            "bits": [replace(self, bits=bits) for bits in self.choices()["bits"] if bits < self.bits],
            "output": [replace(self, output=UQ(1, f)) for f in range(7, self.output.fraction_bits, 2)],
            "reciprocal": [replace(self, reciprocal=UQ(1, f)) for f in range(7, self.reciprocal.fraction_bits, 2)],
            "exponential": [replace(self, exponential=UQ(1, f)) for f in range(5, self.exponential.fraction_bits, 2)],
            "resolution of scores": [replace(self, scores=Q(6, f)) for f in range(self.scores.fraction_bits)],
        }

    def reaching_further(self) -> list[Self]:
        """Return the spec with a calibrated scale, and with two more integer bits in the score format."""
        fitted = [] if self.scale == "calibrated" else [replace(self, scale="calibrated")]
        return [*fitted, *with_wider_scores(self, "scores")]

    @classmethod
    def variants(cls) -> list[Self]:
        """Return 2, 3 and 4 bits, each with the paper's clip, the searched clip and NAIVE."""
        clips: tuple[Literal["gaussian", "searched", "naive"], ...] = ("gaussian", "searched", "naive")
        return [cls(bits=bits, clip=clip) for bits in cls.choices()["bits"] for clip in clips]

    @classmethod
    def forms(cls) -> list[Form]:
        """Return 2 and 3 bits with a constant clip, and 2 bits with a loadable one."""
        from softmaxkit.methods.base.forms import Form

        two, three = cls(bits=2).for_hardware(), cls(bits=3).for_hardware()
        return [
            Form("2 bits, constant clip", two, True),
            Form("3 bits, constant clip", three, True),
            Form("2 bits, loadable clip", two, main=False),
        ]

    def for_hardware(self) -> Self:
        """Return the spec with plain sums: packed sums suit software, but need a table in the registers of a unit."""
        return replace(self, accumulator="plain")

    def without_calibration(self) -> Self:
        """Return the spec with the default of `clip`, which affects only calibration."""
        return replace(self, clip="gaussian")

    def by_bits(self) -> dict[int, Self]:
        """Return 2, 3 and 4 bits, except where the clip has no fit for them."""
        fitted = [bits for bits in self.choices()["bits"] if self.clip != "laplace" or bits in LAPLACE_FIT]
        return {bits: replace(self, bits=bits) for bits in fitted}

    def sample_parameters(self, keys: int, spread: float, largest: float | None = None) -> dict[str, Any]:
        """Return a clip, and with `largest` a score scale, for normally distributed scores."""
        scale = {} if largest is None else {"scale": largest / self.score_range()[1]}
        return {"clip": SAMPLE_CLIPS[self.bits] * spread, **scale}

    def partial(self, **parameters: Any) -> LevelPartial:
        """Return an empty state of rows whose maximum is known, since levels are relative to it.

        Args:
            parameters: `clip`, and `maximum`, the highest attended score of each whole row, (..., 1).

        Raises:
            TypeError: a parameter is unknown.
            ValueError: the clip or the maximum is missing.
        """
        from softmaxkit.methods.exaq.partial import LevelPartial

        self.check_parameters(parameters, (*self.required, "maximum"))
        return LevelPartial.start(self, **parameters)
