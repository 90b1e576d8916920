"""The spec of sigmoid attention, and its constants: a table over all score codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from array_api_compat import array_namespace

from softmaxkit.formats import UQ, Array, Fixed, Q
from softmaxkit.masks import broadcast_mask, check_row
from softmaxkit.methods.base.constants import Constants, encode_scale
from softmaxkit.methods.base.format_rules import check_score_format, check_unsigned
from softmaxkit.methods.base.metadata import DEFAULT_KEYS
from softmaxkit.methods.base.spec import Dataflow, Spec, Storage, Training
from softmaxkit.tables import lookup

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from softmaxkit.methods.base.forms import Form
    from softmaxkit.methods.sigmoid.module import SigmoidModule

MOST_SCORE_BITS = 10
"""Widest score code in bits: the table has one entry per code."""


@dataclass(frozen=True)
class SigmoidConstants(Constants):
    """The integers of one head.

    Attributes:
        scale: see `Constants`.
        table: output codes, indexed by the raw bits of the score code, so negative scores follow the positive ones.
    """

    table: Any


@dataclass(frozen=True)
class Sigmoid(Spec):
    """Sigmoid attention: `1 / (1 + exp(-(score + bias)))`, element-wise, with a bias that is known in advance.

    Args:
        keys: n of the initial bias `-log(n)`; 0 takes the model's number of positions.
        bias: "length" starts training from `-log(n)`, as in the paper; "fitted" is for existing softmax models, and
            calibration sets the bias to minus the mean log-sum of their rows.
        scores: fixed-point format of the incoming scores; signed, up to 10 bits.
        output: format of the probabilities; unsigned.
        share: one bias per "head" or per "layer".

    Raises:
        ValueError: a format or size is not supported.
    """

    method: ClassVar[str] = "sigmoid"
    title: ClassVar[str] = "Sigmoid attention"
    summary: ClassVar[str] = "sigmoid of score - log n, element-wise; trained from scratch"
    source: ClassVar[str] = "Ramapuram et al. 2024, arXiv 2409.04431"
    trained: ClassVar[Training] = "from scratch"
    rival: ClassVar[bool] = True
    dataflow: ClassVar[Dataflow] = "element"
    storages: ClassVar[tuple[Storage, ...]] = ("flip-flops", "latches")
    constants_class: ClassVar[type[Constants]] = SigmoidConstants
    constants_fields: ClassVar[tuple[str, ...]] = ("scores", "output")
    parameters: ClassVar[tuple[str, ...]] = ("bias",)
    required: ClassVar[tuple[str, ...]] = parameters

    keys: int = 0
    bias: Literal["length", "fitted"] = "length"
    scores: Fixed = Q(5, 3)
    output: Fixed = UQ(1, 15)
    share: Literal["head", "layer"] = "head"

    def __post_init__(self) -> None:
        self._check_fields()
        if not 0 <= self.keys <= 1 << 32:
            raise ValueError(f"Sigmoid.keys must be a number of keys from 1 to 2**32, or 0, got {self.keys}")
        check_score_format(self, "scores", MOST_SCORE_BITS)
        check_unsigned(self, "output")

    @property
    def training(self) -> Training:
        """How a model is prepared: trained from scratch, or with a fitted bias only calibrated."""
        return "calibrated" if self.bias == "fitted" else self.trained

    @property
    def score_bits(self) -> int:
        """Width of a score code in bits."""
        return self.scores.bits

    def start(self, keys: int) -> dict[str, Any]:
        """Return the initial `bias`, with which a row of `keys` scores near 0 sums to about 1."""
        return {"bias": -math.log(self.keys or max(keys, 1))}

    def reference(self, scores: ArrayLike, mask: ArrayLike | None = None, **parameters: Any) -> NDArray[np.float64]:
        """Compute `1 / (1 + exp(-(score + bias)))` in float64.

        Args:
            scores: real scores, (..., keys).
            mask: boolean, True where attended.
            parameters: `bias`, a number or an array that broadcasts to the scores; the default is `start(keys)`.

        Returns:
            Probabilities, shape of the scores; 0 where masked.

        Raises:
            TypeError: a parameter is unknown.
            ValueError: the bias is not finite, a score is NaN, or the mask does not broadcast.
        """
        values, attended = check_row(scores, mask)
        self.check_parameters(parameters)
        bias = self._bias(parameters, values.shape[-1])
        # Avoids overflow for either sign.
        power = np.exp(-np.abs(values + bias))
        return np.where(attended, np.where(values + bias >= 0, 1.0, power) / (1 + power), 0.0)

    def _bias(self, parameters: Mapping[str, Any], keys: int) -> Any:
        """Return the bias rounded to float32, as a module stores it."""
        bias = np.asarray({**self.start(keys), **parameters}["bias"], np.float32)
        if not np.isfinite(bias).all():
            raise ValueError(f"Sigmoid requires a finite bias, such as -log(512) = -6.24, got {parameters.get('bias')}")
        return bias.astype(np.float64)

    def constants(self, **parameters: Any) -> SigmoidConstants:
        """Build the table of one head.

        Args:
            parameters: `bias` (default: `start(256)`).

        Raises:
            TypeError: a parameter is unknown.
            ValueError: the bias is not finite.
        """
        self.check_parameters(parameters)
        self._check_one_head(parameters)
        codes = np.arange(1 << self.score_bits)
        signed = np.where(codes <= self.scores.max_code, codes, codes - len(codes))
        bias = self._bias(parameters, DEFAULT_KEYS)
        outputs = self.output.encode(self.reference(signed * self.scores.resolution, bias=bias))
        table = tuple(int(code) for code in outputs)
        return SigmoidConstants(encode_scale(self.scores.resolution), table, form=self.constants_form)

    def _golden(self, codes: Array, mask: Array | None, constants: SigmoidConstants) -> Array:
        """Look score codes up in the table."""
        xp = array_namespace(codes)
        outputs = lookup(constants.table, codes & ((1 << self.score_bits) - 1))
        return xp.where(broadcast_mask(codes, mask), outputs, xp.zeros_like(outputs))

    def _decode(self, codes: Array, constants: Any) -> Array:
        """Convert output codes to probabilities."""
        return self.output.decode(codes)

    def error_bound(
        self, codes: Array, mask: Array | None, constants: Constants, **parameters: Any
    ) -> NDArray[np.float64]:
        """Bound golden against `reference` with the same bias: half a step of the output, or its saturation."""
        truth = self.reference(self.score_values(codes, constants), mask, **parameters)
        return np.where(truth > 0, np.maximum(self.output.resolution / 2, truth - self.output.largest), 0.0)

    def module(self, heads: int | None = None, mode: str = "float", **parameters: Any) -> SigmoidModule:
        """Return the torch module, which learns the bias.

        Args:
            heads: size of axis -3 of the scores; None shares one bias.
            mode: "float", "integer" or "fused".
            parameters: initial `bias`, a single number or a sequence with one per head (default: `start(256)`).

        Raises:
            TypeError: a parameter is unknown.
            ValueError: the mode is unknown, or the bias is not finite or has the wrong shape.
        """
        from softmaxkit.methods.sigmoid.module import SigmoidModule

        self.check_parameters(parameters, function=self.module)
        return SigmoidModule(self, heads, mode, **parameters)

    def examples(self) -> list[Constants]:
        """Return constants with the biases for rows of 256, 16 and 4096 keys."""
        return [self.constants(bias=-math.log(keys)) for keys in (256, 16, 4096)]

    def sample_parameters(self, keys: int, spread: float, largest: float | None = None) -> dict[str, Any]:
        """Return the bias for rows of `keys` keys."""
        return self.start(keys)

    @classmethod
    def forms(cls) -> list[Form]:
        """Return constant tables with 16-bit and with 8-bit outputs."""
        from softmaxkit.methods.base.forms import Form

        narrow = replace(cls(), output=UQ(0, 8))
        return [Form("one constant table of 256", cls(), True), Form("8-bit outputs", narrow, True)]

    @classmethod
    def variants(cls) -> list[Self]:
        """Return the spec with the paper's bias."""
        return [cls()]
