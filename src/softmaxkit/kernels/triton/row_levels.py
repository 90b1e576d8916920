"""Row softmax of scores that are rounded, relative to their maximum, to a few evenly spaced levels."""

import triton
import triton.language as tl

from softmaxkit.kernels.triton.row_tiles import load_scores, store_row


@triton.jit
def level_weights(values, highest, per_step, step, TOP: tl.constexpr):
    """Return the exponentials of the scores' levels relative to the highest, the lowest of them for -inf, NaN for NaN.

    `step` is the binary logarithm of the ratio of adjacent exponentials. Levels are rounded with a bias of 32, which
    absorbs the step's own rounding error, so that ties stay ties.
    """
    base = tl.where(highest == float("-inf"), 0.0, highest)[:, None]
    place = (values - base) * per_step + (TOP + 32.0)
    place = tl.maximum(place, 32.0, propagate_nan=tl.PropagateNan.ALL)
    below = (place + 12582912.0) - (12582944.0 + TOP)  # adding 1.5 * 2**23 rounds to integers, ties to even
    return tl.exp2(below * step)


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
        weights = level_weights(values, highest, per_step, step, TOP)
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
            weights = level_weights(values, highest, per_step, step, TOP)
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
            weights = level_weights(values, highest, per_step, step, TOP)
            result = weights * tl.where(values == float("-inf"), 0.0, inverse)
            store_row(output, result, rows, columns, count, keys, keys)
