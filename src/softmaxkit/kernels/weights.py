"""Tables of 8-bit weights for attention: what a score's distance from its row's largest counts."""

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
"""Roundings of a table, of which consecutive panels of 64 keys take one each."""
LARGEST = 255
"""Largest weight."""
LEVEL_ERROR = 0.05
"""Relative error of EXAQ's smallest weights above which they take two bytes."""
CONSMAX_STEP = 1 / 16
"""Distance of a score to the next in ConSmax; 127 of them are exp(-7.9)."""


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
def exaq_weights(clip: float, exponentials: tuple[float, ...]) -> Weights:
    """Return the weights of EXAQ, exp of each level, in one byte if that holds the smallest well enough, or in two."""
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
def consmax_weights() -> Weights:
    """Return the weights of ConSmax: exp at distances rounded to `CONSMAX_STEP`."""
    distances = np.arange(CODES) * CONSMAX_STEP
    exact = []
    for factor in 2.0 ** np.arange(RESOLUTIONS):
        half = factor * CONSMAX_STEP / 2
        mean = np.exp(-distances * factor) * math.sinh(half) / half  # over all that is rounded to a distance
        mean[0] = 1.0  # the largest score itself
        exact.append(LARGEST * mean)
    return Weights(CONSMAX_STEP, _tables(exact, 1), LARGEST, False)


def _tables(exact: list[NDArray[np.float64]], planes: int) -> NDArray[np.uint8]:
    """Round weights, each variant at another place: from the middle outwards, so that few panels are even too."""
    below = [7, 3, 5, 1, 6, 2, 4, 0]
    places = (np.array([[place, VARIANTS - 1 - place] for place in below]).ravel() + 0.5) / VARIANTS
    whole = np.floor(np.stack(exact)[:, None, :] + places[:, None]).astype(np.int64)
    split = np.stack([whole >> 8 * plane & 255 for plane in reversed(range(planes))], axis=1)
    return np.ascontiguousarray(split.astype(np.uint8))
