"""Error bound of ConSmax, derived from its formats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxkit.formats import Array, Fixed
from softmaxkit.methods.consmax.golden import factors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxkit.methods.consmax.constants import ConSmaxConstants
    from softmaxkit.methods.consmax.spec import ConSmax


def error_bound(
    spec: ConSmax,
    codes: Array,
    mask: Array | None,
    constants: ConSmaxConstants,
    truth: NDArray[np.float64],
    beta: Any,
    gamma: Any,
) -> NDArray[np.float64]:
    """Bound the error of golden against the reference, for the constants of one head.

    Each float table entry (and C) is off by at most half an ulp of its format, and each product by half an ulp of
    its width. A fixed-point entry with code k represents a value from k - 1/2 to k + 1/2, and its products are
    exact. Entries that round to 0 give 0. A high entry clipped to the largest fixed-point code still reaches all
    but one step of the limit. With tables="shift" the tables are computed for ln2/16 itself, not for the rounded
    score scale. The output is off by half a step and saturates at its limit; that is the only error of a whole
    table.

    Args:
        spec: the spec.
        codes: score codes, (..., keys).
        mask: boolean, broadcasts to the codes; None attends to all.
        constants: constants of one head, built by the spec.
        truth: the reference, (..., keys).
        beta: beta of the reference, a number or an array that broadcasts to the codes.
        gamma: gamma of the reference, likewise.

    Returns:
        The bound of each element, shape of the codes; 0 where masked.
    """
    scores = spec.score_values(codes, constants)
    parts = _entries(spec, codes, constants)
    shrink, growth = _ratios(spec, parts)
    vanished = np.any([significand == 0 for significand, _ in parts], axis=0)
    step = 2.0**-constants.output_fraction_bits
    # Unclamped, so that a value rounded to just below the clamp is covered too.
    tabulated = np.asarray(codes) * spec.default_scale if spec.tables == "shift" else scores
    unclamped = np.exp(np.minimum(tabulated - beta - np.log(gamma), 700.0))
    least = unclamped
    if isinstance(spec.table_format, Fixed) and spec.tables == "split":
        clipped = parts[0][0] == spec.table_format.max_code
        least = np.where(clipped, np.minimum(unclamped, max(constants.limit - 1, 1) * step), unclamped)
    low = np.minimum(np.where(vanished, 0.0, least * shrink - step / 2), constants.limit * step)
    high = np.minimum(np.where(vanished, 0.0, unclamped * growth + step / 2), constants.limit * step)
    bound = np.maximum(np.abs(high - truth), np.abs(truth - low))
    # The constants are built from beta and log gamma in float32, as the module stores them.
    bound = bound + high * np.expm1((np.abs(beta) + np.abs(np.log(gamma))) * 2.0**-24)
    return np.where(truth > 0, bound, 0.0) if mask is None else np.where(mask, bound, 0.0)


def _entries(spec: ConSmax, codes: Array, constants: ConSmaxConstants) -> list[tuple[Array, Array]]:
    """Return the factors that are rounded to the table format."""
    if spec.tables == "whole":
        return []
    return factors(spec, np.asarray(codes), constants)[-spec.factor_count :]


def _ratios(spec: ConSmax, entries: list[tuple[Array, Array]]) -> tuple[Any, Any]:
    """Return lower and upper bounds of the ratio of the rounded to the exact product, for entries other than 0."""
    if isinstance(spec.table_format, Fixed):
        codes = [significand for significand, _ in entries]
        return math.prod(k / (k + 0.5) for k in codes), math.prod(k / (k - 0.5) for k in codes)
    entry, product = 2.0 ** -(spec.table_format.mantissa_bits + 1), 2.0**-spec.significant_bits
    count, products = len(entries), max(len(entries) - 1, 0)
    return (1 - entry) ** count * (1 - product) ** products, (1 + entry) ** count * (1 + product) ** products
