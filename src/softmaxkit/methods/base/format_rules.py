"""Rules about the fixed-point fields of a spec that several methods share."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TypeVar

from softmaxkit.formats import MAX_SCORE_BITS, Fixed
from softmaxkit.methods.base.fields import Fields

MOST_FRACTION_BITS = 20
"""Fraction bits up to which tables and results are supported."""

S = TypeVar("S", bound=Fields)


def check_score_format(spec: Fields, name: str, most: int = MAX_SCORE_BITS) -> None:
    """Check the format of the incoming scores.

    Args:
        spec: the spec.
        name: name of its field.
        most: widest score code, in bits.

    Raises:
        ValueError: the format is not signed, or too narrow or wide.
    """
    form: Fixed = getattr(spec, name)
    if not form.signed or not 2 <= form.bits <= most:
        default = next(field.default for field in fields(spec) if field.name == name)
        raise ValueError(
            f"{type(spec).__name__}.{name} must be signed and 2 to {most} bits wide, such as {default}, got {form}"
        )


def check_unsigned(spec: Fields, name: str) -> None:
    """Check the format of a table or of the results.

    Raises:
        ValueError: it is signed, or has too few or too many fraction bits.
    """
    form: Fixed = getattr(spec, name)
    if form.signed or not 1 <= form.fraction_bits <= MOST_FRACTION_BITS or form.integer_bits < 0:
        raise ValueError(
            f"{type(spec).__name__}.{name} must be unsigned with 1 to {MOST_FRACTION_BITS} fraction bits, such as "
            f"UQ(1,15), got {form}"
        )


def with_wider_scores(spec: S, name: str) -> list[S]:
    """Return the spec with two more integer bits in its score format, which quadruples the range; none if too wide."""
    form: Fixed = getattr(spec, name)
    return [replace(spec, **{name: form.widened(2)})] if form.bits <= MAX_SCORE_BITS - 2 else []
