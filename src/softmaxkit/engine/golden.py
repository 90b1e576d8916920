"""Golden attention: the exact integers of an engine, from int8 queries, keys and values to int8 outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from array_api_compat import array_namespace, device

from softmaxkit.engine.limits import LARGEST
from softmaxkit.formats import Array, Fixed
from softmaxkit.methods.base.constants import Constants, encode_scale
from softmaxkit.methods.base.spec import Spec
from softmaxkit.rounding import shift_right

CODE = Fixed(8, 0)
"""Format of queries, keys, values and outputs."""

RANGES = {
    "channels": (1, LARGEST["channels"]),
    "multiplier": (1, (1 << 16) - 1),
    "score_places": (0, 48),
    "output_places": (0, 32),
}
"""Least and largest value of each integer parameter."""


@dataclass(frozen=True)
class Attention:
    """The integer parameters of one head, fixed when an engine is built.

    A score is `sum(query * key)`, times `multiplier`, times `2**-score_places`, rounded once to a score code of the
    method and saturated. An output is `sum(weight * value)` times `2**-output_places`, rounded once to int8 and
    saturated. Both sums are exact; rounding is to nearest, ties to even.

    Args:
        spec: the method.
        constants: of one head.
        channels: of a query, key, value and output; 1 to 1,024.
        multiplier: 1 to 65,535.
        score_places: fraction bits of a product relative to a score code, or to 1 if scores are floats; 0 to 48.
        output_places: fraction bits of a weighted sum relative to an output; 0 to 32.

    Raises:
        ValueError: a parameter out of its range, or constants of several heads.
        TypeError: constants of another method.
    """

    spec: Spec
    constants: Constants
    channels: int
    multiplier: int
    score_places: int
    output_places: int

    def __post_init__(self) -> None:
        _score_scale(self.spec, self.constants)
        for name in RANGES:
            _check_range(name, getattr(self, name))

    @classmethod
    def of(
        cls,
        spec: Spec,
        channels: int,
        constants: Constants | None = None,
        query_step: float = 1 / 32,
        key_step: float = 1 / 32,
        scale: float | None = None,
    ) -> Attention:
        """Return the integer parameters for real quantisation steps and a real scale.

        Args:
            spec: the method.
            channels: of a query.
            constants: of one head; default: the first example of the spec.
            query_step: real value of a query code of 1.
            key_step: real value of a key code of 1.
            scale: factor of `query @ key`; default: `1 / sqrt(channels)`.

        Raises:
            ValueError: the steps and the scale are too far from the method's score scale, or as `Attention`.
        """
        _check_range("channels", channels)
        constants = spec.examples()[0] if constants is None else constants
        scale = 1 / math.sqrt(channels) if scale is None else scale
        product_step = query_step * key_step * scale / _score_scale(spec, constants)
        multiplier, exponent = encode_scale(product_step)
        if exponent > 0:  # a whole number: no places
            multiplier, exponent = multiplier << exponent, 0
        if multiplier > RANGES["multiplier"][1] or -exponent > RANGES["score_places"][1]:
            raise ValueError(
                f"the product of a query and a key code of 1 is {product_step:g} score codes, out of the range of an "
                "engine; change query_step, key_step or scale"
            )
        places = max(0, round(-math.log2(spec.weight_step(constants))))
        return cls(spec, constants, channels, multiplier, -exponent, places)

    @property
    def output_step(self) -> float:
        """Real value of an output code of 1, if a value code of 1 represents 1."""
        return float(self.spec.weight_step(self.constants) * 2.0**self.output_places)

    def scores(self, queries: Array, keys: Array) -> Array:
        """Return score codes, int64 (..., rows, keys), for codes (..., rows, channels) and (..., keys, channels)."""
        return self.spec.scores_of(_product(queries, keys.mT) * self.multiplier, self.score_places)

    def outputs(self, sums: Array) -> Array:
        """Return the outputs for weighted sums, int64: shifted, rounded and saturated to the range of int8."""
        return CODE.saturate(shift_right(sums, self.output_places))


def _check_range(name: str, value: object) -> None:
    """Raise ValueError if an integer parameter is out of its range."""
    least, most = RANGES[name]
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} of an engine is a whole number from {least} to {most}, not {value!r}")


def golden_attention(attention: Attention, queries: Array, keys: Array, values: Array, attended: Array) -> Array:
    """Return the outputs of an engine with the pipeline "token" or "element".

    Args:
        attention: integer parameters of the head.
        queries: int8 codes in any integer dtype, NumPy or torch, (..., rows, channels).
        keys: likewise, (..., keys, channels).
        values: likewise, (..., keys, channels).
        attended: integers, (..., rows): each row attends to its first `attended` keys, or to all if there are fewer.

    Returns:
        int64, (..., rows, channels).

    Raises:
        ValueError: mismatched shapes, codes that are not integers, or codes out of range.
    """
    check_codes(attention, queries, keys, values)
    weights = attention.spec.weights(
        attention.spec.golden(attention.scores(queries, keys), causal(attended, keys), attention.constants)
    )
    return attention.outputs(_product(weights, values))


def golden_deferred(attention: Attention, queries: Array, keys: Array, values: Array, attended: Array) -> Array:
    """Return the outputs of an engine with the pipeline "deferred"; arguments and result as in `golden_attention`.

    The sums are rescaled and rounded once whenever the maximum rises, slice by slice. At the end they are multiplied by
    the row's factor, shifted and rounded once to int8.

    Raises:
        ValueError: as `golden_attention`, or the method cannot divide last.
    """
    check_codes(attention, queries, keys, values)
    xp = array_namespace(queries)
    rows = attention.spec.deferred(attention.scores(queries, keys), causal(attended, keys), attention.constants)
    sums = xp.zeros_like(_product(rows.weights, values))
    for index in range(rows.rises.shape[-1]):
        some = slice(index * rows.width, (index + 1) * rows.width)
        sums = rows.rescaled(sums, index) + _product(rows.weights[..., some], values[..., some, :])
    return CODE.saturate(shift_right(sums * rows.factor, rows.places))


def causal(attended: Array, keys: Array) -> Array:
    """Return the mask of rows that attend to their first `attended` keys; boolean, (..., rows, keys)."""
    xp = array_namespace(keys)
    return xp.arange(keys.shape[-2], device=device(keys)) < attended[..., None]


def check_codes(attention: Attention, queries: Array, keys: Array, values: Array) -> None:
    """Check dtypes, shapes and ranges of queries, keys and values.

    Raises:
        ValueError: the first of them that does not fit, and what would.
    """
    xp = array_namespace(queries)
    for name, codes in (("queries", queries), ("keys", keys), ("values", values)):
        if codes.ndim < 2 or codes.shape[-1] != attention.channels:
            raise ValueError(f"{name} are (..., {attention.channels}), not {tuple(codes.shape)}")
        if not xp.isdtype(codes.dtype, "integral"):
            raise ValueError(f"codes of {name} are integers, not {codes.dtype}")
        if xp.any((codes < CODE.min_code) | (codes > CODE.max_code)):
            raise ValueError(f"codes of {name} are from {CODE.min_code} to {CODE.max_code}")
    if keys.shape[-2] != values.shape[-2]:
        raise ValueError(f"there are {keys.shape[-2]} keys but {values.shape[-2]} values; give equally many")


def _score_scale(spec: Spec, constants: Constants) -> float:
    """Return the score scale of the constants of one head; refuse constants of several heads or of another spec."""
    spec.check_constants(constants)
    if isinstance(constants.real_scale, tuple):
        raise ValueError(
            f"an engine takes the constants of one head, not of {constants.heads}; constants.of_head(0) is the first"
        )
    return constants.real_scale


def _product(first: Array, second: Array) -> Array:
    """Return the exact product of integer matrices, by way of float64, since torch has no integer one on GPUs."""
    xp = array_namespace(first)
    return xp.astype(xp.matmul(xp.astype(first, xp.float64), xp.astype(second, xp.float64)), xp.int64)
