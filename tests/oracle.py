"""The four integer softmax algorithms once more, in plain Python integers, from `docs/arithmetic.md` alone.

Nothing here is shared with the package, so a bug or a misreading in one of the two shows as a difference. The names
and the order of the steps are those of the page. `oracle` takes one row at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from softmaxkit import Exact, Exaq, Float, Softermax
    from softmaxkit.methods.consmax import ConSmax, ConSmaxConstants
    from softmaxkit.methods.exaq import ExaqConstants
    from softmaxkit.methods.base.constants import Constants
    from softmaxkit.methods.base.spec import Spec

Number = tuple[int, int]
"""(significand, exponent): significand * 2**exponent."""

GUARD_BITS = 3


def oracle(spec: Spec, codes: Sequence[int], mask: Sequence[bool], constants: Constants) -> list[int]:
    """Return what `spec.golden` has to give for one row."""
    if not any(mask):
        return [0] * len(codes)
    methods: dict[str, Callable[..., list[int]]] = {
        "exact": exact,
        "consmax": consmax,
        "softermax": softermax,
        "exaq": exaq,
    }
    return methods[spec.method](spec, codes, mask, constants)


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
    found = [[i for i in range(start, min(start + width, len(mask))) if mask[i]] for start in starts]
    return [positions for positions in found if positions]


# Exact


def exact(spec: Exact, codes: Sequence[int], mask: Sequence[bool], constants: Constants) -> list[int]:
    mantissa_bits = spec.format.mantissa_bits
    to_steps, exponential = exact_functions(spec)
    v = [to_steps(code) for code in codes]
    if spec.schedule == "three-pass":
        m = max(value for value, attended in zip(v, mask, strict=True) if attended)
        d = sum(exponential(value - m)[0] for value, attended in zip(v, mask, strict=True) if attended)
    else:
        m, d = 0, 0
        for index, positions in enumerate(slices(mask, spec.slice_width)):
            highest = max(v[i] for i in positions)
            new = max(m, highest) if index else highest
            if index:
                factor, w, n = exponential(m - new)
                d = shift(d * w, mantissa_bits + 1 + n) if factor else 0
            d += sum(exponential(v[i] - new)[0] for i in positions)
            m = new
    r, e = reciprocal(spec.reciprocal_segments, mantissa_bits + 1, d)
    return [
        float_code(exponential(value - m)[0] * r, -(mantissa_bits + 1 + e), spec.format) if attended else 0
        for value, attended in zip(v, mask, strict=True)
    ]


@cache
def exact_functions(spec: Exact) -> tuple[Callable[[int], int], Callable[[int], tuple[int, int, int]]]:
    """Return the functions from a score code to steps, and from steps x <= 0 to (E(x), w, n)."""
    mantissa_bits, offset = spec.format.mantissa_bits, bias(spec.format)
    k = mantissa_bits + offset - 1
    a_bits = mantissa_bits + 4
    log2e = round(math.log2(math.e) * 2 ** (a_bits + 4))
    smallest = 1 << mantissa_bits  # normal, in steps

    @cache
    def to_steps(code: int) -> int:
        sign, field, mantissa = float_fields(code, spec.format)
        if field == 0:
            return 0
        steps = ((1 << mantissa_bits) + mantissa) << (field - 1)
        return -steps if sign else steps

    def exponential(x: int) -> tuple[int, int, int]:
        x = max(x, -(1 << (k + 8)))
        if x == 0:
            return of_rounded(0)
        significand, exponent = round_significand(-x, 0, mantissa_bits + 1)
        y = significand << exponent
        return of_rounded(y if y >= smallest else 0)

    @cache
    def of_rounded(y: int) -> tuple[int, int, int]:
        a = shift(y, k - a_bits)
        t = shift(a * log2e, a_bits + 4)
        n = t >> a_bits
        w = table(inverse_power, spec.exponential_segments, a_bits, mantissa_bits + 1, t % (1 << a_bits))
        steps = shift(w << (offset - 1), n + 1, "floor")
        return steps if steps >= smallest else 0, w, n

    return to_steps, exponential


# ConSmax


def consmax(spec: ConSmax, codes: Sequence[int], mask: Sequence[bool], constants: ConSmaxConstants) -> list[int]:
    result = consmax_function(spec, constants)
    return [result(code) if attended else 0 for code, attended in zip(codes, mask, strict=True)]


@cache
def consmax_function(spec: ConSmax, constants: ConSmaxConstants) -> Callable[[int], int]:
    """Return the function from a score code to its result."""
    form = spec.table_format
    fixed = str(form).startswith("UQ")

    def number(code: int) -> Number:
        return (code, -form.fraction_bits) if fixed else float_number(code, form)

    def times(a: Number, b: Number) -> Number:
        if a[0] == 0 or b[0] == 0:
            return 0, 0
        exact = a[0] * b[0], a[1] + b[1]
        return exact if fixed else round_significand(*exact, spec.product_bits or form.mantissa_bits + 1)

    @cache
    def result(code: int) -> int:
        if spec.tables == "whole":
            return int(constants.high[code & 255])
        if spec.tables == "shift":
            significand, exponent = number(constants.low[code & 15])
            x = significand, exponent + (code >> 4)
        elif spec.bits == 8:
            x = times(number(constants.high[(code >> 4) & 15]), number(constants.low[code & 15]))
        else:
            upper = times(number(constants.high[(code >> 12) & 15]), number(constants.low[(code >> 8) & 15]))
            lower = times(number(constants.lower_high[(code >> 4) & 15]), number(constants.lower_low[code & 15]))
            x = times(upper, lower)
        if spec.constant == "multiplied":
            x = times(x, number(constants.multiplier))
        significand, exponent = x
        places = -(exponent + constants.exponent + constants.output_fraction_bits)
        return min(shift(significand, places), int(constants.limit))

    return result


# Softermax


def softermax(spec: Softermax, codes: Sequence[int], mask: Sequence[bool], constants: Constants) -> list[int]:
    fi, fu, fd = spec.input.fraction_bits, spec.unnormalised.fraction_bits, spec.power_sum.fraction_bits
    fr, fo = spec.reciprocal.fraction_bits, spec.output.fraction_bits
    rounding = spec.rounding
    unnormalised = softermax_function(spec)
    whole = [min(shift(code, fi, spec.integer_maximum), spec.input.max_code >> fi) for code in codes]
    groups = slices(mask, spec.slice_width)
    powers = [0] * len(codes)
    if spec.maximum == "online":
        m, d = spec.input.min_code >> fi, 0
        tops = [max(whole[i] for i in positions) for positions in groups]
        for positions, top in zip(groups, tops, strict=True):
            s = sum(unnormalised(codes[i] - (top << fi)) for i in positions)
            new = max(m, top)
            total = shift(d, new - m, rounding) + shift(s, new - top + fu - fd, rounding)
            m, d = new, min(total, spec.power_sum.max_code)
        for positions, top in zip(groups, tops, strict=True):
            for i in positions:
                powers[i] = shift(unnormalised(codes[i] - (top << fi)), m - top, rounding)
    else:
        attended = [i for positions in groups for i in positions]
        m = max(whole[i] for i in attended)
        for i in attended:
            powers[i] = unnormalised(codes[i] - (m << fi))
        d = min(shift(sum(powers), fu - fd, rounding), spec.power_sum.max_code)
    r, e = reciprocal(spec.reciprocal_segments, fr, d, rounding)
    return [min(shift(p * r, fu + fr + e - fd - fo, rounding), spec.output.max_code) for p in powers]


@cache
def softermax_function(spec: Softermax) -> Callable[[int], int]:
    """Return the power as a function of the score less the whole maximum, in codes of the input."""
    fi, fu = spec.input.fraction_bits, spec.unnormalised.fraction_bits

    @cache
    def unnormalised(x: int) -> int:
        value = table(power, spec.power_segments, fi, fu, x % (1 << fi), spec.rounding)
        return min(shift(value, -(x >> fi), spec.rounding), spec.unnormalised.max_code)

    return unnormalised


# EXAQ


def exaq(spec: Exaq, codes: Sequence[int], mask: Sequence[bool], constants: ExaqConstants) -> list[int]:
    fr, fo = spec.reciprocal.fraction_bits, spec.output.fraction_bits
    m = max(code for code, attended in zip(codes, mask, strict=True) if attended)
    exponentials = [
        constants.exponentials[sum(threshold <= code - m for threshold in constants.thresholds)] if attended else 0
        for code, attended in zip(codes, mask, strict=True)
    ]
    r, e = reciprocal(spec.reciprocal_segments, fr, sum(exponentials))
    return [min(shift(value * r, fr + e - fo), spec.output.max_code) for value in exponentials]
