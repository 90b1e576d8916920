"""Costs of an array of any size from those that were measured: non-negative least squares for a few unknowns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from softmaxkit.formats import Array


class Fit(NamedTuple):
    """Costs that explain measured figures.

    Attributes:
        costs: the cost of one of each counted kind, none of them negative; float64, (kinds,).
        error: largest relative difference between a measured figure and the sum of its costs.
    """

    costs: Array
    error: float


def fit_costs(counts: Sequence[Sequence[float]], measured: Sequence[float]) -> Fit:
    """Return the non-negative costs with the least squares of relative errors.

    The best fit is an ordinary one to some of the kinds, the others costing nothing, so all such choices are tried.

    Args:
        counts: how many of each kind each measured thing has, (things, kinds).
        measured: positive figures of the things, (things,).
    """
    relative = np.asarray(counts, np.float64) / np.asarray(measured, np.float64)[:, None]
    best, least = np.zeros(relative.shape[1]), float(len(relative))
    for choice in product((False, True), repeat=relative.shape[1]):
        kinds = np.flatnonzero(choice)
        costs = np.zeros(relative.shape[1])
        costs[kinds] = np.linalg.lstsq(relative[:, kinds], np.ones(len(relative)), rcond=None)[0]
        squares = float(((relative @ costs - 1) ** 2).sum())
        if costs.min() >= 0 and squares < least:
            best, least = costs, squares
    return Fit(best, float(abs(relative @ best - 1).max()))


def array_counts(sizes: Mapping[str, Any], across: str) -> list[int]:
    """Return what an array is made of: multipliers, rows or columns (`across`), channels, and 1 for the rest."""
    return [sizes["rows"] * sizes["columns"], sizes[across], sizes["channels"], 1]


def beyond(counts: Sequence[Sequence[int]], own: Sequence[int]) -> str:
    """Return what a fit is extrapolated to, with the largest count that was recorded; empty if it is not."""
    recorded = [max(column) for column in zip(*counts, strict=True)]
    multipliers, _, channels, _ = own
    kinds = (("multipliers", multipliers, recorded[0]), ("channels", channels, recorded[2]))
    further = [f"from {most} {kind} to {count:,}" for kind, count, most in kinds if count > most]
    return f", extrapolated {' and '.join(further)}" if further else ""
