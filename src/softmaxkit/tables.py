"""Look-up tables and piecewise-linear fits: built once, shared by golden, kernels and hardware."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from softmaxkit.formats import Array
from softmaxkit.rounding import Rounding, integers, leading_one, shift_right

GUARD_BITS = 3
"""Fraction bits of a fitted table beyond those of its result, so that the final rounding dominates the error."""


def heads_of(*numbers: Any) -> int | None:
    """Return for how many heads real numbers are given, as a sequence or an array; None if all are single numbers."""
    for number in numbers:
        if isinstance(number, (int, float)):  # has no shape, and Dynamo's symbolic ones refuse the question
            continue
        shape: tuple[int, ...] = (len(number),) if isinstance(number, Sequence) else getattr(number, "shape", ())
        if len(shape) == 1:
            return int(shape[0])
    return None


def constant(number: Any) -> float:
    """Return a number as one that torch.compile takes for a constant; if it changed, it would become a symbol."""
    return float.fromhex(float(number).hex())


def is_real(value: Any) -> bool:
    """Return whether a value is a real number, a sequence or an array of them, or None."""
    if isinstance(value, (int, float)):  # as in `heads_of`
        return True
    if isinstance(value, (list, tuple)):
        return all(is_real(number) for number in value)
    if hasattr(value, "dtype"):
        return "complex" not in str(value.dtype)
    return value is None or hasattr(value, "__float__")


def per_head(value: Any, codes: Array) -> Any:
    """Make a per-head constant broadcast with codes of shape (..., heads, queries, keys); a single number is unchanged.

    A tuple becomes an array of shape (heads, 1, 1): int64 for ints, float64 for floats.
    """
    if not isinstance(value, tuple):
        return value
    xp = array_namespace(codes)
    kind = xp.float64 if isinstance(value[0], float) else xp.int64
    return xp.asarray(value, dtype=kind, device=device(codes))[:, None, None]


def lookup(table: Any, index: Array) -> Array:
    """Return `table[index]` for an index of any shape.

    Args:
        table: a tuple of ints; or a tuple of such tuples, one per head, for an index of shape (..., heads, q, k).
        index: int64, within the range of the table.
    """
    xp = array_namespace(index)
    flat = integers(table, index)
    if flat.ndim == 2:
        index = index + integers(tuple(range(0, flat.shape[0] * flat.shape[1], flat.shape[1])), index)[:, None, None]
        flat = xp.reshape(flat, (-1,))
    return xp.reshape(xp.take(flat, xp.reshape(index, (-1,)), axis=0), index.shape)


@dataclass(frozen=True)
class PiecewiseLinear:
    """A function on [0, 1), approximated by lines or polynomials over segments of equal length.

    The argument is a code with `input_bits` fraction bits: its high bits select the segment, the low bits the position
    within it. `offsets` and `slopes` (the rise over a whole segment) have `fraction_bits + GUARD_BITS` fraction bits;
    so do `curves`, the coefficients of the powers 2, 3, ... of that position, with alternating signs from the slopes
    on. Results are clamped from below to `least`.
    """

    input_bits: int
    fraction_bits: int
    offsets: tuple[int, ...]
    slopes: tuple[int, ...]
    curves: tuple[tuple[int, ...], ...] = ()
    least: int = 0

    @property
    def rest_bits(self) -> int:
        """Number of low bits of the argument, which give the position within a segment."""
        return self.input_bits - (len(self.offsets).bit_length() - 1)

    def __call__(self, codes: Array, rounding: Rounding = "nearest") -> Array:
        """Evaluate on int64 codes in [0, 2**input_bits); the result has `fraction_bits` fraction bits."""
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

    @lru_cache  # noqa: B019  a process uses few tables, and keeps them
    def results(self, rounding: Rounding) -> tuple[int, ...]:
        """Return the table of all results, where each segment is a single point (`rest_bits` is 0)."""
        return tuple(int(x) for x in shift_right(np.asarray(self.offsets, np.int64), GUARD_BITS, rounding))


def fit(function: Callable[[float], float], segments: int, input_bits: int, fraction_bits: int) -> PiecewiseLinear:
    """Fit chords to a function on [0, 1].

    Args:
        function: a function of a float.
        segments: number of chords, a power of two.
        input_bits: fraction bits of the argument, at least log2(segments).
        fraction_bits: fraction bits of the result.

    Raises:
        ValueError: the number of segments is not a power of two, the argument has too few bits to select one, or the
            evaluation would overflow int64.
    """
    if segments < 1 or segments & (segments - 1):
        raise ValueError(f"the number of segments must be a power of two (1, 2, 4, ...), got {segments}")
    if segments > 1 << input_bits:
        raise ValueError(
            f"{segments} segments need an argument of at least {segments.bit_length() - 1} fraction bits, "
            f"got {input_bits}; use at most {1 << input_bits} segments"
        )
    scale = 2 ** (fraction_bits + GUARD_BITS)
    points = [round(function(i / segments) * scale) for i in range(segments + 1)]
    rest_bits = input_bits - (segments.bit_length() - 1)
    if max(map(abs, points)).bit_length() + rest_bits > 62:
        raise ValueError(
            f"a table of {segments} segments with {fraction_bits} fraction bits overflows 64-bit integers; use fewer "
            "fraction bits or more segments"
        )
    slopes = [after - before for before, after in pairwise(points)]
    if segments == 1 << input_bits:
        slopes = [0] * segments  # each segment is a single point: a plain table
    return PiecewiseLinear(input_bits, fraction_bits, tuple(points[:-1]), tuple(slopes))


@lru_cache
def power_of_two(segments: int, input_bits: int, fraction_bits: int) -> PiecewiseLinear:
    """Return a table of 2**x for x in [0, 1), with results in [1, 2)."""
    return fit(lambda x: 2.0**x, segments, input_bits, fraction_bits)


def power_of_two_error(segments: int) -> float:
    """Return a bound on the relative error of chords of 2**x, before any rounding.

    The error of a chord over a segment of length h is at most h**2/8 times the largest second derivative on it,
    ln(2)**2 * 2**x, and 2**x grows by a factor of 2**h over the segment.
    """
    return (math.log(2) / segments) ** 2 / 8 * 2 ** (1 / segments)


@lru_cache
def inverse_power_series(degree: int, segments: int, input_bits: int, fraction_bits: int) -> PiecewiseLinear:
    """Return a table of 2**-x for x in [0, 1) by a Taylor series at the start of each segment; results in [1/2, 1].

    Args:
        degree: the highest power, at least 1.
        segments: number of series, a power of two.
        input_bits: fraction bits of the argument, at least log2(segments).
        fraction_bits: fraction bits of the result.

    Raises:
        ValueError: as for `fit`.
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
    half = 1 << (fraction_bits - 1)  # a series of odd degree ends below 1/2
    low = series(np.arange(1 << input_bits)).min() < half
    return replace(series, least=half) if low else series


