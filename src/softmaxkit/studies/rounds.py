"""Rounds in which contenders run in turn, so that whatever slows the machine meets all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TypeVar

from softmaxkit.studies.progress import Progress

Measured = TypeVar("Measured")


def in_turn(runs: Sequence[Callable[[], Measured]], rounds: int, progress: Progress) -> list[list[Measured]]:
    """Call all of them in turn, once to warm up and then in every round; return what each returned, by round."""
    results: list[list[Measured]] = [[] for _ in runs]
    for turn in range(rounds + 1):
        for run, own in zip(runs, results, strict=True):
            measured = run()
            if turn:
                own.append(measured)
        progress(turn, rounds)
    return results


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile of one value or more."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def quartile_ratios(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float, float]:
    """Return the quartiles of each round's ratio."""
    return quartiles([a / b for a, b in zip(numerators, denominators, strict=True)])
