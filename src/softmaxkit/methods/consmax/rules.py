"""Which fields of ConSmax go together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from softmaxkit.formats import BF16, Fixed

if TYPE_CHECKING:
    from softmaxkit.methods.consmax.spec import ConSmax


def check_rules(spec: ConSmax) -> None:
    """Check the fields of a spec, whose types are already checked.

    Raises:
        ValueError: a field is out of range, or `tables` does not support another field.
    """
    if spec.product_bits and not 2 <= spec.product_bits <= 24:
        raise ValueError(
            f"ConSmax.product_bits must be from 2 to 24, or 0 for that of the table format, got {spec.product_bits}"
        )
    if not 1 <= spec.output_bits <= 24:
        raise ValueError(f"ConSmax.output_bits must be from 1 to 24, got {spec.output_bits}")
    if not (math.isfinite(spec.ceiling) and spec.ceiling > 0):
        raise ValueError(f"ConSmax.ceiling must be positive and finite, got {spec.ceiling}")
    if not (abs(spec.beta0) <= 64 and math.isfinite(spec.gamma0) and spec.gamma0 >= 0):
        raise ValueError(
            "ConSmax.beta0 must be from -64 to 64, and gamma0 positive or 0 (set from the context), got "
            f"{spec.beta0} and {spec.gamma0}"
        )
    _check_tables(spec)
    if isinstance(spec.table_format, Fixed):
        _check_fixed(spec, spec.table_format)
    elif spec.table_format.mantissa_bits > 10 or spec.table_format.exponent_bits < 4:
        raise ValueError(
            "ConSmax.table_format must have at least 4 exponent bits and at most 10 mantissa bits, got "
            f"{spec.table_format}"
        )


def _check_tables(spec: ConSmax) -> None:
    rules: dict[str, Any] = {"bits": 8, "constant": "folded", "product_bits": 0}
    if spec.tables == "whole":
        rules["table_format"] = BF16
    wrong = [name for name, only in rules.items() if getattr(spec, name) != only]
    if spec.tables == "split" or not wrong:
        return
    allowed = ", ".join(f"{name}={only}" for name, only in rules.items())
    given = ", ".join(f"{name}={getattr(spec, name)}" for name in wrong)
    unused = " (its entries are output codes, so table_format is unused)" if "table_format" in wrong else ""
    raise ValueError(
        f"ConSmax.tables={spec.tables!r} supports only the defaults {allowed}, got {given}{unused}; "
        f"leave {'it' if len(wrong) == 1 else 'them'} out, or use tables='split'"
    )


def _check_fixed(spec: ConSmax, entry: Fixed) -> None:
    if entry.signed or entry.integer_bits or not 4 <= entry.fraction_bits <= 12:
        raise ValueError(f"ConSmax.table_format must be a float or UQ(0, n) with n from 4 to 12, got {entry}")
    if spec.product_bits:
        raise ValueError(
            f"products of {entry} tables are exact, so ConSmax.product_bits must be 0, got {spec.product_bits}"
        )
    # The operand of golden's right shift is up to output_bits + 1 bits wider than the product, and at most 2**60.
    widest = (59 - spec.output_bits) // spec.factor_count
    if entry.bits > widest:
        raise ValueError(
            f"ConSmax.table_format must be UQ(0, {widest}) or narrower, got {entry}: the exact product requires "
            f"bits * factors + output_bits + 2 <= 61, with {spec.factor_count} factors and "
            f"output_bits={spec.output_bits}"
        )
