"""The logistic function of scores plus a bias, and its gradient."""

import triton
import triton.language as tl

from softmaxkit.kernels.triton.row_tiles import load_scores, store_row, tile_of_program

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def logistic(scores, biases):
    """Return the logistic function of tiles of scores, 0 for a score of -inf, given the biases of rows."""
    result = 1.0 / (1.0 + tl.exp2((scores + biases[:, None]) * -LOG2_E))
    return tl.where(scores == float("-inf"), 0.0, result)


@triton.jit
def logistic_rows(
    scores,
    mask,
    output,
    bias,
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
    bias_head,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write `1 / (1 + exp(-(score + bias)))`, one tile of rows and columns per program."""
    rows, columns = tile_of_program(keys, ROWS, COLUMNS)
    biases = tl.load(bias + rows // queries % heads * bias_head)
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
    store_row(output, logistic(values, biases), rows, columns, count, keys, keys)


@triton.jit
def logistic_rows_backward(
    scores,
    mask,
    gradient,
    output,
    sums,
    bias,
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
    bias_head,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write the gradient of the scores, and its row sums.

    Arguments as in `logistic_rows`, but each program has whole rows; `gradient` is contiguous. Where the result is 0,
    so is the gradient, even if that of the result is infinite.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    biases = tl.load(bias + rows // queries % heads * bias_head)
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
        result = logistic(values, biases)
        passes = seen & (result != 0.0)
        given = tl.load(gradient + rows[:, None] * keys + columns[None, :], mask=passes, other=0.0).to(tl.float32)
        result = tl.where(passes, result * (1.0 - result) * given, 0.0)
        total += tl.sum(result, 1)
        store_row(output, result, rows, columns, count, keys, keys)
    tl.store(sums + rows, total, mask=rows < count)
