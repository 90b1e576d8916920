"""Golden's arithmetic in Triton: codes of scores, division by powers of two with one rounding, and the reciprocal."""

import triton
import triton.language as tl


@triton.jit
def shift_right(values, places, NEAREST: tl.constexpr):
    """Divide non-negative integers by 2**places, rounding to nearest with ties to even, or down; all int64.

    Negative places multiply.
    """
    values = values << tl.maximum(-places, 0)
    right = tl.minimum(tl.maximum(places, 0), 61)
    if NEAREST:
        half = ((right * 0 + 1) << right) >> 1
        # Adding half less one, plus one if the quotient is odd, carries exactly when rounding goes up.
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
    """Return score codes, int64: scores over `scale`, float64, rounded and saturated; `UNSEEN` where not attended."""
    steps = values.to(tl.float64) / scale
    steps = tl.where(steps < HIGHEST, steps, HIGHEST * 1.0)
    steps = tl.where(steps > LOWEST, steps, LOWEST * 1.0)
    codes = ((steps + 6755399441055744.0) - 6755399441055744.0).to(tl.int64)  # adding 1.5 * 2**52 rounds to integers
    return tl.where(seen, codes, UNSEEN)


@triton.jit
def is_invalid(values, seen):
    """Return, as int32, whether each row attends to NaN or +infinity."""
    wrong = seen & ((values != values) | (values == float("inf")))
    return tl.max(wrong.to(tl.int32), 1)


@triton.jit
def probabilities(codes, step, seen, invalid):
    """Decode output codes: 0 where not attended, otherwise NaN in invalid rows."""
    values = (codes.to(tl.float64) * step).to(tl.float32)
    values = tl.where((invalid != 0)[:, None], float("nan"), values)
    return tl.where(seen, values, 0.0)
