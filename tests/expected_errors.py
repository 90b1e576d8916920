"""How far attention over a few bits goes from float64, as expected of normal queries, keys and values."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from softmaxkit import ConSmax, Exaq, Index, Sigmoid

SCORES, VALUES, DISTANCES = 0.02, 0.01, 1 / 16 / 12**0.5
"""What 8 bits take, root mean square. Rounding errs by 1/sqrt(12) of a step; steps are 1/127 of the largest of some
hundred normal numbers, which is 2.5 to 3.2 standard deviations. So queries err by 0.6% and keys by 0.7% of their size,
scores of spread 2 by 1% of that; values err by 1% of their size at most; distances below exponentials' largest have
steps of 1/16."""
FEW_ROWS = 2
"""Times the expected error that a few rows may have: in them, a single weight at a border of levels counts."""
Method = tuple[Any, dict[str, Any], float]
"""A spec, its numbers, and the error expected of results, root mean square over the result's."""


def of_levels(clip: float, bits: int, scores: float = SCORES, values: float = VALUES) -> float:
    """Return what a result with levels errs by, over its size.

    A weight errs where its score crosses the border of two levels, as many do as lie within the mean error, 0.8 of the
    root mean square, of one; and then by 1 - exp(-distance of levels) of the larger weight. In squares, as weights err
    apart: of few levels the first border counts, where normal scores of spread 2 become fewer by exp(-1.3) a nat (2.6
    standard deviations above their middle), so that a nat there holds 1.3 of those above; of many levels all borders
    count, one in each distance.
    """
    distance = -clip / (2**bits - 1)
    share = 0.8 * scores * max(1.3, 1 / distance)
    return math.hypot(math.sqrt(share) * (1 - math.exp(-distance)), values)


def methods(scores: float = SCORES, values: float = VALUES, distances: float = DISTANCES) -> list[Method]:
    """Return methods whose scores, values and exponentials' distances err by so much, root mean square."""
    return [
        (Exaq(), {"clip": -5.0}, of_levels(-5.0, 2, scores, values)),
        (Exaq(bits=3), {"clip": -6.0}, of_levels(-6.0, 3, scores, values)),
        (Exaq(bits=4), {"clip": -6.0}, of_levels(-6.0, 4, scores, values)),
        (Index(), {}, of_levels(-6.6, 5, scores, values)),
        (ConSmax(), {"beta": 7.0, "gamma": 1.0}, math.hypot(scores, values, distances)),
        (Sigmoid(), {"bias": -7.0}, math.hypot(scores, values, distances)),
    ]


def truth(spec: Any, numbers: dict[str, Any], given: list[Tensor], mask: Tensor | None = None) -> Tensor:
    """Return attention of two heads of 64 channels in float64."""
    query, key, value = (x.double() for x in given)
    result: Tensor = spec.module(heads=2, **numbers)(query @ key.mT / 8, mask) @ value
    return result.detach()


def error(result: Tensor, exact: Tensor) -> float:
    """Return the root mean square of a difference over that of what is exact."""
    return ((result - exact).square().mean().sqrt() / exact.square().mean().sqrt()).item()
