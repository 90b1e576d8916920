"""The spec of ConSmax, its constants and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from softmaxkit.formats import BF16, FP16, UQ, Array, Fixed, Float, encode_scale
from softmaxkit.masks import check_row
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.forms import Kind
from softmaxkit.methods.base.published import Published, Ratio, UnitPart, consmax_paper, ratio_text
from softmaxkit.methods.base.spec import Dataflow, Spec, Storage, Training
from softmaxkit.methods.consmax.constants import (
    ConSmaxConstants,
    with_shift_table,
    with_split_tables,
    with_whole_table,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from softmaxkit.methods.base.forms import Form
    from softmaxkit.methods.consmax.module import ConSmaxModule


def as_learned(beta: float, gamma: float) -> tuple[float, float]:
    """Return beta and log gamma as a module holds them: each rounded to float32, so that both make equal tables."""
    return float(np.float32(beta)), float(np.float32(math.log(gamma)))


PARAMETERS = ("beta", "gamma", "scale", "largest")
"""The real numbers of a head: learned, and from calibration."""

DEFAULT_KEYS = 256
"""Row length that start values are for where none is known: the context of the paper's model."""


@dataclass(frozen=True)
class ConSmax(Spec):
    """`exp(s - beta) / gamma` with learned beta and gamma: no maximum, no sum, each element on its own.

    Args:
        bits: width of a score code, 8 or 16. 16 takes two 8-bit units and a reduction multiplier.
        tables: "split", the paper's, one a nibble and their product; "shift", at a score scale of ln2/16, where the
            high nibble is a power of two and takes no table and no multiplier; "whole", one of 256 output codes.
        table_format: format of the table entries: a float; or UQ(0, n) of 4 to 12 bits, whose products are exact.
        product_bits: significant bits that every product is rounded to; 0 for those of the table format.
        constant: C = exp(-beta)/gamma "folded" into a table, or "multiplied" after it.
        output_bits: width of the unsigned output; its power-of-two scale is among the constants.
        ceiling: largest probability. Training clamps the exponent there, the integers saturate there.
        share: beta and gamma per "head" or per "layer".
        beta0: start value of beta.
        gamma0: start value of gamma; 0 sets it from the context, so that a row sums to about 1.

    Raises:
        ValueError: a size that cannot be, or tables that do not go with the other fields.
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
    published: ClassVar[tuple[Published, ...]] = consmax_paper(
        "ConSmax",
        ("16 nm", "commercial", 1250, 0.0008, 0.2, 0.2),
        ("130 nm", "commercial", 667, 0.007, 2.69, 4),
        ("16 nm", "open", 2000, 0.0009, 0.683, 0.3),
        ("sky130", "open", 167, 0.015, 1.82, 16.7),
    )
    constants_class: ClassVar[type[Constants]] = ConSmaxConstants
    constants_fields: ClassVar[tuple[str, ...]] = (
        *("bits", "tables", "table_format", "constant", "output_bits", "ceiling"),
    )
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
        self._check_tables()
        if isinstance(self.table_format, Fixed):
            self._check_fixed(self.table_format)
        elif self.table_format.mantissa_bits > 10 or self.table_format.exponent_bits < 4:
            raise ValueError(
                f"ConSmax.table_format takes 4 or more exponent and at most 10 mantissa bits, not {self.table_format}"
            )

    def _check_tables(self) -> None:
        rules: dict[str, Any] = {"bits": 8, "constant": "folded", "product_bits": 0}
        if self.tables == "whole":
            rules["table_format"] = BF16
        wrong = [name for name, only in rules.items() if getattr(self, name) != only]
        if self.tables == "split" or not wrong:
            return
        allowed = ", ".join(f"{name}={only}" for name, only in rules.items())
        given = ", ".join(f"{name}={getattr(self, name)}" for name in wrong)
        unused = " (its entries are output codes: table_format is not used)" if "table_format" in wrong else ""
        raise ValueError(
            f"ConSmax.tables={self.tables!r} takes the defaults {allowed}, not {given}{unused}; "
            f"leave {'it' if len(wrong) == 1 else 'them'} out, or take tables='split'"
        )

    def _check_fixed(self, entry: Fixed) -> None:
        if entry.signed or entry.integer_bits or not 4 <= entry.fraction_bits <= 12:
            raise ValueError(f"ConSmax.table_format is a float or UQ(0, n) with n from 4 to 12, not {entry}")
        if self.product_bits:
            raise ValueError(
                f"products of {entry} tables are exact: ConSmax.product_bits is 0 with them, not {self.product_bits}"
            )
        # What golden shifts right is up to output_bits + 1 bits wider than the product, and half of 2**61 at most.
        widest = (59 - self.output_bits) // self.factor_count
        if entry.bits > widest:
            raise ValueError(
                f"ConSmax.table_format is UQ(0, {widest}) or narrower here, not {entry}: the exact product needs "
                f"bits * factors + output_bits + 2 <= 61, and it has {self.factor_count} factors and "
                f"output_bits={self.output_bits}"
            )

    @property
    def score_bits(self) -> int:
        """Width of a score code."""
        return self.bits

    @property
    def default_scale(self) -> float:
        """Score scale of an uncalibrated layer, with which codes reach from -8 to nearly 8: 1/16 at 8 bits.

        With tables="shift" the only one, ln2/16.
        """
        return math.log(2) / 16 if self.tables == "shift" else 2.0 ** (4 - self.bits)

    @property
    def factor_count(self) -> int:
        """How many numbers of the table format make up one result: table entries, and C where it is multiplied."""
        entries = self.bits // 4 + (self.constant == "multiplied")
        return {"split": entries, "shift": 1, "whole": 0}[self.tables]

    @property
    def significant_bits(self) -> int:
        """Significant bits of every product; those of the whole product for fixed tables, which are never rounded."""
        if isinstance(self.table_format, Fixed):
            return self.table_format.bits * self.factor_count
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
        self.refuse(parameters, self.required)
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
            ValueError: gamma or the scale is not positive and finite, or tables="shift" is given another scale.
        """
        self.refuse(parameters, PARAMETERS)
        scale = self._encode_scale(float(parameters.get("scale", self.default_scale)))
        largest = float(parameters.get("largest", self.ceiling))
        if not (math.isfinite(largest) and largest >= 0):
            raise ValueError(f"the largest probability of a ConSmax head is finite and not negative, not {largest}")
        beta, gamma = self._beta_gamma(parameters, keys=DEFAULT_KEYS)
        fraction_bits = self.output_bits - math.ceil(math.log2(max(min(largest, self.ceiling), 2.0**-32)))
        empty = ConSmaxConstants(
            scale=scale,
            high=(),
            low=(),
            lower_high=(),
            lower_low=(),
            multiplier=0,
            exponent=0,
            output_fraction_bits=fraction_bits,
            limit=min((1 << self.output_bits) - 1, max(1, round(math.ldexp(self.ceiling, fraction_bits)))),
            form=self.constants_form,
        )
        beta, log_gamma = as_learned(float(beta), float(gamma))
        if self.tables == "whole":
            return with_whole_table(self, empty, beta, math.exp(log_gamma))
        log2_c = -(beta + log_gamma) / math.log(2)
        return (with_shift_table if self.tables == "shift" else with_split_tables)(self, empty, log2_c)

    def _encode_scale(self, scale: float) -> tuple[int, int]:
        code = encode_scale(scale)
        if self.tables == "shift" and code != encode_scale(self.default_scale):
            raise ValueError(
                f"ConSmax.tables='shift' works at the score scale ln2/16 = {self.default_scale:.7f} alone, not "
                f"{scale}; leave the scale out, or take tables='split' or 'whole'"
            )
        return code

    def _beta_gamma(self, parameters: Mapping[str, Any], keys: int) -> tuple[Any, Any]:
        given = {**self.start(keys), **parameters}
        beta, gamma = given["beta"], given["gamma"]
        if not (np.all(np.isfinite(beta)) and np.all(np.isfinite(gamma)) and np.all(np.asarray(gamma) > 0)):
            raise ValueError(f"ConSmax takes a finite beta and a positive gamma, not {beta} and {gamma}")
        return beta, gamma

    def _golden(self, codes: Array, mask: Array | None, constants: ConSmaxConstants) -> Array:
        """Score codes in, output codes out; see `softmaxkit.methods.consmax.golden`."""
        from softmaxkit.methods.consmax.golden import golden

        return golden(self, codes, mask, constants)

    def _decode(self, codes: Array, constants: Any) -> Array:
        """Turn output codes into probabilities."""
        from softmaxkit.methods.consmax.golden import decode

        return decode(codes, constants)

    def error_bound(
        self, codes: Array, mask: Array | None, constants: Constants, **parameters: Any
    ) -> NDArray[np.float64]:
        """Bound golden against `reference` with the same beta and gamma, for the constants of one head.

        Each float table entry (and C) is off by half an ulp of its format, each product by half an ulp of its width; a
        fixed one of code k stands for k - 1/2 to k + 1/2, and products are exact; entries that round to 0 give 0. A
        high entry that was cut to the largest fixed code still makes all but one step of the limit. With
        tables="shift" the score scale that the tables stand for is ln2/16 before its rounding. The output is off by
        half a step, and saturates at its limit; a whole table is off by no more than that.
        """
        assert isinstance(constants, ConSmaxConstants)
        scores = self.score_values(codes, constants)
        truth = self.reference(scores, mask, **parameters)
        parts = self._entries(codes, constants)
        shrink, growth = self._ratios(parts)
        vanished = np.any([significand == 0 for significand, _ in parts], axis=0)
        step = 2.0**-constants.output_fraction_bits
        # Unclamped, so that a value rounded to just below the clamp is bounded too.
        beta, gamma = self._beta_gamma(parameters, keys=truth.shape[-1])
        meant = np.asarray(codes) * self.default_scale if self.tables == "shift" else scores
        free = np.exp(np.minimum(meant - beta - np.log(gamma), 700.0))
        least = free
        if isinstance(self.table_format, Fixed) and self.tables == "split":
            cut = parts[0][0] == self.table_format.max_code
            least = np.where(cut, np.minimum(free, max(constants.limit - 1, 1) * step), free)
        low = np.minimum(np.where(vanished, 0.0, least * shrink - step / 2), constants.limit * step)
        high = np.minimum(np.where(vanished, 0.0, free * growth + step / 2), constants.limit * step)
        bound = np.maximum(np.abs(high - truth), np.abs(truth - low))
        # The constants are of beta and log gamma as the module learns them, in float32.
        bound = bound + high * np.expm1((np.abs(beta) + np.abs(np.log(gamma))) * 2.0**-24)
        return np.where(truth > 0, bound, 0.0) if mask is None else np.where(mask, bound, 0.0)

    def _entries(self, codes: Array, constants: ConSmaxConstants) -> list[tuple[Array, Array]]:
        """Return the factors that were rounded to the table format."""
        from softmaxkit.methods.consmax.golden import factors

        if self.tables == "whole":
            return []
        return factors(self, np.asarray(codes), constants)[-self.factor_count :]

    def _ratios(self, entries: list[tuple[Array, Array]]) -> tuple[Any, Any]:
        """Bound from below and above what products of these entries, none of them 0, are to the true ones."""
        if isinstance(self.table_format, Fixed):
            codes = [significand for significand, _ in entries]
            return math.prod(k / (k + 0.5) for k in codes), math.prod(k / (k - 0.5) for k in codes)
        entry, product = 2.0 ** -(self.table_format.mantissa_bits + 1), 2.0**-self.significant_bits
        count, products = len(entries), max(len(entries) - 1, 0)
        return (1 - entry) ** count * (1 - product) ** products, (1 + entry) ** count * (1 + product) ** products

    def examples(self) -> list[Constants]:
        """Return constants of heads whose probabilities are small, middling and large."""
        heads: list[dict[str, float]] = [{}, {"beta": 0.5, "gamma": 60.0}, {"beta": -0.5, "gamma": 0.7}]
        if self.tables != "shift":
            heads[2]["scale"] = 0.4 * self.default_scale
        return [self.constants(**head) for head in heads]

    def module(self, heads: int | None = None, mode: str = "float", **parameters: Any) -> ConSmaxModule:
        """Return the torch module, which learns beta and log gamma.

        Args:
            heads: size of the axis -3 of the scores; None for one beta and gamma in all.
            mode: "float" or "integer".
            parameters: `beta` and `gamma` to train from, numbers or sequences of one a head (left out:
                `start(256)`); `scale` and `largest` as for `constants`.
        """
        from softmaxkit.methods.consmax.module import ConSmaxModule

        self.refuse(parameters, PARAMETERS)
        return ConSmaxModule(self, heads, mode, **parameters)

    def as_trained(self) -> Self:
        """Return the spec with the default tables: whatever the tables, models learn the same beta and gamma."""
        return replace(self, tables="split", table_format=BF16, product_bits=0)

    @classmethod
    def variants(cls) -> list[Self]:
        """Return the paper's split tables, and a shift in place of one of them."""
        return [cls(), cls(tables="shift")]

    @classmethod
    def forms(cls) -> list[Form]:
        """Return constant tables of every kind, and loadable ones."""
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
        """Return beta and gamma with which rows of such scores sum to about 1."""
        settable = largest is not None and self.tables != "shift"
        scale = {"scale": largest / self.score_range()[1]} if settable and largest else {}
        return {"beta": math.log(keys) + spread**2 / 2, "gamma": 1.0, **scale}

    @classmethod
    def published_ratios(cls) -> list[Ratio]:
        """Return the other units of the paper over this one, with loadable tables and with constant ones."""
        from softmaxkit.methods.exact import Exact
        from softmaxkit.methods.softermax import Softermax

        ratios = []
        for name, other in (("Softermax", Softermax()), ("softmax in FP16", Exact())):
            area, energy = (ratio_text(other.published, cls.published, key) for key in ("area_um2", "energy_pj"))
            what = f"{name} over ConSmax (16 nm, commercial; open 130 nm)"
            ratios += [
                Ratio(what, area, energy, UnitPart(other), UnitPart(cls())),
                Ratio("the same, ConSmax with constant tables", "", "", UnitPart(other), UnitPart(cls(), baked=True)),
            ]
        return ratios
