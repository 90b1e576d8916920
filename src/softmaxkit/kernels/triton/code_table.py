"""Integers of methods whose probability depends only on its score code, looked up in golden's table."""

import triton
import triton.language as tl

from softmaxkit.kernels.triton.integer_arithmetic import encode
from softmaxkit.kernels.triton.row_tiles import load_scores, store_row, tile_of_program


@triton.jit
def code_table_rows(
    scores,
    mask,
    output,
    scales,
    table,
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
    scale_head,
    table_head,
    LOWEST: tl.constexpr,
    HIGHEST: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write the probabilities of a tile; `scales`, float64, and `table`, float32, have one row per head, or one."""
    rows, columns = tile_of_program(keys, ROWS, COLUMNS)
    head = rows // queries % heads
    values, seen = load_scores(
        scores, mask, rows, columns, count, heads, queries, keys,
        score_a, score_b, score_c, score_k, mask_a, mask_b, mask_c, mask_k, CAUSAL, MASKED,
    )  # fmt: skip
    scale = tl.load(scales + head * scale_head)
    codes = encode(values, seen, scale[:, None], LOWEST, HIGHEST, LOWEST)
    result = tl.load(table + (head * table_head)[:, None] + (codes - LOWEST))
    result = tl.where(values == values, result, values)
    store_row(output, tl.where(seen, result, 0.0), rows, columns, count, keys, keys)
