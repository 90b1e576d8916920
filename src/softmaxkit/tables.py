"""Look-up tables and piecewise-linear fits: built once, shared by golden, kernels and hardware."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from softmaxkit.formats import Array, Rounding, integers, leading_one, shift_right

GUARD_BITS = 3
"""Fraction bits that a fitted table has beyond its result, so that the one rounding at the end is what counts."""


def per_head(value: Any, codes: Array) -> Any:
    """Shape a constant to meet codes of shape (..., heads, queries, keys): a tuple becomes an array, one number stays.

    Ints become int64, floats float64.
    """
    if not isinstance(value, tuple):
        return value
    xp = array_namespace(codes)
    kind = xp.float64 if isinstance(value[0], float) else xp.int64
    return xp.asarray(value, dtype=kind, device=device(codes))[:, None, None]


def lookup(table: Any, index: Array) -> Array:
    """Read `table[index]`, the index of any shape.

    Args:
        table: a tuple of ints; or a tuple of such tuples, one a head, for an index of shape (..., heads, q, k).
        index: int64, within the table.
    """
    xp = array_namespace(index)
    flat = integers(table, index)
    if flat.ndim == 2:
        index = index + integers(tuple(range(0, flat.shape[0] * flat.shape[1], flat.shape[1])), index)[:, None, None]
        flat = xp.reshape(flat, (-1,))
    return xp.reshape(xp.take(flat, xp.reshape(index, (-1,)), axis=0), index.shape)


@dataclass(frozen=True)
class PiecewiseLinear:
    """A function on [0, 1) by lines, or by polynomials, from equally spaced points.

    The argument is a code of `input_bits` fraction bits: its high bits choose the segment, the rest run along it.
    `offsets` and `slopes` (the rise over a whole segment) carry `fraction_bits + GUARD_BITS` fraction bits, and so do
    `curves`, what the powers 2, 3, ... of the way along a segment add: of alternating signs, the slopes' first. No
    result is below `least`.
    """

    input_bits: int
    fraction_bits: int
    offsets: tuple[int, ...]
    slopes: tuple[int, ...]
    curves: tuple[tuple[int, ...], ...] = ()
    least: int = 0

    @property
    def rest_bits(self) -> int:
        """Low bits of the argument, which run along a segment."""
        return self.input_bits - (len(self.offsets).bit_length() - 1)

    def __call__(self, codes: Array, rounding: Rounding = "nearest") -> Array:
        """Evaluate on int64 codes in [0, 2**input_bits); the result has `fraction_bits` and is rounded once."""
        if self.rest_bits == 0:
            return lookup(self.results(rounding), codes)
        segment = codes >> self.rest_bits
        rest = codes & ((1 << self.rest_bits) - 1)
        coefficients = [lookup(table, segment) for table in (self.slopes, *self.curves)]
        slope = coefficients.pop()
        while coefficients:  # Horner's rule, rounded to nearest at each step
            slope = coefficients.pop() + shift_right(slope * rest, self.rest_bits)
        line = (lookup(self.offsets, segment) << self.rest_bits) + slope * rest
        result = shift_right(line, self.rest_bits + GUARD_BITS, rounding)
        return array_namespace(result).clip(result, self.least, None) if self.least else result

    @lru_cache  # noqa: B019  specs hold few tables, for good
    def results(self, rounding: Rounding) -> tuple[int, ...]:
        """Return the results themselves, where nothing runs along the segments (`rest_bits` is 0)."""
        return tuple(int(x) for x in shift_right(np.asarray(self.offsets, np.int64), GUARD_BITS, rounding))


def fit(function: Callable[[float], float], segments: int, input_bits: int, fraction_bits: int) -> PiecewiseLinear:
    """Fit chords to a function on [0, 1].

    Args:
        function: the function, of float64.
        segments: how many lines, a power of two.
        input_bits: fraction bits of the argument, at least log2(segments).
        fraction_bits: fraction bits of the result.

    Raises:
        ValueError: the number of segments is no power of two, or the argument has too few bits to tell them apart.
    """
    if segments < 1 or segments & (segments - 1):
        raise ValueError(f"{segments} segments: the number of segments must be a power of two (1, 2, 4, ...)")
    if segments > 1 << input_bits:
        raise ValueError(
            f"{segments} segments need an argument of {segments.bit_length() - 1} or more fraction bits, "
            f"not {input_bits}; take at most {1 << input_bits} segments"
        )
    scale = 2 ** (fraction_bits + GUARD_BITS)
    points = [round(function(i / segments) * scale) for i in range(segments + 1)]
    rest_bits = input_bits - (segments.bit_length() - 1)
    if max(map(abs, points)).bit_length() + rest_bits > 62:
        raise ValueError(
            f"a table of {segments} segments with {fraction_bits} fraction bits needs more than 64-bit integers; take "
            "fewer fraction bits or more segments"
        )
    slopes = [after - before for before, after in pairwise(points)]
    if segments == 1 << input_bits:
        slopes = [0] * segments  # nothing runs along the segments: a plain table
    return PiecewiseLinear(input_bits, fraction_bits, tuple(points[:-1]), tuple(slopes))


@lru_cache
def power_of_two(segments: int, input_bits: int, fraction_bits: int) -> PiecewiseLinear:
    """Return 2**x for x in [0, 1): results in [1, 2)."""
    return fit(lambda x: 2.0**x, segments, input_bits, fraction_bits)


def power_of_two_error(segments: int) -> float:
    """Bound of the relative error of chords of 2**x, before any rounding.

    A chord over a length h is off by at most h**2/8 of the largest second derivative there, ln(2)**2 * 2**x, and 2**x
    grows by 2**h over it.
    """
    return (math.log(2) / segments) ** 2 / 8 * 2 ** (1 / segments)


@lru_cache
def inverse_power_series(degree: int, segments: int, input_bits: int, fraction_bits: int) -> PiecewiseLinear:
    """Return 2**-x for x in [0, 1) by its Taylor series at the start of each segment: results in [1/2, 1].

    Args:
        degree: of the highest power, 1 or more.
        segments: how many series, a power of two.
        input_bits: fraction bits of the argument, at least log2(segments).
        fraction_bits: fraction bits of the result.

    Raises:
        ValueError: as `fit`.
    """
    start = fit(lambda x: 2.0**-x, segments, input_bits, fraction_bits)
    if start.rest_bits == 0:
        return start
    scale = 2 ** (fraction_bits + GUARD_BITS)
    slopes, *curves = (
        tuple(
            round(2.0 ** -(i / segments) * (-math.log(2) / segments) ** power / math.factorial(power) * scale)
            for i in range(segments)
        )
        for power in range(1, degree + 1)
    )
    series = replace(start, slopes=slopes, curves=tuple(curves))
    half = 1 << (fraction_bits - 1)  # odd degrees end below it
    low = series(np.arange(1 << input_bits)).min() < half
    return replace(series, least=half) if low else series


def inverse_power_series_error(degree: int, segments: int, fraction_bits: int) -> float:
    """Bound of the absolute error of `inverse_power_series`, before its final rounding.

    The series alternates, so what is left out is less than its first term; each coefficient and each step of Horner's
    rule but the last is off by half a step.
    """
    truncated = (math.log(2) / segments) ** (degree + 1) / math.factorial(degree + 1)
    return truncated + degree * 2.0 ** -(fraction_bits + GUARD_BITS)


@dataclass(frozen=True)
class Reciprocal:
    """1/d of positive integers: normalise by the leading one, then a piecewise-linear mantissa.

    The argument's bits below the leading one are cut to `mantissa_bits + GUARD_BITS`.
    """

    segments: int
    mantissa_bits: int

    @property
    def table(self) -> PiecewiseLinear:
        """1/(1+x) for x in [0, 1): results in (1/2, 1]."""
        return _reciprocal_table(self.segments, self.mantissa_bits)

    def __call__(self, codes: Array, rounding: Rounding = "nearest") -> tuple[Array, Array]:
        """Return `(mantissa, exponent)`: `1/code` is about `mantissa * 2**-(mantissa_bits + exponent)`.

        `exponent` is the position of the leading one. A code of 0 is treated as 1.
        """
        xp = array_namespace(codes)
        codes = xp.clip(codes, 1, None)
        exponent = leading_one(codes)
        surplus = exponent - self.table.input_bits
        normalised = (codes << xp.clip(-surplus, 0, None)) >> xp.clip(surplus, 0, None)
        fraction = normalised - (1 << self.table.input_bits)
        return self.table(fraction, rounding), exponent

    def relative_error(self, rounding: Rounding = "nearest") -> float:
        """Bound of the relative error: chord, cut argument, table entries and the final rounding.

        The chord of 1/(1+x) over a segment of length h is off by at most h**2/4, the largest second derivative being
        2; mantissas are at least 1/2, so an absolute error doubles.
        """
        chord = 1 / (4 * self.segments**2)
        cut = 2.0**-self.table.input_bits
        unit = 2.0**-self.mantissa_bits
        return 2 * (chord + unit * (2.0**-GUARD_BITS + (0.5 if rounding == "nearest" else 1.0))) + cut


@lru_cache
def _reciprocal_table(segments: int, mantissa_bits: int) -> PiecewiseLinear:
    return fit(lambda x: 1 / (1 + x), segments, mantissa_bits + GUARD_BITS, mantissa_bits)
