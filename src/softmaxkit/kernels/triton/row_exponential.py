"""The clamped element-wise exponential of scores, and its gradient."""

import triton
import triton.language as tl

from softmaxkit.kernels.triton.row_tiles import load_scores, store_row, tile_of_program


@triton.jit
def exponential_rows(
    scores,
    mask,
    output,
    offset,
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
    offset_head,
    rate,
    highest,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write `min(2**((score - offset) * rate), 2**highest)`, one tile of rows and columns per program."""
    rows, columns = tile_of_program(keys, ROWS, COLUMNS)
    offsets = tl.load(offset + rows // queries % heads * offset_head)
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
    power = tl.minimum((values - offsets[:, None]) * rate, highest, propagate_nan=tl.PropagateNan.ALL)
    result = tl.where(values == float("-inf"), 0.0, tl.exp2(power))
    store_row(output, result, rows, columns, count, keys, keys)


@triton.jit
def exponential_rows_backward(
    scores,
    mask,
    gradient,
    output,
    sums,
    offset,
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
    offset_head,
    rate,
    log_limit,
    log_base,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write the gradient of the scores, 0 where `score - offset` exceeds `log_limit`, and its row sums.

    Arguments as in `exponential_rows`, but each program has whole rows; `gradient` is contiguous.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    offsets = tl.load(offset + rows // queries % heads * offset_head)
    total = tl.zeros([ROWS], dtype=tl.float32)
    for start in range(0, keys, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        values, seen = load_scores(
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
        exponent = values - offsets[:, None]
        passes = seen & (exponent <= log_limit)
        given = tl.load(gradient + rows[:, None] * keys + columns[None, :], mask=passes, other=0.0).to(tl.float32)
        power = tl.exp2(tl.where(passes, exponent, 0.0) * rate)
        result = tl.where(passes, power * given * log_base, 0.0)
        total += tl.sum(result, 1)
        store_row(output, result, rows, columns, count, keys, keys)
    tl.store(sums + rows, total, mask=rows < count)
