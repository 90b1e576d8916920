"""Computations on rows of scores, a stripe of rows at a time: what they need meanwhile is as large as a stripe."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from softmaxkit.kernels.backends import is_in_graph, transform_at_work

STRIPE = 1 << 20
"""Approximate number of scores in a stripe on the CPU."""
ON_CARDS = 16
"""How many times as many there are on other devices, which wait for each operation to be launched."""


def is_eager() -> bool:
    """Return whether torch runs each operation at once, without transforms, so that memory can be kept by hand."""
    return not is_in_graph() and not transform_at_work()


def in_stripes(
    compute: Callable[..., tuple[Tensor, ...]], scores: Tensor, *others: Tensor | None, without: int | None = None
) -> tuple[Tensor, ...]:
    """Compute what depends on single rows of scores, without gradients; in graphs and for few scores all at once.

    Args:
        compute: returns tensors, (..., keys), of the scores and the others of a stripe.
        scores: (..., keys).
        others: tensors in the shape of the scores, or None.
        without: an axis, counted from the end, along which the scores are not split.

    Returns:
        The results of all stripes, each in the shape of the scores.
    """
    axes = [axis for axis in range(-scores.ndim, -1) if axis != without]
    stripe = STRIPE * (1 if scores.device.type == "cpu" else ON_CARDS)
    if not axes or not is_eager() or type(scores) is not Tensor or scores.numel() <= stripe:
        return compute(scores, *others)
    axis = max(axes, key=lambda axis: scores.shape[axis])
    rows = max(1, stripe * scores.shape[axis] // scores.numel())
    results: tuple[Tensor, ...] = ()
    for first in range(0, scores.shape[axis], rows):
        count = min(rows, scores.shape[axis] - first)
        parts = compute(*(None if x is None else x.narrow(axis, first, count) for x in (scores, *others)))
        results = results or tuple(torch.empty_like(scores, dtype=part.dtype) for part in parts)
        for result, part in zip(results, parts, strict=True):
            result.narrow(axis, first, count).copy_(part)
    return results
