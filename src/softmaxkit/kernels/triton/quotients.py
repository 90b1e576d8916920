"""Integers of methods that divide table entries by their sum: entries by the distance to the highest code of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from softmaxkit.kernels.integers import IntegerCall
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
from softmaxkit.tables import Reciprocal


class Quotients(NamedTuple):
    """What the integers of such a method are.

    Attributes:
        scale, lowest, highest: real score scale, and the codes at which scores saturate.
        thresholds: ascending; for each level except the lowest, its least difference from the highest code. Empty if
            entries are by distance.
        entries: by level, or by distance, where the last is 0 and that of all farther codes.
        reciprocal: table of the reciprocal of the sum.
        places: fraction bits of entry * mantissa minus those of the output, without the reciprocal's exponent.
        limit: largest output code.
        step: resolution of the output; None if its largest code represents 1.
    """

    scale: float
    lowest: int
    highest: int
    thresholds: Sequence[int]
    entries: Sequence[int]
    reciprocal: Reciprocal
    places: int
    limit: int
    step: float | None


@triton.jit
def entries_of(codes, highest, thresholds, entries, LEVELS: tl.constexpr, FARTHEST: tl.constexpr):
    """Return the entry of each code, from its distance to the highest code of its row."""
    distance = codes - highest[:, None]
    if LEVELS:
        level = distance * 0
        for index in tl.static_range(LEVELS - 1):
            level += (distance >= tl.load(thresholds + index)).to(tl.int64)
        return tl.load(entries + level)
    return tl.load(entries + tl.minimum(-distance, FARTHEST))


@triton.jit
def quotient_rows(
    scores, mask, output, numbers, thresholds, entries, offsets, slopes, count, heads, queries, keys,
    score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k,
    LEVELS: tl.constexpr, FARTHEST: tl.constexpr, LOWEST: tl.constexpr, HIGHEST: tl.constexpr, UNSEEN: tl.constexpr,
    PLACES: tl.constexpr, LIMIT: tl.constexpr, ONE: tl.constexpr, INPUT_BITS: tl.constexpr, REST_BITS: tl.constexpr,
    GUARD_BITS: tl.constexpr, NEAREST: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the probabilities of `ROWS` rows; `numbers` holds the score scale and the output step, float64.

    `ONE` is the output code that represents 1, or 0 for outputs in fixed point.
    """
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
        codes = encode(values, seen, scale, LOWEST, HIGHEST, UNSEEN)
        total += tl.sum(tl.where(seen, entries_of(codes, highest, thresholds, entries, LEVELS, FARTHEST), 0), 1)
    mantissa, exponent = reciprocal(total, offsets, slopes, INPUT_BITS, REST_BITS, GUARD_BITS, NEAREST)
    step = tl.load(numbers + 1)
    for start in range(0, keys, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        values, seen = load_scores(
            scores, mask, rows, columns, count, heads, queries, keys,
            score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
        )  # fmt: skip
        codes = encode(values, seen, scale, LOWEST, HIGHEST, UNSEEN)
        products = entries_of(codes, highest, thresholds, entries, LEVELS, FARTHEST) * mantissa[:, None]
        if ONE:
            products = products * ONE
        results = tl.minimum(shift_right(products, (exponent + PLACES)[:, None], NEAREST), LIMIT)
        if ONE:
            results = results.to(tl.float64) / ONE
        store_row(output, probabilities(results, step, seen, invalid), rows, columns, count, keys, keys)


def run_quotients(call: IntegerCall, of: Quotients, scores: Tensor, mask: Tensor | None) -> Tensor:
    """Run the kernel for a call, which keeps the tables; return probabilities with the shape of the scores."""
    rows, result = integer_rows(scores, mask)
    if result.numel():
        device = scores.device
        tables = tables_of(
            call,
            device,
            lambda: (
                numbers_on(device, (of.scale, 1.0 if of.step is None else of.step), torch.float64),
                numbers_on(device, of.thresholds or (0,), torch.int64),
                numbers_on(device, of.entries, torch.int64),
                *reciprocal_tables(device, of.reciprocal),
            ),
        )
        with on_device_of(scores):
            quotient_rows[rows.grid](
                *(rows.scores, rows.mask, result, *tables, *rows.sizes, *rows.strides),
                LEVELS=len(of.entries) if of.thresholds else 0,
                FARTHEST=len(of.entries) - 1,
                LOWEST=of.lowest,
                HIGHEST=of.highest,
                UNSEEN=UNSEEN,
                PLACES=of.places,
                LIMIT=of.limit,
                ONE=of.limit if of.step is None else 0,
                **reciprocal_constants(of.reciprocal),
                **rows.constants,
            )
    return result
