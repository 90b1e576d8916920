"""Golden attention: exactly what an engine computes, from int8 queries, keys and values to int8 outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from array_api_compat import array_namespace, device

from softmaxkit.formats import Array, Fixed, encode_scale, shift_right
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.spec import Spec

CODE = Fixed(8, 0)
"""Of queries, keys, values and outputs."""

MAX_CHANNELS = 1024


@dataclass(frozen=True)
class Attention:
    """The integers of one head, fixed when an engine is built.

    A score is `sum(query * key)`, times `multiplier`, times `2**-score_places`, rounded once to a score code of the
    method and saturated. An output is `sum(weight * value)` times `2**-output_places`, rounded once to int8 and
    saturated. Both sums are exact; rounding is to nearest, ties to even.

    Args:
        spec: the method.
        constants: of one head.
        channels: of a query, key, value and output.
        multiplier: unsigned, up to 16 bits.
        score_places: bits that a product has beyond a score code; for a method with float scores, beyond 1.
        output_places: bits that a sum of weighted values has beyond an output.

    Raises:
        ValueError: a number out of these ranges, or constants of several heads.
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
        ranges = {
            "channels": (1, MAX_CHANNELS),
            "multiplier": (1, (1 << 16) - 1),
            "score_places": (0, 48),
            "output_places": (0, 32),
        }
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name} of an engine is a whole number from {least} to {most}, not {value!r}")

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
        """Return the integers for real numbers.

        Args:
            spec: the method.
            channels: of a query.
            constants: of one head; default: the first example of the spec.
            query_step: the real number that the code 1 of a query stands for.
            key_step: the same of a key.
            scale: of scores; default: `1 / sqrt(channels)`.

        Raises:
            ValueError: the steps and the scale are too far from the method's score scale.
        """
        constants = spec.examples()[0] if constants is None else constants
        scale = 1 / math.sqrt(channels) if scale is None else scale
        multiplier, exponent = encode_scale(query_step * key_step * scale / _score_scale(spec, constants))
        if exponent > 0:  # a whole number
            multiplier, exponent = multiplier << exponent, 0
        places = max(0, round(-math.log2(spec.weight_step(constants))))
        return cls(spec, constants, channels, multiplier, -exponent, places)

    @property
    def output_step(self) -> float:
        """The real number that the code 1 of an output stands for, where the code 1 of a value stands for 1."""
        return float(self.spec.weight_step(self.constants) * 2.0**self.output_places)

    def scores(self, queries: Array, keys: Array) -> Array:
        """Return score codes, int64 (..., rows, keys), of codes (..., rows, channels) and (..., keys, channels)."""
        return self.spec.scores_of(_product(queries, keys.mT) * self.multiplier, self.score_places)

    def outputs(self, sums: Array) -> Array:
        """Bring sums of weighted values to int8 codes, held in int64."""
        return CODE.saturate(shift_right(sums, self.output_places))


def golden_attention(attention: Attention, queries: Array, keys: Array, values: Array, attended: Array) -> Array:
    """Return the outputs of an engine whose unit sees whole rows, or every score by itself.

    Args:
        attention: the integers of the head.
        queries: int8 codes in any integer type, NumPy or torch, (..., rows, channels).
        keys: the same, (..., keys, channels).
        values: the same, (..., keys, channels).
        attended: integers, (..., rows): the first so many keys are attended; all, where there are fewer.

    Returns:
        int64, (..., rows, channels).

    Raises:
        ValueError: shapes that do not fit, or codes out of range.
    """
    check_codes(attention, queries, keys, values)
    weights = attention.spec.weights(
        attention.spec.golden(attention.scores(queries, keys), causal(attended, keys), attention.constants)
    )
    return attention.outputs(_product(weights, values))


def golden_deferred(attention: Attention, queries: Array, keys: Array, values: Array, attended: Array) -> Array:
    """Return the outputs of an engine with the division last; arguments and result as of `golden_attention`.

    What is summed is rescaled where the maximum rises, slice by slice of the method, each time rounded once; then the
    sum times the factor is brought to int8 by a shift, rounded once.

    Raises:
        ValueError: as `golden_attention`, or the method has no such form.
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
    """Refuse what are no codes of queries, keys and values that go together."""
    xp = array_namespace(queries)
    for name, codes in (("queries", queries), ("keys", keys), ("values", values)):
        if codes.ndim < 2 or codes.shape[-1] != attention.channels:
            raise ValueError(f"{name} are (..., {attention.channels}), not {tuple(codes.shape)}")
        if xp.any((codes < CODE.min_code) | (codes > CODE.max_code)):
            raise ValueError(f"codes of {name} are from {CODE.min_code} to {CODE.max_code}")
    if keys.shape[-2] != values.shape[-2]:
        raise ValueError(f"there are {keys.shape[-2]} keys and {values.shape[-2]} values; give as many")


def _score_scale(spec: Spec, constants: Constants) -> float:
    """Return the score scale of the constants of one head, and refuse any other."""
    spec.check_constants(constants)
    if isinstance(constants.real_scale, tuple):
        raise ValueError(
            f"an engine takes the constants of one head, not of {constants.heads}; constants.of_head(0) is the first"
        )
    return constants.real_scale


def _product(first: Array, second: Array) -> Array:
    """Return the exact matrix product of integers, which torch has on no GPU, but of floats: it fits their 53 bits."""
    xp = array_namespace(first)
    return xp.astype(xp.matmul(xp.astype(first, xp.float64), xp.astype(second, xp.float64)), xp.int64)
