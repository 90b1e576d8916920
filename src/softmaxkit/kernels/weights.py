"""Tables of 8-bit weights for attention: the weight of a score by its distance from its row's largest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

CODES = 128
"""Distances that a table of weights tells apart."""
RESOLUTIONS = 8
"""Tables of ever coarser distances, for rows whose scores are spread too widely for the finest."""
VARIANTS = 16
"""Variants of a table, each with another rounding: consecutive panels of 64 keys have one each."""
LARGEST = 255
"""Largest weight."""
LEVEL_ERROR = 0.05
"""Relative error of the smallest level's weight above which weights have two bytes."""
EXPONENTIAL_STEP = 1 / 16
"""Distance of a score to the next for weights that are exponentials; from 127 of them on, exp(-7.9), weights are 0."""


@dataclass(frozen=True)
class Weights:
    """How distances below a row's largest score become weights.

    Attributes:
        step: of the finest table, as a difference of scores.
        tables: uint8, (resolutions, planes, variants, codes), planes from high to low.
        one: the weight that stands for 1.
        normalised: are weights divided by their sum?
    """

    step: float
    tables: NDArray[np.uint8]
    one: float
    normalised: bool


@lru_cache(maxsize=256)
def level_weights(clip: float, exponentials: tuple[float, ...]) -> Weights:
    """Return the weights of levels, exp of each, in one byte if that holds the smallest well enough, or in two."""
    levels = len(exponentials)
    level = -clip / (levels - 1)
    # Levels end half-way between two: there a distance's code ends too.
    step = level / 2 / 2 ** int(math.log2(CODES / (2 * levels - 1)))
    downwards = np.array(exponentials[::-1]) / exponentials[-1]
    tops = np.arange(LARGEST // 2 + 1, LARGEST + 1)
    exact = np.outer(tops, downwards)
    errors = np.abs(np.round(exact) / exact - 1).max(axis=1)
    best = int(errors.argmin())
    one, planes = (int(tops[best]), 1) if errors[best] <= LEVEL_ERROR else (2**16 - 1, 2)

    def weight(distance: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(one * downwards[np.minimum(np.rint(distance / level).astype(int), levels - 1)])

    middles = (np.arange(CODES) + 0.5) * step
    return Weights(step, _tables([weight(middles * 2**k) for k in range(RESOLUTIONS)], planes), one, True)


@lru_cache(maxsize=1)
def exponential_weights() -> Weights:
    """Return weights that are exp of distances rounded to `EXPONENTIAL_STEP`."""
    distances = np.arange(CODES) * EXPONENTIAL_STEP
    exact = []
    for factor in 2.0 ** np.arange(RESOLUTIONS):
        half = factor * EXPONENTIAL_STEP / 2
        mean = np.exp(-distances * factor) * math.sinh(half) / half  # over all scores that are rounded to a distance
        mean[0] = 1.0  # the largest score itself
        mean[-1] = 0.0  # whatever is farther away: it has no mean of its own
        exact.append(LARGEST * mean)
    return Weights(EXPONENTIAL_STEP, _tables(exact, 1), LARGEST, False)


def _tables(exact: list[NDArray[np.float64]], planes: int) -> NDArray[np.uint8]:
    """Round weights, each variant at another place, from the middle outwards: a few panels average out too."""
    below = [7, 3, 5, 1, 6, 2, 4, 0]
    places = (np.array([[place, VARIANTS - 1 - place] for place in below]).ravel() + 0.5) / VARIANTS
    whole = np.floor(np.stack(exact)[:, None, :] + places[:, None]).astype(np.int64)
    split = np.stack([whole >> 8 * plane & 255 for plane in reversed(range(planes))], axis=1)
    return np.ascontiguousarray(split.astype(np.uint8))
