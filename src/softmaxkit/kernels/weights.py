"""Tables of 8-bit attention weights, indexed by the distance of a score below its row's maximum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

CODES = 128
"""Entries of a table: distances of 0, 1, ... 127 steps."""
RESOLUTIONS = 8
"""Number of tables, each with twice the step of the previous one, for rows whose scores are widely spread."""
VARIANTS = 16
"""Variants of a table that differ in rounding; consecutive panels of 64 keys use consecutive variants."""
LARGEST, LARGEST_WIDE = 255, 2**15 - 1
"""Largest weights of one byte and of two. With 16 bits, words would not be signed, and the products of 512 keys, which
the kernels sum before they convert to floating point, would not fit 32 bits."""
LEVEL_ERROR = 0.05
"""Relative error of the smallest level's weight above which two-byte weights are used."""
EXPONENTIAL_STEP = 1 / 16
"""Step of the finest table of exponentials, in nats; from 127 steps on, exp(-7.9), weights are 0."""


@dataclass(frozen=True)
class Weights:
    """How distances below a row's largest score become weights.

    Attributes:
        step: of the finest table, in the unit of the scores.
        tables: uint8, (resolutions, planes, variants, codes), the high byte's plane first.
        one: the integer weight that represents 1.
        normalised: whether weights are divided by their sum.
    """

    step: float
    tables: NDArray[np.uint8]
    one: float
    normalised: bool


@lru_cache(maxsize=256)
def level_weights(clip: float, exponentials: tuple[float, ...]) -> Weights:
    """Return the weights of levels: one byte if it represents the smallest level within `LEVEL_ERROR`, otherwise two.

    Args:
        clip: the lowest level, negative.
        exponentials: exp of each level, from the clip up to 0.
    """
    levels = len(exponentials)
    level = -clip / (levels - 1)
    # The border between two levels is half-way; a power of two of steps per half level puts a code's border there too.
    step = level / 2 / 2 ** int(math.log2(CODES / (2 * levels - 1)))
    downwards = np.array(exponentials[::-1]) / exponentials[-1]
    tops = np.arange(LARGEST // 2 + 1, LARGEST + 1)
    exact = np.outer(tops, downwards)
    errors = np.abs(np.round(exact) / exact - 1).max(axis=1)
    best = int(errors.argmin())
    one, planes = (int(tops[best]), 1) if errors[best] <= LEVEL_ERROR else (LARGEST_WIDE, 2)

    def weight(distance: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(one * downwards[np.minimum(np.rint(distance / level).astype(int), levels - 1)])

    middles = (np.arange(CODES) + 0.5) * step
    return Weights(step, _tables([weight(middles * 2**k) for k in range(RESOLUTIONS)], planes), one, True)


@lru_cache(maxsize=1)
def exponential_weights() -> Weights:
    """Return weights that are exp of the negative distance, with distances rounded to multiples of the step."""
    distances = np.arange(CODES) * EXPONENTIAL_STEP
    exact = []
    for factor in 2.0 ** np.arange(RESOLUTIONS):
        half = factor * EXPONENTIAL_STEP / 2
        mean = np.exp(-distances * factor) * math.sinh(half) / half  # over the scores that round to this distance
        mean[0] = 1.0  # the largest score itself
        mean[-1] = 0.0  # also every score farther away, so a mean over one step would be far too large
        exact.append(LARGEST * mean)
    return Weights(EXPONENTIAL_STEP, _tables(exact, 1), LARGEST, False)


def _tables(exact: list[NDArray[np.float64]], planes: int) -> NDArray[np.uint8]:
    """Round weights to integers, dithered across variants in pairs about 1/2, so that a few panels average out too."""
    low_half = [7, 3, 5, 1, 6, 2, 4, 0]
    dither = (np.array([[rank, VARIANTS - 1 - rank] for rank in low_half]).ravel() + 0.5) / VARIANTS
    whole = np.floor(np.stack(exact)[:, None, :] + dither[:, None]).astype(np.int64)
    split = np.stack([whole >> 8 * plane & 255 for plane in reversed(range(planes))], axis=1)
    return np.ascontiguousarray(split.astype(np.uint8))
