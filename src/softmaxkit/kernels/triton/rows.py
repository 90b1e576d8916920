"""The row kernels in Triton; arguments, results and errors as in `softmaxkit.kernels.rows`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from softmaxkit.kernels.row_gradients import gradient_like
from softmaxkit.kernels.rows import (
    are_exponentials,
    check_clip,
    check_entries,
    check_levels,
    check_offset,
    heads_of,
    log_limit,
)
from softmaxkit.kernels.triton.launch import FUSED, LOG2_E, mask_bytes, on_device_of
from softmaxkit.kernels.triton.row_exponential import exponential_rows, exponential_rows_backward
from softmaxkit.kernels.triton.row_levels import levels_rows, levels_rows_backward
from softmaxkit.kernels.triton.row_logistic import logistic_rows, logistic_rows_backward
from softmaxkit.kernels.triton.row_softmax import softmax_rows, softmax_rows_backward

LONGEST = 8192
"""Keys of a row that a program holds at once; it reads longer rows in tiles, two or three times."""
LONG = 32768
"""Keys of a row beyond which a multiprocessor has one row at a time, not two, and so finds it in a cache when it reads
it again: a Hopper card's first level holds 65,536 keys of 16 bits, its second level those of all multiprocessors."""
TILE = 1024
"""Scores that a warp processes; for shorter rows, scores that `WARPS` warps process together."""
WARPS = 4


class Rows(NamedTuple):
    """Scores as the row kernels read them.

    Attributes:
        scores: (any, heads, queries, keys).
        mask: as bytes, broadcast to the scores.
        sizes: the number of rows, heads, queries and keys.
        strides: of scores, then of the mask.
        constants: compile-time constants of the kernels.
    """

    scores: Tensor
    mask: Tensor
    sizes: tuple[int, int, int, int]
    strides: tuple[int, ...]
    constants: dict[str, Any]

    @property
    def grid(self) -> tuple[int]:
        """Number of programs, each of which processes whole rows."""
        return (triton.cdiv(self.sizes[0], self.constants["ROWS"]),)

    def in_tiles(self) -> Rows:
        """Return the rows for programs that process a tile each, not whole rows."""
        tile = {"COLUMNS": min(self.constants["COLUMNS"], WARPS * TILE), "num_warps": WARPS}
        return self._replace(constants={**self.constants, **tile})

    @property
    def grid_of_tiles(self) -> tuple[int]:
        """Number of programs, each of which processes a tile, as `row_tiles.tile_of_program` numbers them."""
        return (self.grid[0] * triton.cdiv(self.sizes[3], self.constants["COLUMNS"]),)