def inverse_power_series_error(degree: int, segments: int, fraction_bits: int) -> float:
    """Return a bound on the absolute error of `inverse_power_series`, before its final rounding.

    The series alternates, so the truncation error is below the first omitted term; each coefficient and each step of
    Horner's rule except the last adds at most half a unit in the last place.
    """
    truncated = (math.log(2) / segments) ** (degree + 1) / math.factorial(degree + 1)
    return truncated + degree * 2.0 ** -(fraction_bits + GUARD_BITS)


@dataclass(frozen=True)
class Reciprocal:
    """The reciprocal of positive integers: normalise by the leading one, then look up a piecewise-linear mantissa.

    The argument's bits below the leading one are truncated to `mantissa_bits + GUARD_BITS`.
    """

    segments: int
    mantissa_bits: int

    @property
    def table(self) -> PiecewiseLinear:
        """The table of 1/(1+x) for x in [0, 1), with results in (1/2, 1]."""
        return _reciprocal_table(self.segments, self.mantissa_bits)

    def __call__(self, codes: Array, rounding: Rounding = "nearest") -> tuple[Array, Array]:
        """Return `(mantissa, exponent)` such that `1/code` is about `mantissa * 2**-(mantissa_bits + exponent)`.

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
        """Return a bound on the relative error: chord, truncated argument, table entries and final rounding.

        The error of the chord of 1/(1+x) over a segment of length h is at most h**2/4, since the second derivative is
        at most 2; mantissas are at least 1/2, so the relative error is at most twice the absolute one.
        """
        chord = 1 / (4 * self.segments**2)
        cut = 2.0**-self.table.input_bits
        unit = 2.0**-self.mantissa_bits
        return 2 * (chord + unit * (2.0**-GUARD_BITS + (0.5 if rounding == "nearest" else 1.0))) + cut


@lru_cache
def _reciprocal_table(segments: int, mantissa_bits: int) -> PiecewiseLinear:
    return fit(lambda x: 1 / (1 + x), segments, mantissa_bits + GUARD_BITS, mantissa_bits)
