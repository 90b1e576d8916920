"""Tables of 8-bit attention weights, indexed by the distance of a score below its row's anchor, mostly the maximum."""

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
ANCHORS = np.arange(-8, 6.125, 0.125)
"""Anchors of the logistic function: below the first it is an exponential, within 0.04%, and from the last on it is 1,
within 0.25%. A table of an anchor above 0 has twice the step of the others, and so reaches as far below 0. Where 16
bits do not reach up to the next anchor, its table serves with the largest score as anchor: anchors must be close."""


@dataclass(frozen=True)
class Weights:
    """How distances below a row's anchor become weights.

    Attributes:
        tables: uint8, (sets, resolutions, planes, variants, codes), the high byte's plane first. There is a set for
            each anchor, for each head, or one.
        steps: float64, (sets,), of the finest tables, in the unit of the scores.
        one: the integer weight that represents the function's value at the anchor, unless weights are normalised.
        anchors: float64, (sets,), of the logistic function, in ascending order; None for other weights, whose tables do
            not depend on the anchor.
    """

    tables: NDArray[np.uint8]
    steps: NDArray[np.float64]
    one: float = 1.0
    anchors: NDArray[np.float64] | None = None


@lru_cache(maxsize=256)
def level_weights(clips: tuple[float, ...], entries: tuple[tuple[float, ...], ...]) -> Weights:
    """Return the weights of levels: one byte if it represents the smallest level within `LEVEL_ERROR`, otherwise two.

    Args:
        clips: the lowest level, negative, one or one per head.
        entries: what the levels weigh, evenly spaced from the clip up to 0, for each clip.
    """
    planes = max(_largest_of_levels(of_head)[1] for of_head in entries)
    sets = [_level_set(clip, of_head, planes) for clip, of_head in zip(clips, entries, strict=True)]
    return Weights(_tables(np.stack([exact for exact, _ in sets]), planes), np.array([step for _, step in sets]))


def _largest_of_levels(entries: tuple[float, ...]) -> tuple[int, int]:
    """Return the integer that represents the highest level best, and the bytes that the others need beside it."""
    tops = np.arange(LARGEST // 2 + 1, LARGEST + 1)
    relative = np.array(entries) / entries[-1]
    exact = np.outer(tops, relative[relative > 0])
    errors = np.abs(np.round(exact) / exact - 1).max(axis=1)
    best = int(errors.argmin())
    return (int(tops[best]), 1) if errors[best] <= LEVEL_ERROR else (LARGEST_WIDE, 2)


def _level_set(clip: float, entries: tuple[float, ...], planes: int) -> tuple[NDArray[np.float64], float]:
    """Return the exact weights of levels, (resolutions, codes), and the step of the finest resolution."""
    levels = len(entries)
    level = -clip / (levels - 1)
    # The border between two levels is half-way; a power of two of steps per half level puts a code's border there too.
    step = level / 2 / 2 ** int(math.log2(CODES / (2 * levels - 1)))
    downwards = np.array(entries[::-1]) / entries[-1]
    one = LARGEST_WIDE if planes == 2 else _largest_of_levels(entries)[0]

    def weight(distance: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(one * downwards[np.minimum(np.rint(distance / level).astype(int), levels - 1)])

    middles = (np.arange(CODES) + 0.5) * step
    return np.stack([weight(middles * 2**k) for k in range(RESOLUTIONS)]), step


@lru_cache(maxsize=1)
def exponential_weights() -> Weights:
    """Return weights that are exp of the negative distance, with distances rounded to multiples of the step."""
    distances = np.arange(CODES) * EXPONENTIAL_STEP
    factors = 2.0 ** np.arange(RESOLUTIONS)[:, None]
    half = factors * EXPONENTIAL_STEP / 2
    means = np.exp(-distances * factors) * np.sinh(half) / half  # over the scores that round to this distance
    return Weights(_tables(_with_ends(means)[None], 1), np.array([EXPONENTIAL_STEP]), LARGEST)


@lru_cache(maxsize=1)
def logistic_weights() -> Weights:
    """Return weights that are the logistic function, relative to its value at the anchor, of rounded distances."""
    anchors, steps = ANCHORS, np.where(ANCHORS > 0, 2, 1) * EXPONENTIAL_STEP
    of_step = (steps[:, None] * 2.0 ** np.arange(RESOLUTIONS))[..., None]
    scores = anchors[:, None, None] - np.arange(CODES) * of_step
    ends = np.logaddexp(0, scores + of_step / 2) - np.logaddexp(0, scores - of_step / 2)
    means = ends / of_step * (1 + np.exp(-anchors))[:, None, None]
    return Weights(_tables(_with_ends(np.minimum(means, 1)), 1), steps, LARGEST, anchors)


def _with_ends(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights for the means of a function over the scores that round to each distance."""
    weights = LARGEST * means
    weights[..., 0] = LARGEST  # the largest score itself
    weights[..., -1] = 0  # also every score farther away, so a mean over one step would be far too large
    return weights


def _tables(exact: NDArray[np.float64], planes: int) -> NDArray[np.uint8]:
    """Round weights to integers, dithered across variants in pairs about 1/2, so that a few panels average out too."""
    low_half = [7, 3, 5, 1, 6, 2, 4, 0]
    dither = (np.array([[rank, VARIANTS - 1 - rank] for rank in low_half]).ravel() + 0.5) / VARIANTS
    whole = np.floor(exact[..., None, :] + dither[:, None]).astype(np.int64)
    split = np.stack([whole >> 8 * plane & 255 for plane in reversed(range(planes))], axis=-3)
    return np.ascontiguousarray(split.astype(np.uint8))
