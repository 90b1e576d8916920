"""Evenly spaced levels between a clip and a row's maximum: exact thresholds, and the error bound of the table."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def thresholds(clip: float, levels: int) -> list[tuple[Fraction, bool]]:
    """Return the lower threshold of each level except the lowest, as `(value, inclusive)`.

    Thresholds are the midpoints between evenly spaced levels from the clip to 0. A tie goes to the even level, so a
    threshold is inclusive if it rounds up. They are exact fractions, so that real and integer scores agree on ties.
    """
    low, top = Fraction(clip), levels - 1
    return [(low - low * Fraction(2 * k + 1, 2 * top), k % 2 == 1) for k in range(top)]


def least_values(clip: float, levels: int) -> list[float]:
    """Return, for each level except the lowest, the smallest float64 `score - maximum` that maps to it."""
    floats = []
    for value, inclusive in thresholds(clip, levels):
        least = float(value)
        if least < value or (least == value and not inclusive):
            least = math.nextafter(least, math.inf)
        floats.append(least)
    return floats


def levels_of(
    scores: NDArray[np.float64], attended: NDArray[np.bool_], clip: float, levels: int
) -> NDArray[np.float64]:
    """Return the level of each real score, (..., keys), from 0 at the clip; that of the row's maximum where masked."""
    highest = np.max(scores, axis=-1, where=attended, initial=-np.inf, keepdims=True)
    distance = np.where(attended, scores - np.where(np.isfinite(highest), highest, 0.0), 0.0)
    level = np.zeros(scores.shape)
    for least in least_values(clip, levels):
        level += distance >= least
    return level


def threshold_codes(clip: float, levels: int, step: Fraction, lowest: int) -> tuple[int, ...]:
    """Return, for each level except the lowest, the smallest difference of two score codes that maps to it.

    Args:
        clip: the lowest level, negative.
        levels: number of levels.
        step: real value of one step of the score code.
        lowest: lower limit of the result, below every difference of two codes.
    """
    codes = [
        math.ceil(value / step) if inclusive else math.floor(value / step) + 1
        for value, inclusive in thresholds(clip, levels)
    ]
    return tuple(max(code, lowest) for code in codes)


def quotient_error(
    truth: NDArray[np.float64], off: float, relative: float, step: float, limit: float
) -> NDArray[np.float64]:
    """Bound the error of probabilities whose levels are correct.

    Each table entry is off by at most `off`, the sum by `off` per key, the reciprocal by `relative`, and the output by
    `step`. The table entry of the row's largest score is exact.

    Args:
        truth: probabilities computed with an exact exp, (..., keys).
        off: half a step of the table.
        relative: relative error bound of the reciprocal.
        step: half a step of the output.
        limit: the largest representable output.

    Returns:
        The bound of each element's absolute error, (..., keys); 0 where `truth` is 0.
    """
    keys = (truth > 0).sum(axis=-1, keepdims=True)
    # The largest power is 1, so the true sum is the inverse of the row's largest probability.
    total = 1 / np.maximum(truth.max(axis=-1, keepdims=True, initial=0.0), 1e-300)
    power = truth * total
    high = (power + off) / np.maximum(total - keys * off, 0.5) * (1 + relative) + step
    low = np.maximum(power - off, 0) / (total + keys * off) * (1 - relative) - step
    bound = np.maximum(np.minimum(high, limit) - truth, truth - np.clip(low, 0, limit))
    return np.asarray(np.where(truth > 0, bound, 0.0))
