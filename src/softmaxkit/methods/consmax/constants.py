"""The constants of ConSmax: tables and scales of one head, built from real parameters."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxkit.formats import Fixed, Float
from softmaxkit.methods.base.constants import Constants

if TYPE_CHECKING:
    from softmaxkit.methods.consmax.spec import ConSmax


@dataclass(frozen=True)
class ConSmaxConstants(Constants):
    """The integers of one head, as loaded into a ConSmax unit.

    Attributes:
        scale: see `Constants`.
        high, low: tables in the table format, indexed by the raw nibbles of the (upper) byte; the high nibble is
            signed. With tables="shift", `high` is empty. With tables="whole", `low` is empty and `high` contains the
            256 output codes, indexed by the raw byte.
        lower_high, lower_low: the same for the lower byte of INT16, which is unsigned; empty for INT8.
        multiplier: C in the table format with constant="multiplied"; 0 if C is folded into a table.
        exponent: exponent of the power of two that scales the product of all table entries (and C).
        output_fraction_bits: an output code `c` represents `c * 2**-output_fraction_bits`.
        limit: the largest output code, at which results saturate.
    """

    high: Any
    low: Any
    lower_high: Any
    lower_low: Any
    multiplier: Any
    exponent: Any
    output_fraction_bits: Any
    limit: Any


def build(spec: ConSmax, scale: tuple[int, int], largest: float, beta: float, gamma: float) -> ConSmaxConstants:
    """Build the constants of one head.

    Args:
        spec: the spec.
        scale: the score scale, as in `Constants`.
        largest: the head's largest probability, which sets the output scale.
        beta: as learned.
        gamma: as learned, positive.
    """
    fraction_bits = spec.output_bits - math.ceil(math.log2(max(min(largest, spec.ceiling), 2.0**-32)))
    empty = ConSmaxConstants(
        scale=scale,
        high=(),
        low=(),
        lower_high=(),
        lower_low=(),
        multiplier=0,
        exponent=0,
        output_fraction_bits=fraction_bits,
        limit=min((1 << spec.output_bits) - 1, max(1, round(math.ldexp(spec.ceiling, fraction_bits)))),
        form=spec.constants_form,
    )
    # Rounded to float32, as a module stores them, so that both yield the same tables.
    beta, log_gamma = float(np.float32(beta)), float(np.float32(math.log(gamma)))
    if spec.tables == "whole":
        return _with_whole_table(spec, empty, beta, math.exp(log_gamma))
    log2_c = -(beta + log_gamma) / math.log(2)
    return (_with_shift_table if spec.tables == "shift" else _with_split_tables)(spec, empty, log2_c)


def _with_whole_table(spec: ConSmax, empty: ConSmaxConstants, beta: Any, gamma: Any) -> ConSmaxConstants:
    """Return `empty` completed with the single table of output codes, for tables="whole"."""
    codes = np.arange(256)
    scores = spec.score_values(np.where(codes < 128, codes, codes - 256), empty)
    steps = np.round(np.ldexp(spec.reference(scores, beta=beta, gamma=gamma), empty.output_fraction_bits))
    return dataclasses.replace(empty, high=tuple(int(step) for step in np.minimum(steps, empty.limit)))


def _with_shift_table(spec: ConSmax, empty: ConSmaxConstants, log2_c: float) -> ConSmaxConstants:
    """Return `empty` completed with the table of the low nibble, with C = 2**log2_c folded in, for tables="shift"."""
    power = math.floor(log2_c)
    low, bias = _encode_table(spec.table_format, [log2_c - power + i / 16 for i in range(16)])
    return dataclasses.replace(empty, low=low, exponent=power + bias)


def _with_split_tables(spec: ConSmax, empty: ConSmaxConstants, log2_c: float) -> ConSmaxConstants:
    """Return `empty` completed with one table per nibble, for tables="split"; C = 2**log2_c is folded or separate."""
    mantissa, power = empty.scale
    step = mantissa * 2.0**power / math.log(2)  # step of a score code, in the exponent of base 2
    folded = spec.constant == "folded"
    signed = [i - 16 if i >= 8 else i for i in range(16)]
    weights = [1 << shift for shift in range(spec.bits - 4, -4, -4)]
    high = [step * (weights[0] * i) + (log2_c if folded else 0.0) for i in signed]
    encoded = [_high_table(spec, high, empty, 0.0 if folded else log2_c)]
    encoded += [_encode_table(spec.table_format, [step * (w * i) for i in range(16)]) for w in weights[1:]]
    if not folded:
        encoded.append(_encode_table(spec.table_format, [log2_c]))
    tables, powers = zip(*encoded, strict=True)
    names = ("high", "low", "lower_high", "lower_low")[: spec.bits // 4]
    return dataclasses.replace(
        empty,
        **dict(zip(names, tables, strict=False)),
        multiplier=0 if folded else tables[-1][0],
        exponent=sum(powers),
    )


def _high_table(
    spec: ConSmax, exponents: list[float], empty: ConSmaxConstants, log2_rest: float
) -> tuple[tuple[int, ...], int]:
    """Encode the high table, clipping entries that saturate the result on their own, as the low factors are 1 or more.

    Clipping leaves the range of the format to the entries that matter. `log2_rest` is log2 of the constant factor that
    is still to come.
    """

    def output(steps: float) -> float:
        return math.log2(math.ldexp(steps, -empty.output_fraction_bits))

    if isinstance(spec.table_format, Float):
        highest = output(empty.limit) + 2 - log2_rest
        return _float_table(spec.table_format, [min(exponent, highest) for exponent in exponents])
    saturated, enough = output(empty.limit + 0.5), output(max(empty.limit - 1, 1))
    return _fixed_table(spec.table_format, exponents, saturated - log2_rest, enough - log2_rest)


def _encode_table(form: Float | Fixed, exponents: list[float]) -> tuple[tuple[int, ...], int]:
    """Encode 2**exponents with a common power of two; return the codes and the exponent of that power."""
    return _fixed_table(form, exponents) if isinstance(form, Fixed) else _float_table(form, exponents)


def _float_table(form: Float, exponents: list[float]) -> tuple[tuple[int, ...], int]:
    """Encode 2**exponents as floats, with a common power of two if some would not be normal numbers."""
    bias = 0
    if min(exponents) < form.min_exponent or max(exponents) >= form.max_exponent:
        bias = math.floor(max(exponents)) - (form.max_exponent - 1)
    values = np.asarray([2.0 ** max(exponent - bias, -1000.0) for exponent in exponents])
    return tuple(int(code) for code in form.encode(values)), bias


def _fixed_table(
    form: Fixed, exponents: list[float], saturated: float = math.inf, enough: float = -math.inf
) -> tuple[tuple[int, ...], int]:
    """Encode 2**exponents as fractions of the smallest power of two at which they fit.

    Entries of 2**saturated or more become the largest code; if there are any, that code represents 2**enough or more.
    """
    kept = [exponent for exponent in exponents if exponent < saturated]
    powers = []
    if len(kept) < len(exponents):
        powers.append(math.ceil(enough - math.log2(form.largest)))
    if kept:
        power = math.floor(max(kept)) + 1
        powers.append(power + (round(2.0 ** (max(kept) - power + form.bits)) > form.max_code))
    power = max(powers)
    values = np.asarray([2.0 ** max(min(exponent - power, 1000.0), -1000.0) for exponent in exponents])
    codes = np.where(np.asarray(exponents) < saturated, form.encode(values), form.max_code)
    return tuple(int(code) for code in codes), power
