"""The arithmetic of golden in Triton: codes of scores, divisions by powers of two that round once, the reciprocal."""

import triton
import triton.language as tl


@triton.jit
def shift_right(values, places, NEAREST: tl.constexpr):
    """Divide whole numbers that are not negative by 2**places, to nearest with ties to even, or down; int64 all.

    Negative places multiply.
    """
    values = values << tl.maximum(-places, 0)
    right = tl.minimum(tl.maximum(places, 0), 61)
    if NEAREST:
        half = ((right * 0 + 1) << right) >> 1
        # One less than half, and the one back if the quotient is odd, carries just when rounding goes up.
        return (values + tl.maximum(half - 1 + ((values >> right) & 1), 0)) >> right
    return values >> right


@triton.jit
def leading_one(values):
    """Return the position of the highest set bit of positive int64 numbers."""
    place = values * 0
    for index in tl.static_range(6):
        step = 32 >> index
        is_higher = (values >> step) > 0
        place = tl.where(is_higher, place + step, place)
        values = tl.where(is_higher, values >> step, values)
    return place


@triton.jit
def reciprocal(
    total,
    offsets,
    slopes,
    INPUT_BITS: tl.constexpr,
    REST_BITS: tl.constexpr,
    GUARD_BITS: tl.constexpr,
    NEAREST: tl.constexpr,
):
    """Return mantissa and exponent of 1/total, as `softmaxkit.tables.Reciprocal` does."""
    total = tl.maximum(total, 1)
    exponent = leading_one(total)
    surplus = exponent - INPUT_BITS
    normalised = (total << tl.maximum(-surplus, 0)) >> tl.maximum(surplus, 0)
    fraction = normalised - (1 << INPUT_BITS)
    segment = fraction >> REST_BITS
    rest = fraction - (segment << REST_BITS)
    line = (tl.load(offsets + segment) << REST_BITS) + tl.load(slopes + segment) * rest
    return shift_right(line, line * 0 + (REST_BITS + GUARD_BITS), NEAREST), exponent


@triton.jit
def encode(values, seen, scale, LOWEST: tl.constexpr, HIGHEST: tl.constexpr, UNSEEN: tl.constexpr):
    """Return the codes of scores, int64: divided by the scale, float64, rounded, saturated; `UNSEEN` where not seen."""
    steps = values.to(tl.float64) / scale
    steps = tl.where(steps < HIGHEST, steps, HIGHEST * 1.0)
    steps = tl.where(steps > LOWEST, steps, LOWEST * 1.0)
    codes = ((steps + 6755399441055744.0) - 6755399441055744.0).to(tl.int64)  # 1.5 * 2**52 rounds to whole numbers
    return tl.where(seen, codes, UNSEEN)


@triton.jit
def is_invalid(values, seen):
    """Say of every row whether NaN or +infinity is attended, as a whole number."""
    wrong = seen & ((values != values) | (values == float("inf")))
    return tl.max(wrong.to(tl.int32), 1)


@triton.jit
def probabilities(codes, step, seen, invalid):
    """Return what output codes stand for: 0 where not seen, else NaN in invalid rows."""
    values = (codes.to(tl.float64) * step).to(tl.float32)
    values = tl.where((invalid != 0)[:, None], float("nan"), values)
    return tl.where(seen, values, 0.0)
