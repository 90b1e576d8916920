"""The spec of EXAQ and its constants: the coder's thresholds and the exponent table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from array_api_compat import array_namespace

from softmaxkit.formats import MAX_SCORE_BITS, UQ, Array, Fixed, Q, encode_scale
from softmaxkit.masks import broadcast_mask, check_row
from softmaxkit.methods.base import levels
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.spec import Dataflow, Spec, Training
from softmaxkit.tables import Reciprocal

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from softmaxkit.methods.base.forms import Form
    from softmaxkit.methods.exaq.module import ExaqModule
    from softmaxkit.methods.exaq.partial import LevelPartial


PARAMETERS = ("clip", "scale")
"""The real numbers of a layer, from calibration."""

SAMPLE_CLIPS = {2: -2.5, 3: -3.0, 4: -3.5}
"""Clips by bits, in standard deviations of the scores: about what the paper's analysis gives."""


@dataclass(frozen=True)
class ExaqConstants(Constants):
    """The integers of one layer.

    Attributes:
        scale: see `Constants`.
        thresholds: 2**bits - 1 of them; a score takes the level k + 1 or above where its code less the row's maximum
            reaches `thresholds[k]`.
        exponentials: 2**bits codes of exp of the levels, ascending; the last is 1.
    """

    thresholds: Any
    exponentials: Any


