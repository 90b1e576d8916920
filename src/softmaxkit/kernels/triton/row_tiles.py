"""What the kernels of rows share: where rows lie, and which of their scores are attended."""

import triton
import triton.language as tl


@triton.jit
def row_places(rows, heads, queries, stride_a, stride_b, stride_c):
    """Return where rows begin, of scores (any, heads, queries, keys)."""
    query = rows % queries
    rest = rows // queries
    return rest // heads * stride_a + rest % heads * stride_b + query * stride_c


@triton.jit
def load_scores(
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
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Return scores, float32, rows by columns, and which are attended; those of -inf are not.

    Causal, a query attends to the keys up to its own place, the last one to all.
    """
    inside = (rows < count)[:, None] & (columns < keys)[None, :]
    if CAUSAL:
        inside = inside & (columns[None, :] <= (rows % queries + keys - queries)[:, None])
    places = row_places(rows, heads, queries, score_a, score_b, score_c)
    pointers = scores + places[:, None] + columns.to(tl.int64)[None, :] * score_k
    if MASKED:
        places = row_places(rows, heads, queries, mask_a, mask_b, mask_c)
        bits = mask + places[:, None] + columns.to(tl.int64)[None, :] * mask_k
        inside = inside & (tl.load(bits, mask=inside, other=0) != 0)
    values = tl.load(pointers, mask=inside, other=float("-inf")).to(tl.float32)
    return values, inside & (values != float("-inf"))


@triton.jit
def store_row(output, values, rows, columns, count, last, keys):
    """Store numbers before the column `last` in rows that lie one after the other."""
    inside = (rows < count)[:, None] & (columns < last)[None, :]
    pointers = output + rows[:, None] * keys + columns[None, :]
    tl.store(pointers, values.to(output.dtype.element_ty), mask=inside)
