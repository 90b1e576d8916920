"""Even levels between a clip and a row's maximum: where each begins, exactly, and what their table costs in error."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def thresholds(clip: float, levels: int) -> list[tuple[Fraction, bool]]:
    """Return where each level but the lowest begins, as `(value, does the value itself round up)`.

    Midpoints of even levels from the clip to 0, ties to even. Exact fractions of the clip, so that real and integer
    coding agree to the last tie.
    """
    low, top = Fraction(clip), levels - 1
    return [(low - low * Fraction(2 * k + 1, 2 * top), k % 2 == 1) for k in range(top)]


def least_values(clip: float, levels: int) -> list[float]:
    """Return, for each level but the lowest, the smallest float64 `score - maximum` that takes it."""
    floats = []
    for value, inclusive in thresholds(clip, levels):
        least = float(value)
        if least < value or (least == value and not inclusive):
            least = math.nextafter(least, math.inf)
        floats.append(least)
    return floats


def threshold_codes(clip: float, levels: int, step: Fraction, lowest: int) -> tuple[int, ...]:
    """Return, for each level but the lowest, the smallest difference of two score codes that takes it.

    Args:
        clip: the lowest level, negative.
        levels: how many.
        step: real value of one step of the score code.
        lowest: what is below every difference of two codes.
    """
    codes = [
        math.ceil(value / step) if inclusive else math.floor(value / step) + 1
        for value, inclusive in thresholds(clip, levels)
    ]
    return tuple(max(code, lowest) for code in codes)


def quotient_error(
    truth: NDArray[np.float64], off: float, relative: float, step: float, limit: float
) -> NDArray[np.float64]:
    """Bound the error of probabilities whose levels are right.

    A table entry is off by half its step, the sum by that for each key, the reciprocal by its relative bound, the
    output by half its step. The entry of the row's largest score is exact.

    Args:
        truth: the probabilities with a true exp, (..., keys).
        off: half a step of the table.
        relative: error of the reciprocal.
        step: half a step of the output.
        limit: the largest output.
    """
    keys = (truth > 0).sum(axis=-1, keepdims=True)
    # The largest power is 1, so the true sum is the inverse of the row's largest probability.
    total = 1 / np.maximum(truth.max(axis=-1, keepdims=True, initial=0.0), 1e-300)
    power = truth * total
    high = (power + off) / np.maximum(total - keys * off, 0.5) * (1 + relative) + step
    low = np.maximum(power - off, 0) / (total + keys * off) * (1 - relative) - step
    bound = np.maximum(np.minimum(high, limit) - truth, truth - np.clip(low, 0, limit))
    return np.asarray(np.where(truth > 0, bound, 0.0))
