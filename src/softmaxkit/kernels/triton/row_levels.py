"""Row softmax of scores that are rounded, relative to their maximum, to a few evenly spaced levels."""

import triton
import triton.language as tl

from softmaxkit.kernels.triton.row_tiles import load_scores, store_row


@triton.jit
def level_weights(values, highest, per_step, step, TOP: tl.constexpr, FROM_ZERO: tl.constexpr):
    """Return the exponentials of the scores' levels relative to the highest, the lowest of them for -inf, NaN for NaN.

    `step` is the binary logarithm of the ratio of adjacent exponentials; the lowest is 0 if `FROM_ZERO`. Levels are
    rounded with a bias of 32, which absorbs the step's own rounding error, so that ties stay ties.
    """
    base = tl.where(highest == float("-inf"), 0.0, highest)[:, None]
    place = (values - base) * per_step + (TOP + 32.0)
    place = tl.maximum(place, 32.0, propagate_nan=tl.PropagateNan.ALL)
    below = (place + 12582912.0) - (12582944.0 + TOP)  # adding 1.5 * 2**23 rounds to integers, ties to even
    weights = tl.exp2(below * step)
    return tl.where(below == -TOP, 0.0, weights) if FROM_ZERO else weights


@triton.jit
def levels_rows(
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
    per_step,
    step,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    SINGLE: tl.constexpr,
    TOP: tl.constexpr,
    FROM_ZERO: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write softmax over levels of `ROWS` rows; `TOP` is the highest level, `per_step` the levels per unit of score."""
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
        highest = tl.max(values, 1)
        weights = level_weights(values, highest, per_step, step, TOP, FROM_ZERO)
        weights = tl.where(values == float("-inf"), 0.0, weights)
        total = tl.sum(weights, 1)
        inverse = (1.0 / tl.where(total == 0.0, 1.0, total))[:, None]
        result = weights * tl.where(values == float("-inf"), 0.0, inverse)  # 0 where masked, in rows with NaN too
        store_row(output, result, rows, columns, count, keys, keys)
    else:
        # Every element of a tile has its own maximum and sum, reduced at the end: warps do not wait for each other.
        maxima = tl.full([ROWS, COLUMNS], float("-inf"), dtype=tl.float32)
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
            maxima = tl.maximum(maxima, values)
        highest = tl.max(maxima, 1)
        totals = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
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
            weights = level_weights(values, highest, per_step, step, TOP, FROM_ZERO)
            totals += tl.where(values == float("-inf"), 0.0, weights)
        total = tl.sum(totals, 1)
        inverse = (1.0 / tl.where(total == 0.0, 1.0, total))[:, None]
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
            weights = level_weights(values, highest, per_step, step, TOP, FROM_ZERO)
            result = weights * tl.where(values == float("-inf"), 0.0, inverse)
            store_row(output, result, rows, columns, count, keys, keys)


@triton.jit
def levels_rows_backward(
    scores, mask, probabilities, gradient, output, count, heads, queries, keys,
    score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, clip,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the score gradients of `ROWS` rows; 0 below the clip, and where there is no probability or NaN.

    `probabilities` and `gradient` are contiguous; other arguments as in `levels_rows`.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    highest = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    mean = tl.zeros([ROWS], dtype=tl.float32)
    for start in range(0, keys, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        values, seen = load_scores(
            scores, mask, rows, columns, count, heads, queries, keys,
            score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
        )  # fmt: skip
        highest = tl.maximum(highest, tl.max(values, 1))
        places = rows[:, None] * keys + columns[None, :]
        weights = tl.load(probabilities + places, mask=seen, other=0.0).to(tl.float32)
        given = tl.load(gradient + places, mask=seen, other=0.0).to(tl.float32)
        mean += tl.sum(tl.where(weights == 0.0, 0.0, weights * given), 1)
    last = tl.cdiv(keys, COLUMNS) - 1
    for index in range(0, last + 1):
        columns = (last - index) * COLUMNS + tl.arange(0, COLUMNS)  # backwards, as in `levels_rows`
        values, seen = load_scores(
            scores, mask, rows, columns, count, heads, queries, keys,
            score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
        )  # fmt: skip
        places = rows[:, None] * keys + columns[None, :]
        weights = tl.load(probabilities + places, mask=seen, other=0.0).to(tl.float32)
        given = tl.load(gradient + places, mask=seen, other=0.0).to(tl.float32)
        passes = (weights > 0.0) & (values - highest[:, None] >= clip)
        result = tl.where(passes, weights * (given - mean[:, None]), 0.0)
        store_row(output, result, rows, columns, count, keys, keys)
