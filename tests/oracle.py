"""Conventions and tables of `docs/arithmetic.md` once more, in plain Python integers, from that page alone.

What the methods make of them is in `tests/methods/cases`, a file a method. Nothing is shared with the package, so a bug
or a misreading in one of the two shows as a difference. Names and the order of the steps are those of the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from softmaxkit import Float

Number = tuple[int, int]
"""(significand, exponent): significand * 2**exponent."""

GUARD_BITS = 3


# Conventions


def shift(value: int, places: int, rounding: str = "nearest") -> int:
    """Divide by 2**places and round once."""
    if places <= 0:
        return value << -places
    down = value >> places
    rest = value - (down << places)
    if rounding == "floor" or rest == 0:
        return down
    if rounding == "ceil":
        return down + 1
    half = 1 << (places - 1)
    to_even = down + (down & 1)
    return to_even if rest == half else down + (rest > half)


def leading(value: int) -> int:
    """Return the position of the highest set bit of a positive integer."""
    return value.bit_length() - 1


def round_significand(significand: int, exponent: int, bits: int) -> Number:
    surplus = leading(significand) - (bits - 1)
    if surplus <= 0:
        return significand, exponent
    return shift(significand, surplus), exponent + surplus


def bias(form: Float) -> int:
    return (1 << (form.exponent_bits - 1)) - 1


def float_fields(code: int, form: Float) -> tuple[int, int, int]:
    """Split a float code into sign bit, exponent field and mantissa."""
    mantissa = code % (1 << form.mantissa_bits)
    field = (code >> form.mantissa_bits) % (1 << form.exponent_bits)
    return code >> (form.mantissa_bits + form.exponent_bits), field, mantissa


def float_number(code: int, form: Float) -> Number:
    """Return the pair that a float code stands for, without its sign."""
    _, field, mantissa = float_fields(code, form)
    if field == 0:
        return 0, 0
    return (1 << form.mantissa_bits) + mantissa, field - bias(form) - form.mantissa_bits


def float_code(significand: int, exponent: int, form: Float) -> int:
    """Round a number that is not negative to a float format."""
    if significand == 0:
        return 0
    significand, exponent = round_significand(significand, exponent, form.mantissa_bits + 1)
    top = leading(significand)
    field = top + exponent + bias(form)
    if field < 1:
        return 0
    if field >= 1 << form.exponent_bits:
        return (1 << (form.exponent_bits + form.mantissa_bits)) - 1
    # Whole: what is shifted out to the right are the zeros of a significand that came out as a power of two.
    mantissa = shift(significand, top - form.mantissa_bits) - (1 << form.mantissa_bits)
    return (field << form.mantissa_bits) + mantissa


# Tables


def power(x: float) -> float:
    return math.exp2(x)


def inverse_power(x: float) -> float:
    return math.exp2(-x)


def inverse(x: float) -> float:
    return 1 / (1 + x)


@cache
def points(function: Callable[[float], float], segments: int, result_bits: int) -> list[int]:
    return [round(function(i / segments) * 2 ** (result_bits + GUARD_BITS)) for i in range(segments + 1)]


def table(
    function: Callable[[float], float],
    segments: int,
    argument_bits: int,
    result_bits: int,
    argument: int,
    rounding: str = "nearest",
) -> int:
    """Return the piecewise-linear value of a function on [0, 1) at the code of an argument."""
    p = points(function, segments, result_bits)
    r = argument_bits - leading(segments)
    segment, rest = argument >> r, argument % (1 << r)
    return shift((p[segment] << r) + (p[segment + 1] - p[segment]) * rest, r + GUARD_BITS, rounding)


@cache
def coefficients(power: int, segments: int, result_bits: int) -> list[int]:
    factor = (-math.log(2) / segments) ** power / math.factorial(power)
    return [round(inverse_power(i / segments) * factor * 2 ** (result_bits + GUARD_BITS)) for i in range(segments)]


def series(degree: int, segments: int, argument_bits: int, result_bits: int, argument: int) -> int:
    """Return the value of the Taylor series of 2**-x, in [1/2, 1], at the code of an argument."""
    r = argument_bits - leading(segments)
    segment, rest = argument >> r, argument % (1 << r)
    if r == 0:
        return table(inverse_power, segments, argument_bits, result_bits, argument)
    q = coefficients(degree, segments, result_bits)[segment]
    for power in range(degree - 1, 0, -1):
        q = coefficients(power, segments, result_bits)[segment] + shift(q * rest, r)
    p = points(inverse_power, segments, result_bits)[segment]
    return max(shift((p << r) + q * rest, r + GUARD_BITS), 1 << (result_bits - 1))


def reciprocal(segments: int, mantissa_bits: int, divisor: int, rounding: str = "nearest") -> tuple[int, int]:
    """Return (r, e): 1/divisor is about r * 2**-(mantissa_bits + e)."""
    divisor = max(divisor, 1)
    e = leading(divisor)
    argument_bits = mantissa_bits + 3
    argument = shift(divisor, e - argument_bits, "floor") - (1 << argument_bits)
    return table(inverse, segments, argument_bits, mantissa_bits, argument, rounding), e


def slices(mask: Sequence[bool], width: int) -> list[list[int]]:
    """Return the attended positions of each slice that has any; masked ones count towards the width."""
    starts = range(0, len(mask), width)
    attended = [[i for i in range(start, min(start + width, len(mask))) if mask[i]] for start in starts]
    return [positions for positions in attended if positions]