@dataclass(frozen=True)
class Exaq(Spec):
    """Softmax whose exp sees only 2**bits levels between a clip and the row's maximum.

    Args:
        bits: of the input of exp: 2, 3 or 4.
        clip: how calibration sets the clip. "gaussian" and "laplace" (2 and 4 bits) are the paper's, from the spread
            of `score - maximum`; "naive" takes the smallest seen; "searched" the best of a grid for the
            probabilities of the data, "output" for the output of attention, which is what a model goes on with.
        scores: fixed-point format of scores as they arrive; signed.
        scale: "format" reads scores in that format; "calibrated" keeps its width and sets the step from the data.
        exponential: format of the exponent table; unsigned, holds 1.
        reciprocal: format of the reciprocal's mantissa; `UQ(1, f)`.
        reciprocal_segments: lines of 1/x over [1, 2), a power of two.
        output: format of the probabilities; unsigned.
        accumulator: how the levels are summed: "packed" look-ups of several codes at once, a "histogram" of them, or
            a "plain" sum. The sums are equal.
        share: one clip, and calibrated scale, for each "layer" or each "head".

    Raises:
        ValueError: a format or size that cannot be.
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
        if self.clip == "laplace" and self.bits == 3:
            raise ValueError("Exaq.clip is 'laplace' for 2 and 4 bits only; the paper's code has no fit for 3 bits")
        if not self.scores.signed or not 2 <= self.scores.bits <= MAX_SCORE_BITS:
            raise ValueError(
                f"Exaq.scores is signed, 2 to {MAX_SCORE_BITS} bits wide, such as Q(6,2), not {self.scores}"
            )
        for name in ("exponential", "reciprocal", "output"):
            number: Fixed = getattr(self, name)
            if number.signed or not 1 <= number.fraction_bits <= 20 or number.integer_bits < 0:
                raise ValueError(f"Exaq.{name} is unsigned with 1 to 20 fraction bits, such as UQ(1,15), not {number}")
        if self.exponential.integer_bits < 1 or self.reciprocal.integer_bits != 1:
            raise ValueError(
                "Exaq.exponential holds 1.0, as UQ(1,15) does, and Exaq.reciprocal is UQ(1,f), not "
                f"{self.exponential} and {self.reciprocal}"
            )
        _ = self.reciprocal_table.table  # refuses impossible segment counts

    @property
    def variant(self) -> str:
        """Bits and clip, which every comparison turns on, and what else differs from the defaults."""
        return ", ".join(filter(None, [f"{self.bits} bits", f"{self.clip} clip", self.differences(("bits", "clip"))]))

    @property
    def score_bits(self) -> int:
        """Width of a score code."""
        return self.scores.bits

    @property
    def levels(self) -> int:
        """How many different inputs exp has."""
        return 1 << self.bits

    @property
    def reciprocal_table(self) -> Reciprocal:
        """The reciprocal of the sum."""
        return Reciprocal(self.reciprocal_segments, self.reciprocal.fraction_bits)

    def _negative(self, clip: float) -> float:
        """Return the clip.

        Raises:
            ValueError: it is not negative and finite.
        """
        if not (math.isfinite(clip) and clip < 0):
            raise ValueError(f"the clip of Exaq is negative and finite, such as -6.0, not {clip}")
        return clip

    def least_values(self, clip: float) -> list[float]:
        """Return, for each level but the lowest, the smallest float64 `score - maximum` that takes it."""
        return levels.least_values(self._negative(clip), self.levels)

    def exponentials(self, clip: float) -> list[float]:
        """Return exp of each level, the lowest first."""
        return [math.exp(clip - clip * level / (self.levels - 1)) for level in range(self.levels)]

    def reference(self, scores: ArrayLike, mask: ArrayLike | None = None, **parameters: Any) -> NDArray[np.float64]:
        """Return softmax of the quantised `score - maximum`, with a true exp, in float64.

        Args:
            scores: real scores, (..., keys).
            mask: boolean, True where attended.
            parameters: `clip`, the lowest level, negative.

        Raises:
            ValueError: no clip is given.
        """
        self.refuse(parameters, self.required)
        clip = self.required_clip(parameters)
        values, attended = check_row(scores, mask)
        highest = np.max(values, axis=-1, where=attended, initial=-np.inf, keepdims=True)
        distance = np.where(attended, values - np.where(np.isfinite(highest), highest, 0.0), 0.0)
        level = sum((distance >= least for least in self.least_values(clip)), np.zeros(values.shape))
        power = np.where(attended, np.exp(clip - clip * level / (self.levels - 1)), 0.0)
        total = power.sum(axis=-1, keepdims=True)
        return np.asarray(power / np.where(total > 0, total, 1.0))

    def constants(self, **parameters: Any) -> ExaqConstants:
        """Build thresholds and exponent table of one layer.

        Args:
            parameters: `clip`, the lowest level, negative, from calibration; `scale`, the real value of one step of
                the score code (default: of the score format).

        Raises:
            ValueError: no clip is given, or one that is not negative; a scale that is not positive.
        """
        self.refuse(parameters, PARAMETERS)
        mantissa, exponent = encode_scale(float(parameters.get("scale", self.scores.resolution)))
        clip = self.required_clip(parameters)
        lowest = -(1 << self.score_bits)  # below every difference of two codes
        reached = levels.threshold_codes(self._negative(clip), self.levels, mantissa * Fraction(2) ** exponent, lowest)
        codes = self.exponential.encode(np.asarray(self.exponentials(clip)))
        exponentials = tuple(int(code) for code in codes)
        return ExaqConstants((mantissa, exponent), reached, exponentials, form=self.constants_form)

    def required_clip(self, parameters: Mapping[str, Any]) -> float:
        """Return the clip among parameters.

        Raises:
            ValueError: there is none, or one a head.
        """
        clip = parameters.get("clip")
        if clip is None:
            raise ValueError(
                "Exaq needs its clip: run softmaxkit.calibrate(model, batches) first, or give one, as in clip=-6.0"
            )
        if isinstance(clip, Sequence):
            raise ValueError(f"Exaq takes one clip here, not one for each of {len(clip)} heads")
        return float(clip)

    def _golden(self, codes: Array, mask: Array | None, constants: ExaqConstants) -> Array:
        """Score codes in, output codes out; see `softmaxkit.methods.exaq.golden`."""
        from softmaxkit.methods.exaq.golden import golden

        if constants.heads is None:
            return golden(self, codes, mask, constants)
        xp = array_namespace(codes)
        attended = broadcast_mask(codes, mask)
        heads = [
            golden(self, codes[..., head, :, :], attended[..., head, :, :], constants.of_head(head))
            for head in range(constants.heads)
        ]
        return xp.stack(heads, axis=-3)

    def _decode(self, codes: Array, constants: Any) -> Array:
        """Turn output codes into probabilities."""
        return self.output.decode(codes)

    def error_bound(
        self, codes: Array, mask: Array | None, constants: Constants, **parameters: Any
    ) -> NDArray[np.float64]:
        """Bound golden against `reference` with the same clip: the levels are equal."""
        truth = self.reference(self.score_values(codes, constants), mask, **parameters)
        limit = float(self.output.decode(np.asarray(self.output.max_code)))
        steps = self.exponential.resolution / 2, self.output.resolution / 2
        return levels.quotient_error(truth, steps[0], self.reciprocal_table.relative_error(), steps[1], limit)

    def module(self, heads: int | None = None, mode: str = "float", **parameters: Any) -> ExaqModule:
        """Return the torch module.

        Args:
            heads: size of the axis -3 of the scores; they share one clip, unless `share` is "head".
            mode: "float" or "integer".
            parameters: `clip`, negative, and `scale`, numbers, or of heads that do not share sequences; without a clip
                the module must be calibrated before use.
        """
        from softmaxkit.methods.exaq.module import ExaqModule

        self.refuse(parameters, PARAMETERS)
        return ExaqModule(self, heads, mode, **parameters)

    def examples(self) -> list[Constants]:
        """Return constants for narrow, middling and wide clips."""
        return [self.constants(clip=clip) for clip in (-5.0, -2.5, -9.0)]

    @classmethod
    def widest(cls, keys: int) -> Self:
        """Return 4 bits, with clips searched for each head, and scores of 12 bits whose step is fitted to them."""
        return cls(bits=4, clip="output", scale="calibrated", scores=Q(6, 6), share="head")

    def narrower(self) -> dict[str, list[Self]]:
        """Return fewer bits of the input of exp, and outputs, reciprocals, exponentials and scores of fewer bits."""
        few: tuple[Literal[2, 3], ...] = (2, 3)
        return {
            "bits": [replace(self, bits=bits) for bits in few if bits < self.bits],
            "output": [replace(self, output=UQ(1, f)) for f in range(7, self.output.fraction_bits, 2)],
            "reciprocal": [replace(self, reciprocal=UQ(1, f)) for f in range(7, self.reciprocal.fraction_bits, 2)],
            "exponential": [replace(self, exponential=UQ(1, f)) for f in range(5, self.exponential.fraction_bits, 2)],
            "resolution of scores": [replace(self, scores=Q(6, f)) for f in range(self.scores.fraction_bits)],
        }

    def reaching_further(self) -> list[Self]:
        """Return the spec with a calibrated scale, or else with scores four times as large in the format."""
        fitted = [] if self.scale == "calibrated" else [replace(self, scale="calibrated")]
        wider = [replace(self, scores=self.scores.widened(2))] if self.scores.bits <= MAX_SCORE_BITS - 2 else []
        return [*fitted, *wider]

    @classmethod
    def variants(cls) -> list[Self]:
        """Return 2, 3 and 4 bits, each with the paper's clip, the searched one, and NAIVE."""
        clips: tuple[Literal["gaussian", "searched", "naive"], ...] = ("gaussian", "searched", "naive")
        sizes: tuple[Literal[2, 3, 4], ...] = (2, 3, 4)
        return [cls(bits=bits, clip=clip) for bits in sizes for clip in clips]

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
        """Return the spec with plain sums: packed ones are for software, a unit would hold their table in registers."""
        return replace(self, accumulator="plain")

    def without_calibration(self) -> Self:
        """Return the spec with the default way of choosing the clip."""
        return replace(self, clip="gaussian")

    def by_bits(self) -> dict[int, Self]:
        """Return 2, 3 and 4 bits, as far as the clip's fit has them."""
        sizes: tuple[Literal[2, 3, 4], ...] = (2, 4) if self.clip == "laplace" else (2, 3, 4)
        return {bits: replace(self, bits=bits) for bits in sizes}

    def sample_parameters(self, keys: int, spread: float, largest: float | None = None) -> dict[str, Any]:
        """Return a clip for such scores."""
        scale = {} if largest is None else {"scale": largest / self.score_range()[1]}
        return {"clip": SAMPLE_CLIPS[self.bits] * spread, **scale}

    def partial(self, **parameters: Any) -> LevelPartial:
        """Return the state of rows whose maximum is known: levels count from it.

        Args:
            parameters: `clip`, and `maximum`, the highest attended score of each whole row, (..., 1).

        Raises:
            ValueError: one of them is missing.
        """
        from softmaxkit.methods.exaq.partial import LevelPartial

        parameters = dict(parameters)
        maximum = parameters.pop("maximum", None)
        if maximum is None:
            raise ValueError(
                "Exaq's levels count from the maximum of the whole row, so its parts need it first: "
                "spec.partial(clip=..., maximum=scores.amax(-1, keepdim=True)), the maximum over all parts"
            )
        self.refuse(parameters, self.required)
        return LevelPartial(self, self.required_clip(parameters), maximum)
