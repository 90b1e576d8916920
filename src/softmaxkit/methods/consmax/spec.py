"""The spec of ConSmax, its constants and split tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from softmaxkit.formats import BF16, Array, Float, encode_scale
from softmaxkit.rows import check_row
from softmaxkit.spec import Constants, Spec, Training

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from softmaxkit.methods.consmax.module import ConSmaxModule

DEFAULT_KEYS = 256
"""Row length that start values are for where none is known: the context of the paper's model."""


@dataclass(frozen=True)
class ConSmaxConstants(Constants):
    """The integers that a ConSmax unit is loaded with, for one head.

    Attributes:
        scale: see `Constants`.
        high, low: tables of float codes, indexed by the raw nibbles of the (upper) byte; the high nibble is signed.
        lower_high, lower_low: the same for the lower, unsigned byte of INT16; empty for INT8.
        multiplier: float code of C where the spec multiplies by it; 0 where C is folded into `high`.
        exponent: power of two by which the product of all table entries (and C) is to be multiplied.
        output_fraction_bits: the output code `c` stands for `c * 2**-output_fraction_bits`.
        limit: largest output code, the clamp.
    """

    @classmethod
    def stack(cls, heads: Sequence[Self]) -> Self:
        """Join the constants of several heads into those of a layer, to meet codes of shape (..., heads, q, k)."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: tuple(getattr(head, name) for head in heads) for name in names})

    high: Any
    low: Any
    lower_high: Any
    lower_low: Any
    multiplier: Any
    exponent: Any
    output_fraction_bits: Any
    limit: Any


@dataclass(frozen=True)
class ConSmax(Spec):
    """`exp(s - beta) / gamma` with learned beta and gamma: no maximum, no sum, each element on its own.

    Args:
        bits: width of a score code, 8 or 16. 16 takes two 8-bit units and a reduction multiplier.
        table_format: float format of the table entries.
        product_bits: significant bits that every product is rounded to; 0 for those of the table format.
        constant: C = exp(-beta)/gamma "folded" into the high table, or "multiplied" after it.
        output_bits: width of the unsigned output; its power-of-two scale is among the constants.
        ceiling: largest probability. Training clamps the exponent there, the integers saturate there.
        share: beta and gamma per "head" or per "layer".
        beta0: start value of beta.
        gamma0: start value of gamma; 0 sets it from the context, so that a row sums to about 1.

    Raises:
        ValueError: a size that cannot be.
    """

    method: ClassVar[str] = "consmax"
    summary: ClassVar[str] = "learned constants for maximum and sum; split tables; trained from scratch"
    source: ClassVar[str] = "Liu et al. 2024, arXiv 2402.10930"
    trained: ClassVar[Training] = "from scratch"
    constants_class: ClassVar[type[Constants]] = ConSmaxConstants

    bits: Literal[8, 16] = 8
    table_format: Float = BF16
    product_bits: int = 0
    constant: Literal["folded", "multiplied"] = "folded"
    output_bits: int = 8
    ceiling: float = 1.0
    share: Literal["head", "layer"] = "head"
    beta0: float = 1.5
    gamma0: float = 0.0

    def __post_init__(self) -> None:
        self._check_fields()
        if self.table_format.mantissa_bits > 10 or self.table_format.exponent_bits < 4:
            raise ValueError(
                f"ConSmax.table_format takes 4 or more exponent and at most 10 mantissa bits, not {self.table_format}"
            )
        if self.product_bits and not 2 <= self.product_bits <= 24:
            raise ValueError(f"ConSmax.product_bits is 2 to 24, or 0 for the table format's, not {self.product_bits}")
        if not 1 <= self.output_bits <= 24:
            raise ValueError(f"ConSmax.output_bits is 1 to 24, not {self.output_bits}")
        if not (math.isfinite(self.ceiling) and self.ceiling > 0):
            raise ValueError(f"ConSmax.ceiling is a positive number, not {self.ceiling}")
        if not (abs(self.beta0) <= 64 and math.isfinite(self.gamma0) and self.gamma0 >= 0):
            raise ValueError(
                "ConSmax.beta0 is between -64 and 64 and gamma0 positive, or 0 to set it from the context, not "
                f"{self.beta0} and {self.gamma0}"
            )

    @property
    def score_bits(self) -> int:
        """Width of a score code."""
        return self.bits

    @property
    def default_scale(self) -> float:
        """Score scale of an uncalibrated layer, with which codes reach from -8 to nearly 8: 1/16 at 8 bits."""
        return 2.0 ** (4 - self.bits)

    @property
    def significant_bits(self) -> int:
        """Significant bits of every product."""
        return self.product_bits or self.table_format.mantissa_bits + 1

    def start(self, keys: int) -> dict[str, Any]:
        """Return `beta` and `gamma` to train from, for rows of up to `keys` keys.

        Scores being near 0 at first, a row of n keys sums to `n * exp(-beta) / gamma`. Under a causal mask rows have 1
        to `keys` keys, of geometric mean about `keys / e`; gamma makes that row sum to 1.
        """
        return {"beta": self.beta0, "gamma": self.gamma0 or max(keys / math.e, 1.0) * math.exp(-self.beta0)}

    def reference(self, scores: ArrayLike, mask: ArrayLike | None = None, **parameters: Any) -> NDArray[np.float64]:
        """Return `min(exp(s - beta) / gamma, ceiling)` in float64 (Eq. 2 of the paper, and the clamp).

        Args:
            scores: real scores, (..., keys).
            mask: boolean, True where attended.
            parameters: `beta` and `gamma`, numbers or arrays that broadcast to the scores; where left out, those to
                start from with this many keys.
        """
        values, attended = check_row(scores, mask)
        beta, gamma = self._beta_gamma(parameters, keys=values.shape[-1])
        exponent = np.minimum(values - beta - np.log(gamma), math.log(self.ceiling))
        return np.where(attended, np.exp(exponent), 0.0)

    def constants(self, **parameters: Any) -> ConSmaxConstants:
        """Build the tables of one head.

        Args:
            parameters: `beta` and `gamma` (left out: those to start from with 256 keys); `scale`, the real value of
                one step of the score code (default: `default_scale`); `largest`, the largest probability that the
                head gives, from calibration (default: the ceiling), which sets the output scale.

        Raises:
            ValueError: gamma or the scale is not positive and finite.
        """
        parameters = dict(parameters)
        scale = encode_scale(float(parameters.pop("scale", self.default_scale)))
        largest = float(parameters.pop("largest", self.ceiling))
        if not (math.isfinite(largest) and largest >= 0):
            raise ValueError(f"the largest probability of a ConSmax head is finite and not negative, not {largest}")
        beta, gamma = self._beta_gamma(parameters, keys=DEFAULT_KEYS)
        log2_c = -(float(beta) + math.log(float(gamma))) / math.log(2)
        step = scale[0] * 2.0 ** scale[1] / math.log(2)  # of a score code, as an exponent of two
        signed = [i - 16 if i >= 8 else i for i in range(16)]
        nibbles: list[list[int]] = [[16 * h for h in signed], list(range(16))]
        if self.bits == 16:
            nibbles = [
                [4096 * h for h in signed],
                [256 * i for i in range(16)],
                [16 * i for i in range(16)],
                list(range(16)),
            ]
        exponents = [[step * weight for weight in table] for table in nibbles]
        folded = self.constant == "folded"
        if folded:
            exponents[0] = [each + log2_c for each in exponents[0]]
        fraction_bits = self.output_bits - math.ceil(math.log2(max(min(largest, self.ceiling), 2.0**-32)))
        limit = min((1 << self.output_bits) - 1, max(1, round(math.ldexp(self.ceiling, fraction_bits))))
        # From four times the limit on the result saturates whatever the other factors, which are all 1 or more. Cutting
        # the entries there leaves the format's range to those that matter.
        useful = math.log2(math.ldexp(limit, -fraction_bits)) + 2 - (0.0 if folded else log2_c)
        exponents[0] = [min(each, useful) for each in exponents[0]]
        tables, biases = zip(*(self._float_table(table) for table in exponents), strict=True)
        (multiplier,), bias = ((0,), 0) if folded else self._float_table([log2_c])
        return ConSmaxConstants(
            scale=scale,
            high=tables[0],
            low=tables[1],
            lower_high=tables[2] if self.bits == 16 else (),
            lower_low=tables[3] if self.bits == 16 else (),
            multiplier=multiplier,
            exponent=sum(biases) + bias,
            output_fraction_bits=fraction_bits,
            limit=limit,
        )

    def _beta_gamma(self, parameters: dict[str, Any], keys: int) -> tuple[Any, Any]:
        self.refuse({key: value for key, value in parameters.items() if key not in ("beta", "gamma")})
        given = {**self.start(keys), **parameters}
        beta, gamma = given["beta"], given["gamma"]
        if not (np.all(np.isfinite(beta)) and np.all(np.isfinite(gamma)) and np.all(np.asarray(gamma) > 0)):
            raise ValueError(f"ConSmax takes a finite beta and a positive gamma, not {beta} and {gamma}")
        return beta, gamma

    def _float_table(self, exponents: list[float]) -> tuple[tuple[int, ...], int]:
        """Encode 2**exponents as floats, times a common power of two where not all of them are normal numbers."""
        number = self.table_format
        bias = 0
        if min(exponents) < number.min_exponent or max(exponents) >= number.max_exponent:
            bias = math.floor(max(exponents)) - (number.max_exponent - 1)
        values = np.asarray([2.0 ** max(each - bias, -1000.0) for each in exponents])
        return tuple(int(code) for code in number.encode(values)), bias

    def _golden(self, codes: Array, mask: Array | None, constants: ConSmaxConstants) -> Array:
        """Score codes in, output codes out; see `softmaxkit.methods.consmax.golden`."""
        from softmaxkit.methods.consmax.golden import golden

        return golden(self, codes, mask, constants)

    def decode(self, codes: Array, constants: Constants) -> Array:
        """Turn output codes into probabilities."""
        from softmaxkit.methods.consmax.golden import decode

        assert isinstance(constants, ConSmaxConstants)
        return decode(codes, constants)

    def error_bound(
        self, codes: Array, mask: Array | None, constants: Constants, **parameters: Any
    ) -> NDArray[np.float64]:
        """Bound golden against `reference` with the same beta and gamma, for the constants of one head.

        Each table entry (and C) is off by half an ulp of its format, each product by half an ulp of its width, the
        output by half a step; entries below the smallest normal are 0; the output saturates at its limit.
        """
        from softmaxkit.methods.consmax.golden import factors

        assert isinstance(constants, ConSmaxConstants)
        truth = self.reference(self.score_values(codes, constants), mask, **parameters)
        parts = factors(self, np.asarray(codes), constants)
        entry, product = 2.0 ** -(self.table_format.mantissa_bits + 1), 2.0**-self.significant_bits
        growth = (1 + entry) ** len(parts) * (1 + product) ** (len(parts) - 1)
        shrink = (1 - entry) ** len(parts) * (1 - product) ** (len(parts) - 1)
        vanished = np.any([significand == 0 for significand, _ in parts], axis=0)
        step = 2.0**-constants.output_fraction_bits
        # Unclamped, so that a value rounded to just below the clamp is bounded too.
        beta, gamma = self._beta_gamma(parameters, keys=truth.shape[-1])
        free = np.exp(np.minimum(self.score_values(codes, constants) - beta - np.log(gamma), 700.0))
        low = np.minimum(np.where(vanished, 0.0, free * shrink - step / 2), constants.limit * step)
        high = np.minimum(np.where(vanished, 0.0, free * growth + step / 2), constants.limit * step)
        bound = np.maximum(np.abs(high - truth), np.abs(truth - low))
        return np.where(truth > 0, bound, 0.0) if mask is None else np.where(mask, bound, 0.0)

    def module(self, heads: int | None = None, mode: str = "float", **parameters: Any) -> ConSmaxModule:
        """Return the torch module, which learns beta and log gamma.

        Args:
            heads: size of the axis -3 of the scores; None for one beta and gamma in all.
            mode: "float" or "integer".
            parameters: `beta` and `gamma` to train from, numbers or sequences of one a head (left out:
                `start(256)`); `scale` and `largest` as for `constants`.
        """
        from softmaxkit.methods.consmax.module import ConSmaxModule

        return ConSmaxModule(self, heads, mode, **parameters)
