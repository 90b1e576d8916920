"""Row softmax to any base: one pass for rows that fit in a program, two with a running maximum for longer ones."""

import triton
import triton.language as tl

from softmaxkit.kernels.triton.row_tiles import load_scores, store_row

LOWEST = tl.constexpr(-3.4028234663852886e38)
"""The lowest float32, from which -inf can be subtracted."""


@triton.jit
def softmax_rows(
    scores,
    mask,
    output,
    count,
    heads,
    queries,
    keys,
    score_a,
    score_b,
    score_c,
    score_k,
    mask_a,
    mask_b,
    mask_c,
    mask_k,
    rate,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    SINGLE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write softmax of `ROWS` rows; `rate` is the binary logarithm of the base; if `SINGLE`, rows fit in `COLUMNS`."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    if SINGLE:
        columns = tl.arange(0, COLUMNS)
        values, _ = load_scores(
            scores,
            mask,
            rows,
            columns,
            count,
            heads,
            queries,
            keys,
            score_a,
            score_b,
            score_c,
            score_k,
            mask_a,
            mask_b,
            mask_c,
            mask_k,
            CAUSAL,
            MASKED,
        )
        # Scores are multiplied by the rate after the maximum is subtracted: float32's largest ones would overflow.
        highest = tl.max(values, 1)
        base = tl.where(highest == float("-inf"), 0.0, highest)[:, None]
        total = tl.sum(tl.exp2((values - base) * rate), 1)
        # Recomputed rather than stored: for long rows, registers hold the scores and nothing else.
        logarithm = tl.log2(tl.where(total == 0.0, 1.0, total))[:, None]
        result = tl.exp2((values - base) * rate - tl.where(values == float("-inf"), 0.0, logarithm))
        store_row(output, result, rows, columns, count, keys, keys)
    else:
        # Every element of a tile has its own maximum and sum, reduced at the end: warps do not wait for each other.
        highest = tl.full([ROWS, COLUMNS], LOWEST, dtype=tl.float32)
        totals = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
        for start in range(0, keys, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            values, _ = load_scores(
                scores,
                mask,
                rows,
                columns,
                count,
                heads,
                queries,
                keys,
                score_a,
                score_b,
                score_c,
                score_k,
                mask_a,
                mask_b,
                mask_c,
                mask_k,
                CAUSAL,
                MASKED,
            )
            risen = tl.maximum(highest, values)
            totals = totals * tl.exp2((highest - risen) * rate) + tl.exp2((values - risen) * rate)
            highest = risen
        base = tl.max(highest, 1)[:, None]
        total = tl.sum(totals * tl.exp2((highest - base) * rate), 1)[:, None]
        inverse = 1.0 / tl.where(total == 0.0, 1.0, total)
        last = tl.cdiv(keys, COLUMNS) - 1
        for index in range(0, last + 1):
            columns = (last - index) * COLUMNS + tl.arange(0, COLUMNS)  # backwards: the last ones are in the cache
            values, _ = load_scores(
                scores,
                mask,
                rows,
                columns,
                count,
                heads,
                queries,
                keys,
                score_a,
                score_b,
                score_c,
                score_k,
                mask_a,
                mask_b,
                mask_c,
                mask_k,
                CAUSAL,
                MASKED,
            )
            result = tl.exp2((values - base) * rate) * tl.where(values == float("-inf"), 0.0, inverse)
            store_row(output, result, rows, columns, count, keys, keys)


@triton.jit
def softmax_rows_backward(
    probabilities, gradient, output, count, keys, rate, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Write the score gradients of `ROWS` contiguous rows; `rate` is the natural logarithm of the base.

    Keys without probability get none, even if the gradient of their results is infinite.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    mean = tl.zeros([ROWS], dtype=tl.float32)
    for start in range(0, keys, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        inside = (rows < count)[:, None] & (columns < keys)[None, :]
        places = rows[:, None] * keys + columns[None, :]
        weights = tl.load(probabilities + places, mask=inside, other=0.0).to(tl.float32)
        given = tl.load(gradient + places, mask=inside, other=0.0).to(tl.float32)
        mean += tl.sum(tl.where(weights == 0.0, 0.0, weights * given), 1)
    last = tl.cdiv(keys, COLUMNS) - 1
    for index in range(0, last + 1):
        columns = (last - index) * COLUMNS + tl.arange(0, COLUMNS)  # backwards, as in `softmax_rows`
        inside = (rows < count)[:, None] & (columns < keys)[None, :]
        places = rows[:, None] * keys + columns[None, :]
        weights = tl.load(probabilities + places, mask=inside, other=0.0).to(tl.float32)
        given = tl.load(gradient + places, mask=inside, other=0.0).to(tl.float32)
        result = tl.where(weights == 0.0, 0.0, weights * (given - mean[:, None]) * rate)
        tl.store(output + places, result.to(output.dtype.element_ty), mask=inside)
