"""Golden model of ConSmax: table entries by nibble, their product, and one conversion to fixed point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from array_api_compat import array_namespace

from softmaxkit.formats import Array, Fixed, Float
from softmaxkit.masks import broadcast_mask
from softmaxkit.rounding import round_significand, shift_right
from softmaxkit.tables import lookup, per_head

if TYPE_CHECKING:
    from softmaxkit.methods.consmax.constants import ConSmaxConstants
    from softmaxkit.methods.consmax.spec import ConSmax


def golden(spec: ConSmax, codes: Array, mask: Array | None, constants: ConSmaxConstants) -> Array:
    """Map score codes to output codes, int64 of any shape; (..., heads, queries, keys) for stacked constants.

    Products are rounded to `significant_bits`; their exponents are wide enough never to overflow. The two bytes of an
    INT16 score are computed separately, as in the two 8-bit units, and joined by the reduction multiplier.
    """
    xp = array_namespace(codes)
    attended = broadcast_mask(codes, mask)
    if spec.tables == "whole":
        output = lookup(constants.high, codes & 255)
    else:
        output = _fixed_point(spec, _product(spec, factors(spec, codes, constants)), constants)
    return xp.where(attended, output, xp.zeros_like(output))


def factors(spec: ConSmax, codes: Array, constants: ConSmaxConstants) -> list[tuple[Array, Array]]:
    """Return the factors of a score code as `(significand, exponent)`: its table entries, then C if multiplied.

    With tables="shift" the first factor is the power of two of the high nibble. Not for tables="whole".
    """
    xp = array_namespace(codes)
    if spec.tables == "shift":
        return [(xp.ones_like(codes), codes >> 4), _split(spec.table_format, lookup(constants.low, codes & 15))]
    tables = [constants.high, constants.low]
    if spec.bits == 16:
        tables += [constants.lower_high, constants.lower_low]
    shifts = range(spec.bits - 4, -4, -4)
    entries = [lookup(table, (codes >> shift) & 15) for table, shift in zip(tables, shifts, strict=True)]
    if spec.constant == "multiplied":
        entries.append(xp.zeros_like(codes) + per_head(constants.multiplier, codes))
    return [_split(spec.table_format, entry) for entry in entries]


def decode(codes: Array, constants: ConSmaxConstants) -> Array:
    """Convert output codes to float64 probabilities."""
    xp = array_namespace(codes)
    bits = constants.output_fraction_bits
    step = tuple(2.0**-fraction_bits for fraction_bits in bits) if isinstance(bits, tuple) else 2.0**-bits
    return xp.astype(codes, xp.float64) * per_head(step, codes)


def _split(form: Float | Fixed, codes: Array) -> tuple[Array, Array]:
    if isinstance(form, Fixed):
        return codes, array_namespace(codes).full_like(codes, -form.fraction_bits)
    return form.split(codes)[1:]


def _product(spec: ConSmax, parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    high, low, *rest = parts
    product = _multiply(high, low, spec.significant_bits)
    if spec.bits == 16:
        product = _multiply(product, _multiply(rest[0], rest[1], spec.significant_bits), spec.significant_bits)
    if spec.constant == "multiplied":
        product = _multiply(product, rest[-1], spec.significant_bits)
    return product


def _multiply(first: tuple[Array, Array], second: tuple[Array, Array], bits: int) -> tuple[Array, Array]:
    return round_significand(first[0] * second[0], first[1] + second[1], bits)


def _fixed_point(spec: ConSmax, number: tuple[Array, Array], constants: ConSmaxConstants) -> Array:
    significand, exponent = number
    xp = array_namespace(significand)
    shift = -(exponent + per_head(constants.exponent, exponent) + per_head(constants.output_fraction_bits, exponent))
    # A left shift by more than the output's width saturates in any case.
    least = -(spec.output_bits + 1)
    output = shift_right(significand, xp.clip(shift, least, None), least=least)
    return xp.clip(output, None, per_head(constants.limit, output))
