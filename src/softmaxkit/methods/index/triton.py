"""IndexSoftmax integer kernel for GPUs: entries by distance to the highest code, their sum, one product per score."""

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
    from softmaxkit.methods.index.kernels import IndexCall


@triton.jit
def entries_of(codes, highest, entries, FARTHEST: tl.constexpr):
    """Return the entry of each code, by its distance to the highest code of its row; 0 where not attended."""
    return tl.load(entries + tl.minimum(highest[:, None] - codes, FARTHEST))


@triton.jit
def index_rows(
    scores, mask, output, scales, entries, offsets, slopes, count, heads, queries, keys,
    score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k,
    FARTHEST: tl.constexpr, LOWEST: tl.constexpr, HIGHEST: tl.constexpr, UNSEEN: tl.constexpr,
    FRACTION_BITS: tl.constexpr, ONE: tl.constexpr, INPUT_BITS: tl.constexpr, REST_BITS: tl.constexpr,
    GUARD_BITS: tl.constexpr, NEAREST: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the probabilities of `ROWS` rows; `scales` holds the score scale, float64.

    `entries` are codes by distance, int64; the last one, at the distance `FARTHEST`, is 0.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    scale = tl.load(scales)
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
        here = entries_of(encode(values, seen, scale, LOWEST, HIGHEST, UNSEEN), highest, entries, FARTHEST)
        total += tl.sum(tl.where(seen, here, 0), 1)
    mantissa, exponent = reciprocal(total, offsets, slopes, INPUT_BITS, REST_BITS, GUARD_BITS, NEAREST)
    for start in range(0, keys, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        values, seen = load_scores(
            scores, mask, rows, columns, count, heads, queries, keys,
            score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
        )  # fmt: skip
        here = entries_of(encode(values, seen, scale, LOWEST, HIGHEST, UNSEEN), highest, entries, FARTHEST)
        products = here * mantissa[:, None] * ONE
        codes = tl.minimum(shift_right(products, (exponent + FRACTION_BITS)[:, None], True), ONE)
        decoded = probabilities(codes.to(tl.float64) / ONE, 1.0, seen, invalid)
        store_row(output, decoded, rows, columns, count, keys, keys)


def run(call: IndexCall, scores: Tensor, mask: Tensor | None) -> Tensor:
    """Run the kernel; return probabilities with the shape of the scores, as `IndexCall` does."""
    rows, result = integer_rows(scores, mask)
    if result.numel():
        device = scores.device
        tables = tables_of(
            call,
            device,
            lambda: (
                numbers_on(device, (call.scale,), torch.float64),
                numbers_on(device, [call.entries[level] for level in call.levels], torch.int64),
                *reciprocal_tables(device, call.reciprocal),
            ),
        )
        with on_device_of(scores):
            index_rows[rows.grid](
                *(rows.scores, rows.mask, result, *tables, *rows.sizes, *rows.strides),
                FARTHEST=len(call.levels) - 1,
                LOWEST=call.lowest,
                HIGHEST=call.highest,
                UNSEEN=UNSEEN,
                FRACTION_BITS=call.fraction_bits,
                ONE=call.one,
                **reciprocal_constants(call.reciprocal),
                **rows.constants,
            )
    return result
