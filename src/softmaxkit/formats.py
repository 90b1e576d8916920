"""Number formats: fixed point and small floats.

A *code* is the integer that represents a number. Everything works on NumPy arrays and torch tensors alike, through the
array API; codes are int64. Rounding is to nearest, ties to even, unless floor or ceil is requested; values out of range
saturate and never wrap.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TypeAlias

from array_api_compat import array_namespace, device

from softmaxkit.rounding import Array as Array
from softmaxkit.rounding import Rounding as Rounding
from softmaxkit.rounding import leading_one, round_significand

MAX_WIDTH = 32
"""Widest format, in bits, so that the product of two codes fits in int64."""
MAX_SCORE_BITS = 16
"""Widest score code that a unit accepts, in bits."""


@dataclass(frozen=True, repr=False)
class Fixed:
    """Fixed point: the code `c` represents `c * 2**-fraction_bits`. `Q(i, f)` and `UQ(i, f)` are shorthands.

    Args:
        integer_bits: bits before the binary point, including the sign bit if `signed`; may be negative.
        fraction_bits: bits after the binary point; may be negative.
        signed: two's complement if true.

    Raises:
        ValueError: the width `integer_bits + fraction_bits` is not between 1 and 32.
    """

    integer_bits: int
    fraction_bits: int
    signed: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_WIDTH:
            raise ValueError(f"{self} is {self.bits} bits wide; a fixed-point format has 1 to {MAX_WIDTH} bits")

    def __repr__(self) -> str:
        return f"{'Q' if self.signed else 'UQ'}({self.integer_bits},{self.fraction_bits})"

    @property
    def bits(self) -> int:
        """Width in bits."""
        return self.integer_bits + self.fraction_bits

    @property
    def min_code(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def max_code(self) -> int:
        """Largest code."""
        return (1 << (self.bits - self.signed)) - 1

    @property
    def resolution(self) -> float:
        """The step between two neighbouring values."""
        return math.ldexp(1.0, -self.fraction_bits)

    @property
    def largest(self) -> float:
        """The largest number."""
        return self.max_code * self.resolution

    def widened(self, bits: int) -> Fixed:
        """Return this format with `bits` more integer bits."""
        return replace(self, integer_bits=self.integer_bits + bits)

    def saturate(self, codes: Array) -> Array:
        """Clip integers into the range of this format."""
        return array_namespace(codes).clip(codes, self.min_code, self.max_code)

    def encode(self, values: Array, rounding: Rounding = "nearest") -> Array:
        """Convert real numbers to int64 codes, rounding and saturating; NaN, which has no code, becomes 0."""
        xp = array_namespace(values)
        scaled = xp.astype(values, xp.float64) * math.ldexp(1.0, self.fraction_bits)
        rounded = {"nearest": xp.round, "floor": xp.floor, "ceil": xp.ceil}[rounding](scaled)
        clipped = xp.clip(rounded, float(self.min_code), float(self.max_code))
        return xp.astype(xp.where(xp.isnan(clipped), xp.zeros_like(clipped), clipped), xp.int64)

    def decode(self, codes: Array) -> Array:
        """Convert codes to float64 values, exactly."""
        xp = array_namespace(codes)
        return xp.astype(codes, xp.float64) * self.resolution


def Q(integer_bits: int, fraction_bits: int) -> Fixed:
    """Signed fixed point; `integer_bits` includes the sign: `Q(6, 2)` has 8 bits, -32 to 31.75 in steps of 0.25."""
    return Fixed(integer_bits, fraction_bits, signed=True)


def UQ(integer_bits: int, fraction_bits: int) -> Fixed:
    """Unsigned fixed point: `UQ(1, 15)` has 16 bits, 0 to 2 - 2**-15."""
    return Fixed(integer_bits, fraction_bits, signed=False)


@dataclass(frozen=True, repr=False)
class Float:
    """A small float: sign, exponent and mantissa fields, the exponent biased by `2**(exponent_bits - 1) - 1`.

    Codes equal those of IEEE 754 for every number that both formats represent. An exponent field of 0 encodes 0 (no
    subnormals), and every other field, including the highest, encodes an ordinary number (no infinities, no NaN).
    Values that round to below the smallest normal become 0; values above the largest saturate.

    Raises:
        ValueError: the exponent does not have 2 to 8 bits, or the mantissa 1 to 23.
    """

    exponent_bits: int
    mantissa_bits: int

    def __post_init__(self) -> None:
        if not (2 <= self.exponent_bits <= 8 and 1 <= self.mantissa_bits <= 23):
            raise ValueError(f"{self}: a small float has 2 to 8 exponent bits and 1 to 23 mantissa bits")

    def __repr__(self) -> str:
        return f"Float({self.exponent_bits},{self.mantissa_bits})"

    @property
    def bits(self) -> int:
        """Width in bits, including the sign."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """The exponent bias, which is subtracted from the exponent field."""
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def min_exponent(self) -> int:
        """Binary exponent of the smallest normal."""
        return 1 - self.bias

    @property
    def max_exponent(self) -> int:
        """Binary exponent of the largest numbers."""
        return (1 << self.exponent_bits) - 1 - self.bias

    @property
    def smallest(self) -> float:
        """The smallest positive number."""
        return math.ldexp(1.0, self.min_exponent)

    @property
    def largest(self) -> float:
        """The largest number."""
        return math.ldexp(2.0 - math.ldexp(1.0, -self.mantissa_bits), self.max_exponent)

    def split(self, codes: Array) -> tuple[Array, Array, Array]:
        """Split codes into `(negative, significand, exponent)`, whose magnitude is `significand * 2**exponent`.

        `significand` has `mantissa_bits + 1` bits, including the hidden bit, and is 0 for the number 0.
        """
        xp = array_namespace(codes)
        field = (codes >> self.mantissa_bits) & ((1 << self.exponent_bits) - 1)
        mantissa = codes & ((1 << self.mantissa_bits) - 1)
        significand = xp.where(field == 0, xp.zeros_like(codes), mantissa | (1 << self.mantissa_bits))
        return (codes >> (self.bits - 1)) == 1, significand, field - self.bias - self.mantissa_bits

    def join(self, negative: Array, significand: Array, exponent: Array) -> Array:
        """Round the numbers `+-significand * 2**exponent` to this format, to nearest, ties to even; return codes."""
        xp = array_namespace(significand)
        # Shift short significands up first, so that each has at least the format's number of bits.
        room = xp.clip(self.mantissa_bits - leading_one(significand), 0, 63)
        rounded, scale = round_significand(significand << room, exponent - room, self.mantissa_bits + 1)
        carried = rounded >> (self.mantissa_bits + 1)
        rounded, scale = rounded >> carried, scale + carried
        field = scale + self.mantissa_bits + self.bias
        code = (field << self.mantissa_bits) | (rounded & ((1 << self.mantissa_bits) - 1))
        code = xp.where(field > (1 << self.exponent_bits) - 1, xp.full_like(code, (1 << (self.bits - 1)) - 1), code)
        code = xp.where((field < 1) | (significand == 0), xp.zeros_like(code), code)
        return code | (xp.astype(negative & (code > 0), xp.int64) << (self.bits - 1))

    def encode(self, values: Array) -> Array:
        """Convert real numbers to int64 codes, rounding and saturating; NaN, which has no code, becomes 0."""
        xp = array_namespace(values)
        values = xp.astype(values, xp.float64)
        values = xp.where(xp.isnan(values), xp.zeros_like(values), xp.clip(values, -self.largest, self.largest))
        # Both steps are exact for the 53 significant bits of a float64; below 2**-1000 every small float gives 0.
        fraction, exponent = xp.frexp(xp.abs(values))
        significand = xp.astype(fraction * 2.0**53, xp.int64)
        return self.join(values < 0, significand, xp.astype(exponent, xp.int64) - 53)

    def decode(self, codes: Array) -> Array:
        """Convert codes to float64 values, exactly."""
        xp = array_namespace(codes)
        negative, significand, exponent = self.split(codes)
        lowest = -self.bias - self.mantissa_bits
        # From a table, because torch does not guarantee exact powers of two.
        powers = [math.ldexp(1.0, lowest + field) for field in range(1 << self.exponent_bits)]
        scale = xp.asarray(powers, dtype=xp.float64, device=device(codes))
        size = xp.astype(significand, xp.float64) * scale[exponent - lowest]
        return xp.where(negative, -size, size)


FP16 = Float(5, 10)
BF16 = Float(8, 7)

Format: TypeAlias = Fixed | Float


def parse_format(text: str) -> Format:
    """Parse the printed form of a format: "Q(6,2)", "UQ(1,15)" or "Float(5,10)"; or the names "FP16" and "BF16".

    Raises:
        ValueError: the text is not one of these, or the format has an unsupported width.
    """
    named: dict[str, Format] = {"FP16": FP16, "BF16": BF16}
    if text.strip().upper() in named:
        return named[text.strip().upper()]
    match = re.fullmatch(r"\s*(UQ|Q|Float)\s*\(\s*(-?\d+)\s*,\s*(-?\d+)\s*\)\s*", text)
    if not match:
        raise ValueError(f"{text!r} is not a number format; write Q(6,2), UQ(1,15), Float(5,10), FP16 or BF16")
    kind, first, second = match[1], int(match[2]), int(match[3])
    return Float(first, second) if kind == "Float" else Fixed(first, second, signed=kind == "Q")
