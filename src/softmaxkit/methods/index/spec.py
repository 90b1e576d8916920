"""The spec of IndexSoftmax, the softmax of IntAttention."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from softmaxkit.formats import UQ, Array, Fixed, Q
from softmaxkit.masks import check_row
from softmaxkit.methods.base.constants import Constants, encode_scale
from softmaxkit.methods.base.format_rules import check_score_format, with_wider_scores
from softmaxkit.methods.base.levels import levels_of, quotient_error, threshold_codes
from softmaxkit.methods.base.spec import Dataflow, Spec, Training
from softmaxkit.tables import Reciprocal

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from softmaxkit.methods.base.forms import Form
    from softmaxkit.methods.index.module import IndexModule

LEAST_CLIP = 2.0**-10
"""Least clip: below it all scores but the largest ones of a row would vanish in every format."""


@dataclass(frozen=True)
class Index(Spec):
    """IndexSoftmax: exp is one of 2**bits table entries, addressed by the distance to the row's maximum.

    The distance is clipped and rounded to the nearest address; at the address of the clip the result is 0.

    Args:
        bits: width of the address, 2 to 8.
        clip: distance of the last address, at which the table is 0; positive.
        scores: fixed-point format of the incoming scores; signed.
        table_bits: width of a table entry, 2 to 16; the largest code represents 1.
        output_bits: width of a probability, 2 to 16; the largest code represents 1.
        reciprocal: format of the reciprocal's mantissa; `UQ(1, f)`.
        reciprocal_segments: number of line segments of 1/x for x in [1, 2); a power of two.

    Raises:
        ValueError: a format or size is not supported.
    """

    method: ClassVar[str] = "index"
    title: ClassVar[str] = "IndexSoftmax"
    summary: ClassVar[str] = "8-bit table of exp with 32 entries by the clipped distance to the maximum; no training"
    source: ClassVar[str] = "Zhong et al. 2025, arXiv 2511.21513"
    trained: ClassVar[Training] = "calibrated"
    rival: ClassVar[bool] = True
    dataflow: ClassVar[Dataflow] = "row"

    bits: int = 5
    clip: float = 6.6
    scores: Fixed = Q(8, 4)
    table_bits: int = 8
    output_bits: int = 8
    reciprocal: Fixed = UQ(1, 12)
    reciprocal_segments: int = 32

    def __post_init__(self) -> None:
        self._check_fields()
        for name, low, high in (("bits", 2, 8), ("table_bits", 2, 16), ("output_bits", 2, 16)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"Index.{name} must be from {low} to {high}, got {getattr(self, name)}")
        if not LEAST_CLIP <= self.clip <= 64:
            raise ValueError(f"Index.clip must be from {LEAST_CLIP} to 64, such as 6.6, got {self.clip}")
        check_score_format(self, "scores")
        if self.reciprocal.signed or self.reciprocal.integer_bits != 1 or not 1 <= self.reciprocal.fraction_bits <= 20:
            raise ValueError(f"Index.reciprocal must be UQ(1,f) with f from 1 to 20, got {self.reciprocal}")
        _ = self.reciprocal_table.table  # checks the number of segments

    @property
    def score_bits(self) -> int:
        """Width of a score code in bits."""
        return self.scores.bits

    @property
    def levels(self) -> int:
        """Number of table entries. Levels count up from the clip; the paper's addresses count from the maximum."""
        return int(2**self.bits)  # before torch 2.13, Dynamo cannot shift by a symbol

    @property
    def reciprocal_table(self) -> Reciprocal:
        """Table of the reciprocal of the sum."""
        return Reciprocal(self.reciprocal_segments, self.reciprocal.fraction_bits)

    @cached_property
    def thresholds(self) -> tuple[int, ...]:
        """For each level except the lowest, the least difference of a score code and the row's highest code."""
        lowest = -(1 << self.score_bits)  # below every difference of two codes
        return threshold_codes(-float(self.clip), self.levels, Fraction(self.scores.resolution), lowest)

    @property
    def powers(self) -> tuple[float, ...]:
        """What table entries represent, by level: exp, from 0 at the clip to 1 at the maximum."""
        top = self.levels - 1
        return (0.0, *(math.exp(-self.clip * (top - level) / top) for level in range(1, self.levels)))

    @cached_property
    def exponentials(self) -> tuple[int, ...]:
        """Table entries by level: codes of exp, from 0 at the clip to the largest code at the maximum."""
        return tuple(round(((1 << self.table_bits) - 1) * power) for power in self.powers)

    @property
    def farthest(self) -> int:
        """Smallest distance between two codes at which the entry is 0."""
        return 1 - self.thresholds[0]

    @cached_property
    def levels_by_distance(self) -> tuple[int, ...]:
        """Level by the distance between two codes, from 0 to `farthest`."""
        return tuple(sum(-distance >= least for least in self.thresholds) for distance in range(self.farthest + 1))

    @cached_property
    def entries(self) -> tuple[int, ...]:
        """Table entries by the distance between two codes, from 0 to `farthest`."""
        return tuple(self.exponentials[level] for level in self.levels_by_distance)

    def reference(self, scores: ArrayLike, mask: ArrayLike | None = None, **parameters: Any) -> NDArray[np.float64]:
        """Compute softmax of distances rounded to an address, with an exact exp except 0 at the clip, in float64."""
        self.check_parameters(parameters)
        values, attended = check_row(scores, mask)
        level = levels_of(values, attended, -self.clip, self.levels)
        step = self.clip / (self.levels - 1)
        power = np.where(attended & (level > 0), np.exp((level - (self.levels - 1)) * step), 0.0)
        total = power.sum(axis=-1, keepdims=True)
        return np.asarray(power / np.where(total > 0, total, 1.0))

    def constants(self, **parameters: Any) -> Constants:
        """Return the constants: as score scale one step of the score format."""
        self.check_parameters(parameters)
        return Constants(scale=encode_scale(self.scores.resolution), form=self.constants_form)

    def _golden(self, codes: Array, mask: Array | None, constants: Constants) -> Array:
        """Map score codes to output codes, see `softmaxkit.methods.index.golden`."""
        from softmaxkit.methods.index.golden import golden

        return golden(self, codes, mask)

    def _decode(self, codes: Array, constants: Any) -> Array:
        """Convert output codes to probabilities; the largest code represents 1."""
        from softmaxkit.methods.index.golden import decode

        return decode(self, codes)

    def error_bound(
        self, codes: Array, mask: Array | None, constants: Constants, **parameters: Any
    ) -> NDArray[np.float64]:
        """Bound golden against `reference`, where both have equal addresses."""
        truth = self.reference(self.score_values(codes, constants), mask, **parameters)
        table, output = (0.5 / ((1 << bits) - 1) for bits in (self.table_bits, self.output_bits))
        return quotient_error(truth, table, self.reciprocal_table.relative_error(), output, 1.0)

    def module(self, heads: int | None = None, mode: str = "float", **parameters: Any) -> IndexModule:
        """Return the torch module; it has no learned parameters and requires no calibration."""
        from softmaxkit.methods.index.module import IndexModule

        self.check_parameters(parameters, function=self.module)
        return IndexModule(self, heads, mode)

    @classmethod
    def widest(cls, keys: int) -> Self:
        """Return a spec with 8-bit addresses over twice the distance, and 16-bit entries, outputs and scores."""
        return cls(
            bits=8,
            clip=13.2,
            scores=Q(8, 8),
            table_bits=16,
            output_bits=16,
            reciprocal=UQ(1, 18),
            reciprocal_segments=64,
        )

    def narrower(self) -> dict[str, list[Self]]:
        """Return narrower addresses, outputs, entries and scores."""
        return {
            "bits": [replace(self, bits=bits) for bits in range(2, self.bits)],
            "output": [replace(self, output_bits=bits) for bits in range(6, self.output_bits, 2)],
            "table": [replace(self, table_bits=bits) for bits in range(4, self.table_bits, 2)],
            "resolution of scores": [replace(self, scores=Q(8, f)) for f in range(self.scores.fraction_bits)],
        }

    def reaching_further(self) -> list[Self]:
        """Return the spec with two more integer bits in the score format, which quadruples the score range."""
        return with_wider_scores(self, "scores")

    @classmethod
    def variants(cls) -> list[Self]:
        """Return the paper's 8-bit outputs, and 16-bit outputs, which show what 8 bits cost."""
        return [cls(), cls(output_bits=16)]

    @classmethod
    def forms(cls) -> list[Form]:
        """Return the same specs as `variants`."""
        from softmaxkit.methods.base.forms import Form

        return [Form(f"{spec.output_bits}-bit outputs", spec) for spec in cls.variants()]
