"""Shared by the row kernels: where rows are stored, and which of their scores are attended."""

import triton
import triton.language as tl


@triton.jit
def tile_of_program(keys, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the rows, int64, and the columns of a program's tile; tiles of the same rows follow each other.

    All programs are on the grid's first axis: CUDA's others have 65,535 places.
    """
    program = tl.program_id(0)
    tiles = tl.cdiv(keys, COLUMNS)
    rows = (program // tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return rows, program % tiles * COLUMNS + tl.arange(0, COLUMNS)


@triton.jit
def row_places(rows, heads, queries, stride_a, stride_b, stride_c):
    """Return the offsets at which rows of scores (any, heads, queries, keys) begin."""
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
    """Return scores, float32 (rows, columns), and which are attended; those of -inf are not.

    With `CAUSAL`, the last query attends to all keys, and each earlier query to one fewer.
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
    """Store the columns before `last` of contiguous rows of `keys` columns."""
    inside = (rows < count)[:, None] & (columns < last)[None, :]
    pointers = output + rows[:, None] * keys + columns[None, :]
    tl.store(pointers, values.to(output.dtype.element_ty), mask=inside)
