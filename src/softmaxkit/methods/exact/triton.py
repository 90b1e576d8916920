"""Exact-softmax integer kernel for GPUs: exponentials from a table by the rounded distance, their sum, a reciprocal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from softmaxkit.kernels.triton.integer_arithmetic import is_invalid, reciprocal, shift_right
from softmaxkit.kernels.triton.integers import (
    integer_rows,
    numbers_on,
    reciprocal_constants,
    reciprocal_tables,
)
from softmaxkit.kernels.triton.launch import on_device_of, tables_of
from softmaxkit.kernels.triton.row_tiles import load_scores, store_row

if TYPE_CHECKING:
    from softmaxkit.methods.exact.kernels import ExactCall


@triton.jit
def round_bits(bits, DROPPED: tl.constexpr):
    """Round float bit patterns to nearest, ties to even, and shift the `DROPPED` lowest mantissa bits out."""
    return (bits + ((1 << (DROPPED - 1)) - 1) + ((bits >> DROPPED) & 1)) >> DROPPED


@triton.jit
def in_format(values, seen, smallest, largest, MANTISSA: tl.constexpr):
    """Round scores to the small float, as float32; -infinity where not attended."""
    values = tl.where(values < largest, values, largest)
    values = tl.where(values > -largest, values, -largest)
    bits = round_bits(values.to(tl.int32, bitcast=True), 23 - MANTISSA) << (23 - MANTISSA)
    rounded = bits.to(tl.float32, bitcast=True)
    return tl.where(seen, tl.where(tl.abs(rounded) < smallest, 0.0, rounded), float("-inf"))


@triton.jit
def table_place(distance, smallest, farthest, MANTISSA: tl.constexpr):
    """Return the table index of distances, float64; the tables have the distance 0, then all numbers of the format."""
    near = tl.where(distance < farthest, distance, farthest)
    first = round_bits(smallest.to(tl.int64, bitcast=True), 52 - MANTISSA)
    return tl.maximum(round_bits(near.to(tl.int64, bitcast=True), 52 - MANTISSA) - first + 1, 0)


@triton.jit
def exact_rows(
    scores, mask, output, numbers, exponentials, significands, shifts, offsets, slopes, count, heads, queries, keys,
    score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, slice_width,
    ONLINE: tl.constexpr, MANTISSA: tl.constexpr, INPUT_BITS: tl.constexpr, REST_BITS: tl.constexpr,
    GUARD_BITS: tl.constexpr, NEAREST: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the probabilities of `ROWS` rows; `numbers` holds the smallest, the largest and `farthest`, float64."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    smallest = tl.load(numbers)
    largest = tl.load(numbers + 1).to(tl.float32)
    farthest = tl.load(numbers + 2)
    invalid = tl.zeros([ROWS], dtype=tl.int32)
    total = tl.zeros([ROWS], dtype=tl.int64)
    highest = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    for first in range(0, keys, slice_width):
        last = tl.minimum(first + slice_width, keys)
        risen = highest
        for start in range(first, last, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            values, seen = load_scores(
                scores, mask, rows, columns, count, heads, queries, keys,
                score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
            )  # fmt: skip
            seen = seen & (columns < last)[None, :]
            invalid = tl.maximum(invalid, is_invalid(values, seen))
            risen = tl.maximum(risen, tl.max(in_format(values, seen, smallest, largest, MANTISSA), 1))
        if ONLINE:
            rise = tl.where(risen == highest, 0.0, risen.to(tl.float64) - highest.to(tl.float64))
            rise_place = table_place(rise, smallest, farthest, MANTISSA)
            rescaled = total * tl.load(significands + rise_place).to(tl.int64)
            rescaled = shift_right(rescaled, tl.load(shifts + rise_place).to(tl.int64) + (MANTISSA + 1), True)
            total = tl.where(tl.load(exponentials + rise_place) == 0, 0, rescaled)
            risen_base = tl.where(risen == float("-inf"), 0.0, risen).to(tl.float64)
            for start in range(first, last, COLUMNS):
                columns = start + tl.arange(0, COLUMNS)
                values, seen = load_scores(
                    scores, mask, rows, columns, count, heads, queries, keys,
                    score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
                )  # fmt: skip
                seen = seen & (columns < last)[None, :]
                rounded = in_format(values, seen, smallest, largest, MANTISSA)
                place = table_place(risen_base[:, None] - rounded.to(tl.float64), smallest, farthest, MANTISSA)
                total += tl.sum(tl.where(seen, tl.load(exponentials + place), 0).to(tl.int64), 1)
        highest = risen
    base = tl.where(highest == float("-inf"), 0.0, highest).to(tl.float64)
    if not ONLINE:
        for start in range(0, keys, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            values, seen = load_scores(
                scores, mask, rows, columns, count, heads, queries, keys,
                score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
            )  # fmt: skip
            rounded = in_format(values, seen, smallest, largest, MANTISSA)
            place = table_place(base[:, None] - rounded.to(tl.float64), smallest, farthest, MANTISSA)
            total += tl.sum(tl.where(seen, tl.load(exponentials + place), 0).to(tl.int64), 1)
    mantissa, exponent = reciprocal(total, offsets, slopes, INPUT_BITS, REST_BITS, GUARD_BITS, NEAREST)
    # Build the power of two from its bits; the product is exact, as mantissas have fewer than 53 bits.
    scale = ((1023 - (MANTISSA + 1)) - exponent) << 52
    scale = mantissa.to(tl.float64) * scale.to(tl.float64, bitcast=True)
    for start in range(0, keys, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        values, seen = load_scores(
            scores, mask, rows, columns, count, heads, queries, keys,
            score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
        )  # fmt: skip
        rounded = in_format(values, seen, smallest, largest, MANTISSA)
        place = table_place(base[:, None] - rounded.to(tl.float64), smallest, farthest, MANTISSA)
        products = tl.load(exponentials + place).to(tl.float64) * scale[:, None]
        bits = round_bits(products.to(tl.int64, bitcast=True), 52 - MANTISSA) << (52 - MANTISSA)
        results = bits.to(tl.float64, bitcast=True)
        results = tl.where(results < smallest, 0.0, results).to(tl.float32)
        results = tl.where((invalid != 0)[:, None], float("nan"), results)
        store_row(output, tl.where(seen, results, 0.0), rows, columns, count, keys, keys)


def run(call: ExactCall, scores: Tensor, mask: Tensor | None) -> Tensor:
    """Run the kernel; return probabilities with the shape of the scores, as `ExactCall` does."""
    width = min(call.slice_width, scores.shape[-1]) or max(scores.shape[-1], 1)
    rows, result = integer_rows(scores, mask, width)
    if result.numel():
        device = scores.device
        tables = tables_of(
            call,
            device,
            lambda: (
                numbers_on(device, (call.smallest, call.largest, call.farthest), torch.float64),
                *(table.to(device) for table in (call.exponentials, call.significands, call.shifts)),
                *reciprocal_tables(device, call.reciprocal),
            ),
        )
        with on_device_of(scores):
            exact_rows[rows.grid](
                *(rows.scores, rows.mask, result, *tables, *rows.sizes, *rows.strides, width),
                ONLINE=call.slice_width > 0,
                MANTISSA=call.mantissa_bits,
                **reciprocal_constants(call.reciprocal),
                **rows.constants,
            )
    return result
