"""The spec of ConSmax."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from softmaxkit.formats import BF16, FP16, UQ, Array, Fixed, Float
from softmaxkit.masks import check_row
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.forms import Kind
from softmaxkit.methods.base.metadata import DEFAULT_KEYS
from softmaxkit.methods.base.published import Published, Ratio
from softmaxkit.methods.base.spec import Dataflow, Spec, Storage, Training
from softmaxkit.methods.consmax.bounds import error_bound
from softmaxkit.methods.consmax.constants import ConSmaxConstants, build
from softmaxkit.methods.consmax.parameters import (
    PARAMETERS,
    beta_and_gamma,
    largest_probability,
    score_scale,
    start_values,
)
from softmaxkit.methods.consmax.published import FIGURES, ratios
from softmaxkit.methods.consmax.rules import check_rules

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from softmaxkit.methods.base.forms import Form
    from softmaxkit.methods.consmax.module import ConSmaxModule


@dataclass(frozen=True)
class ConSmax(Spec):
    """ConSmax: `exp(s - beta) / gamma` with learned beta and gamma, element-wise, without maximum or sum.

    Args:
        bits: width of a score code, 8 or 16; 16 combines two 8-bit units with a reduction multiplier.
        tables: "split", as in the paper, one table per nibble and the product of their entries; "shift", which fixes
            the score scale at ln2/16, so that the high nibble is a power of two and requires neither table nor
            multiplier; "whole", one table of 256 output codes.
        table_format: format of the table entries: a float, or UQ(0, n) with n from 4 to 12, whose products are exact.
        product_bits: significant bits to which each product is rounded; 0 takes those of the table format.
        constant: whether C = exp(-beta)/gamma is "folded" into a table or "multiplied" afterwards.
        output_bits: width of the unsigned output; its power-of-two scale is one of the constants.
        ceiling: largest probability, at which training clamps the exponent and the integers saturate.
        share: one beta and gamma per "head" or per "layer".
        beta0: start value of beta.
        gamma0: start value of gamma; 0 derives it from the context, so that a row sums to about 1.

    Raises:
        ValueError: a field is out of range, or `tables` does not support another field.
    """

    method: ClassVar[str] = "consmax"
    title: ClassVar[str] = "ConSmax"
    summary: ClassVar[str] = "learned constants for maximum and sum; split tables; trained from scratch"
    source: ClassVar[str] = "Liu et al. 2024, arXiv 2402.10930"
    trained: ClassVar[Training] = "from scratch"
    compared_kinds: ClassVar[tuple[Kind, ...]] = ("loadable", "baked")
    colour: ClassVar[str] = "#0072b2"
    dataflow: ClassVar[Dataflow] = "element"
    storages: ClassVar[tuple[Storage, ...]] = ("flip-flops", "latches")
    published: ClassVar[tuple[Published, ...]] = FIGURES
    constants_class: ClassVar[type[Constants]] = ConSmaxConstants
    constants_fields: ClassVar[tuple[str, ...]] = (
        *("bits", "tables", "table_format", "constant", "output_bits", "ceiling"),
    )
    parameters: ClassVar[tuple[str, ...]] = PARAMETERS
    required: ClassVar[tuple[str, ...]] = ("beta", "gamma")

    bits: Literal[8, 16] = 8
    tables: Literal["split", "shift", "whole"] = "split"
    table_format: Float | Fixed = BF16
    product_bits: int = 0
    constant: Literal["folded", "multiplied"] = "folded"
    output_bits: int = 8
    ceiling: float = 1.0
    share: Literal["head", "layer"] = "head"
    beta0: float = 1.5
    gamma0: float = 0.0

    def __post_init__(self) -> None:
        self._check_fields()
        check_rules(self)

    @property
    def score_bits(self) -> int:
        """Width of a score code in bits."""
        return self.bits

    @property
    def default_scale(self) -> float:
        """Score scale of an uncalibrated layer, which covers -8 to nearly 8: 1/16 at 8 bits.

        With tables="shift" it is ln2/16, the only scale supported.
        """
        return math.log(2) / 16 if self.tables == "shift" else 2.0 ** (4 - self.bits)

    @property
    def factor_count(self) -> int:
        """Number of factors in the table format per result: table entries, and C if it is multiplied."""
        entries = self.bits // 4 + (self.constant == "multiplied")
        return {"split": entries, "shift": 1, "whole": 0}[self.tables]

    @property
    def significant_bits(self) -> int:
        """Significant bits of each product; for fixed-point tables, which are exact, those of the whole product."""
        if isinstance(self.table_format, Fixed):
            return self.table_format.bits * self.factor_count
        return self.product_bits or self.table_format.mantissa_bits + 1

    def start(self, keys: int) -> dict[str, Any]:
        """Return initial values of `beta` and `gamma`, with which rows of up to `keys` scores near 0 sum to about 1."""
        return start_values(self, keys)

    def reference(self, scores: ArrayLike, mask: ArrayLike | None = None, **parameters: Any) -> NDArray[np.float64]:
        """Compute `min(exp(s - beta) / gamma, ceiling)` in float64 (Eq. 2 of the paper, plus the clamp).

        Args:
            scores: real scores, (..., keys).
            mask: boolean, True where attended.
            parameters: `beta` and `gamma`, numbers or arrays that broadcast to the scores; the defaults are
                `start(keys)`.

        Returns:
            Probabilities, shape of the scores; 0 where masked.

        Raises:
            TypeError: a parameter is unknown.
            ValueError: a score is NaN, the mask does not broadcast, or beta or gamma is out of range.
        """
        values, attended = check_row(scores, mask)
        self.check_parameters(parameters, self.required)
        beta, gamma = beta_and_gamma(self, parameters, keys=values.shape[-1])
        exponent = np.minimum(values - beta - np.log(gamma), math.log(self.ceiling))
        return np.where(attended, np.exp(exponent), 0.0)

    def constants(self, **parameters: Any) -> ConSmaxConstants:
        """Build the constants of one head.

        Args:
            parameters: `beta` and `gamma` (default: `start(256)`); `scale`, the real value of one step of the score
                code (default: `default_scale`); `largest`, the head's largest probability in calibration, which sets
                the output scale (default: `ceiling`).

        Raises:
            TypeError: a parameter is unknown.
            ValueError: gamma or the scale is not positive and finite, `largest` is negative or not finite, or the scale
                is not ln2/16 with tables="shift".
        """
        self.check_parameters(parameters)
        self._check_one_head(parameters)
        scale, largest = score_scale(self, parameters), largest_probability(self, parameters)
        beta, gamma = beta_and_gamma(self, parameters, keys=DEFAULT_KEYS)
        return build(self, scale, largest, float(beta), float(gamma))

    def _golden(self, codes: Array, mask: Array | None, constants: ConSmaxConstants) -> Array:
        """Map score codes to output codes, see `softmaxkit.methods.consmax.golden`."""
        from softmaxkit.methods.consmax.golden import golden

        return golden(self, codes, mask, constants)

    def _decode(self, codes: Array, constants: Any) -> Array:
        """Convert output codes to probabilities."""
        from softmaxkit.methods.consmax.golden import decode

        return decode(codes, constants)

    def error_bound(
        self, codes: Array, mask: Array | None, constants: Constants, **parameters: Any
    ) -> NDArray[np.float64]:
        """Bound golden against `reference` with the same beta and gamma, see `softmaxkit.methods.consmax.bounds`."""
        assert isinstance(constants, ConSmaxConstants)
        truth = self.reference(self.score_values(codes, constants), mask, **parameters)
        beta, gamma = beta_and_gamma(self, parameters, keys=truth.shape[-1])
        return error_bound(self, codes, mask, constants, truth, beta, gamma)

    def examples(self) -> list[Constants]:
        """Return constants of heads with small, medium and large probabilities."""
        heads: list[dict[str, float]] = [{}, {"beta": 0.5, "gamma": 60.0}, {"beta": -0.5, "gamma": 0.7}]
        if self.tables != "shift":
            heads[2]["scale"] = 0.4 * self.default_scale
        return [self.constants(**head) for head in heads]

    def module(self, heads: int | None = None, mode: str = "float", **parameters: Any) -> ConSmaxModule:
        """Return the torch module, which learns beta and log gamma.

        Args:
            heads: size of axis -3 of the scores; None shares one beta and gamma.
            mode: "float", "integer" or "fused".
            parameters: initial `beta` and `gamma`, single numbers or sequences with one per head (default:
                `start(256)`); `scale` and `largest`, as in `constants`.

        Raises:
            TypeError: a parameter is unknown.
            ValueError: the mode is unknown, or beta or gamma is out of range or has the wrong shape.
        """
        from softmaxkit.methods.consmax.module import ConSmaxModule

        self.check_parameters(parameters, function=self.module)
        return ConSmaxModule(self, heads, mode, **parameters)

    def as_trained(self) -> Self:
        """Return the spec with the default tables, as the tables do not affect what a model learns."""
        return replace(self, tables="split", table_format=BF16, product_bits=0)

    @classmethod
    def variants(cls) -> list[Self]:
        """Return the paper's split tables, and the form with a shift in place of one table."""
        return [cls(), cls(tables="shift")]

    @classmethod
    def forms(cls) -> list[Form]:
        """Return every kind of constant tables, and loadable tables."""
        from softmaxkit.methods.base.forms import Form

        return [
            Form("constant tables, C folded", cls(), True),
            Form("constant tables, C multiplied", cls(constant="multiplied"), True, main=False),
            Form("FP16 constant tables, C folded", cls(table_format=FP16), True, main=False),
            Form("fixed-point constant tables", cls(table_format=UQ(0, 9)), True, main=False),
            Form("D = ln2/16, a shift", cls(tables="shift"), True),
            Form("one constant table of 256", cls(tables="whole"), True),
            Form("loadable tables", cls()),
        ]

    def sample_parameters(self, keys: int, spread: float, largest: float | None = None) -> dict[str, Any]:
        """Return beta and gamma at which rows of normally distributed scores sum to about 1."""
        settable = largest is not None and self.tables != "shift"
        scale = {"scale": largest / self.score_range()[1]} if settable and largest else {}
        return {"beta": math.log(keys) + spread**2 / 2, "gamma": 1.0, **scale}

    @classmethod
    def published_ratios(cls) -> list[Ratio]:
        """Return the ratios of the paper's other units to this one, with loadable and with constant tables."""
        return ratios()
