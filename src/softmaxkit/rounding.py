"""The integer arithmetic of golden models: shifts and significands, rounded once, on NumPy arrays and torch tensors."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from array_api_compat import array_namespace, device

Array: TypeAlias = Any
"""A NumPy array or a torch tensor (the array API has no common type to name)."""

Rounding = Literal["nearest", "floor", "ceil"]


def integers(values: Any, like: Array) -> Array:
    """Return `values` (an int or nested tuples of ints) as an int64 array of the type and device of `like`."""
    xp = array_namespace(like)
    return xp.asarray(values, dtype=xp.int64, device=device(like))


def shift_right(codes: Array, shift: int | Array, rounding: Rounding = "nearest", least: int = 0) -> Array:
    """Divide integers by `2**shift` and round once; a negative shift multiplies.

    Args:
        codes: int64, any shape, magnitude below 2**61.
        shift: an int, or an int64 array that broadcasts with `codes`.
        rounding: "nearest" (ties to even), "floor" or "ceil".
        least: a lower bound of the values in an array `shift`; required if any is negative.
    """
    xp = array_namespace(codes)
    if isinstance(shift, int):
        codes, shift = (codes << -shift, 0) if shift < 0 else (codes, min(shift, 61))
        if shift == 0:
            return codes
        half = 1 << (shift - 1)
    else:
        codes, shift = (codes << -least, shift - least) if least < 0 else (codes, shift)
        shift = xp.clip(shift, None, 61)
        half = (xp.ones_like(shift) << shift) >> 1
    if rounding == "floor":
        return codes >> shift
    if rounding == "ceil":
        return -(-codes >> shift)
    # Adding half - 1, plus 1 if the quotient is odd, carries exactly when the result rounds up.
    return (codes + xp.clip(half - 1 + ((codes >> shift) & 1), 0, None)) >> shift


def leading_one(codes: Array) -> Array:
    """Return the position of the highest set bit of non-negative int64 codes; 0 for the code 0."""
    xp = array_namespace(codes)
    high = codes >> 31
    upper = high > 0
    # Each 32-bit half is exact in float64, so its float64 exponent gives the position.
    _, exponent = xp.frexp(xp.astype(xp.where(upper, high, codes), xp.float64))
    return xp.clip(xp.astype(exponent, xp.int64) - 1, 0, None) + 31 * xp.astype(upper, xp.int64)


def round_significand(significand: Array, exponent: Array, bits: int) -> tuple[Array, Array]:
    """Round the positive numbers `significand * 2**exponent` to `bits` significant bits, to nearest, ties to even.

    The returned significand may be exactly `2**bits`, after a carry; it then has one significant bit.
    """
    xp = array_namespace(significand)
    excess = xp.clip(leading_one(significand) - (bits - 1), 0, 63)
    return shift_right(significand, excess), exponent + excess