def block(keys: int) -> dict[str, int]:
    """Return the rows, columns and warps of a program, and the option `FUSED`."""
    if keys > LONGEST:
        columns = 2 * LONGEST if keys > LONG else LONGEST
        return {"ROWS": 1, "COLUMNS": columns, "num_warps": 2 * columns // TILE, **FUSED}
    columns = triton.next_power_of_2(max(keys, 16))
    warps = WARPS if columns < TILE else columns // TILE
    return {"ROWS": max(1, TILE // columns), "COLUMNS": columns, "num_warps": warps, **FUSED}


def rows_of(scores: Tensor, mask: Tensor | None, is_causal: bool) -> Rows:
    """Return scores as the kernels read them.

    Raises:
        TypeError, ValueError: the mask is not boolean or does not broadcast, or the scores have too few axes.
    """
    if scores.ndim < 1 or (is_causal and scores.ndim < 2):
        raise ValueError("scores must be (..., queries, keys)")
    source = _axes(scores)
    bits = source if mask is None else _axes(mask_bytes(mask, scores.shape, scores)[0])
    constants = {"CAUSAL": is_causal, "MASKED": mask is not None, **block(scores.shape[-1])}
    shape = source.shape
    sizes = (shape[0] * shape[1] * shape[2], shape[1], shape[2], shape[3])
    return Rows(source, bits, sizes, (*source.stride(), *bits.stride()), constants)


def softmax(scores: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Return softmax, as `softmaxkit.kernels.rows.softmax`."""
    return softmax_to_base(scores, math.e, mask, is_causal)


def softmax_to_base(scores: Tensor, base: float, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Return softmax to a base, as `softmaxkit.kernels.rows.softmax_to_base`."""
    result, rows = empty(scores), rows_of(scores, mask, is_causal)
    if result.numel():
        single = rows.sizes[3] <= rows.constants["COLUMNS"]
        with on_device_of(scores):
            softmax_rows[rows.grid](
                *(rows.scores, rows.mask, result, *rows.sizes, *rows.strides, math.log2(base)),
                SINGLE=single,
                **rows.constants,
            )
    return result


def softmax_backward(probabilities: Tensor, gradient: Tensor, base: float = math.e) -> Tensor:
    """Return the gradient of scores, as `softmaxkit.kernels.row_gradients.softmax_backward`."""
    weights, given = probabilities.contiguous(), gradient_like(gradient, probabilities, "probabilities")
    result = empty(weights)
    if result.numel():
        keys = weights.shape[-1]
        sizes = block(keys)
        with on_device_of(weights):
            softmax_rows_backward[(triton.cdiv(weights.numel() // keys, sizes["ROWS"]),)](
                weights, given, result, weights.numel() // keys, keys, math.log(base), **sizes
            )
    return result


def exponential(
    scores: Tensor,
    offset: Tensor,
    limit: float = math.inf,
    base: float = math.e,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Return clamped exponentials, as `softmaxkit.kernels.rows.exponential`."""
    result, rows = empty(scores), rows_of(scores, mask, is_causal)
    offsets, head, rate, highest = _exponential_numbers(scores, offset, limit, base)
    if result.numel():
        rows = rows.in_tiles()
        with on_device_of(scores):
            exponential_rows[rows.grid_of_tiles](
                *(rows.scores, rows.mask, result, offsets, *rows.sizes, *rows.strides, head, rate, highest * rate),
                **rows.constants,
            )
    return result


def exponential_backward(
    scores: Tensor,
    gradient: Tensor,
    offset: Tensor,
    limit: float = math.inf,
    base: float = math.e,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the gradient of scores and its row sums, as `softmaxkit.kernels.row_gradients.exponential_backward`."""
    given = gradient_like(gradient, scores, "scores")
    result, rows = empty(scores), rows_of(scores, mask, is_causal)
    sums = scores.new_zeros(scores.shape[:-1], dtype=torch.float32)
    offsets, head, rate, highest = _exponential_numbers(scores, offset, limit, base)
    if result.numel():
        numbers = (head, rate, highest, math.log(base))
        with on_device_of(scores):
            exponential_rows_backward[rows.grid](
                *(rows.scores, rows.mask, given, result, sums, offsets, *rows.sizes, *rows.strides, *numbers),
                **rows.constants,
            )
    return result, sums


def logistic(scores: Tensor, bias: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Return the logistic function of scores plus a bias, as `softmaxkit.kernels.rows.logistic`."""
    result, rows = empty(scores), rows_of(scores, mask, is_causal).in_tiles()
    biases = _offsets(scores, bias, "bias")
    if result.numel():
        with on_device_of(scores):
            logistic_rows[rows.grid_of_tiles](
                *(rows.scores, rows.mask, result, biases, *rows.sizes, *rows.strides, int(bias.ndim == 1)),
                **rows.constants,
            )
    return result


def logistic_backward(
    scores: Tensor, gradient: Tensor, bias: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the gradient of scores and its row sums, as `softmaxkit.kernels.row_gradients.logistic_backward`."""
    given = gradient_like(gradient, scores, "scores")
    result, rows = empty(scores), rows_of(scores, mask, is_causal)
    sums = scores.new_zeros(scores.shape[:-1], dtype=torch.float32)
    biases = _offsets(scores, bias, "bias")
    if result.numel():
        head = int(bias.ndim == 1)
        with on_device_of(scores):
            logistic_rows_backward[rows.grid](
                *(rows.scores, rows.mask, given, result, sums, biases, *rows.sizes, *rows.strides, head),
                **rows.constants,
            )
    return result, sums


def levels(
    scores: Tensor,
    clip: float,
    exponentials: Sequence[float],
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Return softmax over levels, as `softmaxkit.kernels.rows.levels`."""
    check_levels(clip, exponentials)
    return level_table(scores, clip, exponentials, mask, is_causal)


def level_table(
    scores: Tensor, clip: float, entries: Sequence[float], mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """Return entries by level, divided by their sum, as `softmaxkit.kernels.rows.level_table`.

    Raises:
        ValueError: as there, or the entries are not the exponentials of the levels, of which the lowest may be 0.
    """
    check_entries(clip, entries)
    if not are_exponentials(clip, entries):
        raise ValueError(f"entries must be the exponentials of evenly spaced levels from {clip:g}, got {entries}")
    result, rows = empty(scores), rows_of(scores, mask, is_causal)
    if result.numel():
        top = len(entries) - 1
        single = rows.sizes[3] <= rows.constants["COLUMNS"]
        with on_device_of(scores):
            levels_rows[rows.grid](
                *(rows.scores, rows.mask, result, *rows.sizes, *rows.strides, -top / clip, -clip / top * LOG2_E),
                SINGLE=single,
                TOP=top,
                FROM_ZERO=entries[0] == 0,
                **rows.constants,
            )
    return result


def levels_backward(
    scores: Tensor,
    probabilities: Tensor,
    gradient: Tensor,
    clip: float,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Return the gradient of scores, as `softmaxkit.kernels.row_gradients.levels_backward`."""
    check_clip(clip)
    weights, given = (gradient_like(x, scores, "scores") for x in (probabilities, gradient))
    result, rows = empty(scores), rows_of(scores, mask, is_causal)
    if result.numel():
        with on_device_of(scores):
            levels_rows_backward[rows.grid](
                *(rows.scores, rows.mask, weights, given, result, *rows.sizes, *rows.strides, clip),
                **rows.constants,
            )
    return result


def _exponential_numbers(scores: Tensor, offset: Tensor, limit: float, base: float) -> tuple[Tensor, int, float, float]:
    """Return the offsets, their head stride, the base's binary logarithm, and the limit's logarithm to the base."""
    offsets = _offsets(scores, offset, "offset")
    rate = LOG2_E if base == math.e else math.log2(base)
    return offsets, int(offset.ndim == 1), rate, log_limit(limit, base)


def _offsets(scores: Tensor, offset: Tensor, name: str) -> Tensor:
    """Return an offset, checked, as the kernels read it: float32 on the scores' device, (1,) or (heads,)."""
    check_offset(offset, heads_of(scores), name)
    return offset.detach().to(scores.device, torch.float32).reshape(-1).contiguous()


def empty(scores: Tensor) -> Tensor:
    """Allocate a contiguous result with the shape, dtype and device of the scores."""
    return torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)


def _axes(values: Tensor) -> Tensor:
    """Return values with four axes; leading axes beyond that are merged, by a copy where strides require it."""
    return values[(None,) * (4 - values.ndim)] if values.ndim < 4 else values.flatten(0, values.ndim - 4)
