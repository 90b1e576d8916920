"""Softermax integer kernel for GPUs: powers of two from a table, a running sum over slices, a reciprocal."""

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
    from softmaxkit.methods.softermax.kernels import SoftermaxCall


@triton.jit
def whole_maximum(highest, BITS: tl.constexpr, CEIL: tl.constexpr, MOST: tl.constexpr, LEAST: tl.constexpr):
    """Round the highest codes of a slice to integers; `LEAST` where nothing is attended."""
    whole = -((-highest) >> BITS) if CEIL else highest >> BITS
    return tl.maximum(tl.minimum(whole, MOST), LEAST)


@triton.jit
def softermax_rows(
    scores, mask, output, numbers, powers, offsets, slopes, count, heads, queries, keys,
    score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, slice_width,
    LOWEST: tl.constexpr, HIGHEST: tl.constexpr, UNSEEN: tl.constexpr, BITS: tl.constexpr, CEIL: tl.constexpr,
    LEAST_DIFFERENCE: tl.constexpr, SUM_PLACES: tl.constexpr, SUM_LIMIT: tl.constexpr, PLACES: tl.constexpr,
    LIMIT: tl.constexpr, INPUT_BITS: tl.constexpr, REST_BITS: tl.constexpr, GUARD_BITS: tl.constexpr,
    NEAREST: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the probabilities of `ROWS` rows; `numbers` holds the score scale and the output step, float64.

    `powers` holds a 0 for masked scores, then the powers by difference of code and integer maximum, from
    `LEAST_DIFFERENCE` up.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    scale = tl.load(numbers)
    invalid = tl.zeros([ROWS], dtype=tl.int32)
    total = tl.zeros([ROWS], dtype=tl.int64)
    whole = tl.full([ROWS], LOWEST >> BITS, dtype=tl.int64)
    for first in range(0, keys, slice_width):
        last = tl.minimum(first + slice_width, keys)
        highest = tl.full([ROWS], UNSEEN, dtype=tl.int64)
        for start in range(first, last, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            values, seen = load_scores(
                scores, mask, rows, columns, count, heads, queries, keys,
                score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
            )  # fmt: skip
            seen = seen & (columns < last)[None, :]
            invalid = tl.maximum(invalid, is_invalid(values, seen))
            highest = tl.maximum(highest, tl.max(encode(values, seen, scale, LOWEST, HIGHEST, UNSEEN), 1))
        local = whole_maximum(highest, BITS, CEIL, HIGHEST >> BITS, LOWEST >> BITS)
        added = tl.zeros([ROWS], dtype=tl.int64)
        for start in range(first, last, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            values, seen = load_scores(
                scores, mask, rows, columns, count, heads, queries, keys,
                score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
            )  # fmt: skip
            seen = seen & (columns < last)[None, :]
            codes = encode(values, seen, scale, LOWEST, HIGHEST, UNSEEN)
            place = tl.maximum(codes - (local << BITS)[:, None] - (LEAST_DIFFERENCE - 1), 0)
            added += tl.sum(tl.load(powers + place).to(tl.int64), 1)
        risen = tl.maximum(whole, local)
        kept = shift_right(total, risen - whole, NEAREST)
        total = tl.minimum(kept + shift_right(added, risen - local + SUM_PLACES, NEAREST), SUM_LIMIT)
        whole = risen
    mantissa, exponent = reciprocal(total, offsets, slopes, INPUT_BITS, REST_BITS, GUARD_BITS, NEAREST)
    step = tl.load(numbers + 1)
    for first in range(0, keys, slice_width):
        last = tl.minimum(first + slice_width, keys)
        highest = tl.full([ROWS], UNSEEN, dtype=tl.int64)
        for start in range(first, last, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            values, seen = load_scores(
                scores, mask, rows, columns, count, heads, queries, keys,
                score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
            )  # fmt: skip
            seen = seen & (columns < last)[None, :]
            highest = tl.maximum(highest, tl.max(encode(values, seen, scale, LOWEST, HIGHEST, UNSEEN), 1))
        local = whole_maximum(highest, BITS, CEIL, HIGHEST >> BITS, LOWEST >> BITS)
        for start in range(first, last, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            values, seen = load_scores(
                scores, mask, rows, columns, count, heads, queries, keys,
                score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
            )  # fmt: skip
            seen = seen & (columns < last)[None, :]
            codes = encode(values, seen, scale, LOWEST, HIGHEST, UNSEEN)
            place = tl.maximum(codes - (local << BITS)[:, None] - (LEAST_DIFFERENCE - 1), 0)
            lowered = shift_right(tl.load(powers + place).to(tl.int64), (whole - local)[:, None], NEAREST)
            products = lowered * mantissa[:, None]
            results = tl.minimum(shift_right(products, (exponent + PLACES)[:, None], NEAREST), LIMIT)
            # Columns beyond the slice are written by the next slice, if any.
            store_row(output, probabilities(results, step, seen, invalid), rows, columns, count, last, keys)


def run(call: SoftermaxCall, scores: Tensor, mask: Tensor | None) -> Tensor:
    """Run the kernel; return probabilities with the shape of the scores, as `SoftermaxCall` does."""
    width = min(call.slice_width, max(scores.shape[-1], 1))
    rows, result = integer_rows(scores, mask, width)
    if result.numel():
        device = scores.device
        tables = tables_of(
            call,
            device,
            lambda: (
                numbers_on(device, (call.scale, call.step), torch.float64),
                call.powers.to(device),
                *reciprocal_tables(device, call.reciprocal),
            ),
        )
        with on_device_of(scores):
            softermax_rows[rows.grid](
                *(rows.scores, rows.mask, result, *tables, *rows.sizes, *rows.strides, width),
                LOWEST=call.lowest,
                HIGHEST=call.highest,
                UNSEEN=UNSEEN,
                BITS=call.fraction_bits,
                CEIL=call.ceil,
                LEAST_DIFFERENCE=call.least_difference,
                SUM_PLACES=call.sum_places,
                SUM_LIMIT=call.sum_limit,
                PLACES=call.places,
                LIMIT=call.limit,
                **reciprocal_constants(call.reciprocal, call.rounding),
                **rows.constants,
            )
    return result
