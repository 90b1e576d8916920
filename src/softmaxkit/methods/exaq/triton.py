"""EXAQ integer kernel for GPUs: levels by comparing codes with the highest, their sum, one product per level."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from softmaxkit.kernels.triton.integer_arithmetic import encode, is_invalid, probabilities, reciprocal, shift_right
from softmaxkit.kernels.triton.integers import (
    UNSEEN,
    integer_rows,
    numbers_on,
    reciprocal_constants,
    reciprocal_tables,
)
from softmaxkit.kernels.triton.launch import on_device_of, tables_of
from softmaxkit.kernels.triton.row_tiles import load_scores, store_row

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.kernels import ExaqCall


@triton.jit
def levels_of(codes, highest, thresholds, LEVELS: tl.constexpr):
    """Return the level of each code, from its distance to the highest code of its row."""
    distance = codes - highest[:, None]
    level = distance * 0
    for index in tl.static_range(LEVELS - 1):
        level += (distance >= tl.load(thresholds + index)).to(tl.int64)
    return level


@triton.jit
def exaq_rows(
    scores, mask, output, numbers, thresholds, exponentials, offsets, slopes, count, heads, queries, keys,
    score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k,
    LEVELS: tl.constexpr, LOWEST: tl.constexpr, HIGHEST: tl.constexpr, UNSEEN: tl.constexpr, PLACES: tl.constexpr,
    LIMIT: tl.constexpr, INPUT_BITS: tl.constexpr, REST_BITS: tl.constexpr, GUARD_BITS: tl.constexpr,
    NEAREST: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the probabilities of `ROWS` rows; `numbers` holds the score scale and the output step, float64."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    scale = tl.load(numbers)
    highest = tl.full([ROWS], UNSEEN, dtype=tl.int64)
    invalid = tl.zeros([ROWS], dtype=tl.int32)
    for start in range(0, keys, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        values, seen = load_scores(
            scores, mask, rows, columns, count, heads, queries, keys,
            score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
        )  # fmt: skip
        invalid = tl.maximum(invalid, is_invalid(values, seen))
        highest = tl.maximum(highest, tl.max(encode(values, seen, scale, LOWEST, HIGHEST, UNSEEN), 1))
    total = tl.zeros([ROWS], dtype=tl.int64)
    for start in range(0, keys, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        values, seen = load_scores(
            scores, mask, rows, columns, count, heads, queries, keys,
            score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
        )  # fmt: skip
        level = levels_of(encode(values, seen, scale, LOWEST, HIGHEST, UNSEEN), highest, thresholds, LEVELS)
        total += tl.sum(tl.where(seen, tl.load(exponentials + level), 0), 1)
    mantissa, exponent = reciprocal(total, offsets, slopes, INPUT_BITS, REST_BITS, GUARD_BITS, NEAREST)
    step = tl.load(numbers + 1)
    for start in range(0, keys, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        values, seen = load_scores(
            scores, mask, rows, columns, count, heads, queries, keys,
            score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
        )  # fmt: skip
        level = levels_of(encode(values, seen, scale, LOWEST, HIGHEST, UNSEEN), highest, thresholds, LEVELS)
        products = tl.load(exponentials + level) * mantissa[:, None]
        codes = tl.minimum(shift_right(products, (exponent + PLACES)[:, None], NEAREST), LIMIT)
        store_row(output, probabilities(codes, step, seen, invalid), rows, columns, count, keys, keys)


def run(call: ExaqCall, scores: Tensor, mask: Tensor | None) -> Tensor:
    """Run the kernel; return probabilities with the shape of the scores, as `ExaqCall` does."""
    rows, result = integer_rows(scores, mask)
    if result.numel():
        device = scores.device
        tables = tables_of(
            call,
            device,
            lambda: (
                numbers_on(device, (call.scale, call.step), torch.float64),
                numbers_on(device, call.thresholds, torch.int64),
                numbers_on(device, call.exponentials, torch.int64),
                *reciprocal_tables(device, call.reciprocal),
            ),
        )
        with on_device_of(scores):
            exaq_rows[rows.grid](
                *(rows.scores, rows.mask, result, *tables, *rows.sizes, *rows.strides),
                LEVELS=len(call.exponentials),
                LOWEST=call.lowest,
                HIGHEST=call.highest,
                UNSEEN=UNSEEN,
                PLACES=call.places,
                LIMIT=call.limit,
                **reciprocal_constants(call.reciprocal),
                **rows.constants,
            )
    return result
