"""What the kernels of attention share: tiles of rows, the keys that queries see, and how scores become weights."""

import triton
import triton.language as tl


@triton.jit
def load_rows(
    tensor, first, stride, limit, CHECKED: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr
):
    """Load rows from `first` on; 0 beyond row `limit`, and in the padding of `CHANNELS` numbers to `WIDTH`."""
    rows = first + tl.arange(0, ROWS)
    channels = tl.arange(0, WIDTH)
    pointers = tensor + rows.to(tl.int64)[:, None] * stride + channels[None, :]
    if WIDTH != CHANNELS:
        if CHECKED:
            return tl.load(pointers, mask=(rows < limit)[:, None] & (channels < CHANNELS)[None, :], other=0.0)
        return tl.load(pointers, mask=(channels < CHANNELS)[None, :], other=0.0)
    if CHECKED:
        return tl.load(pointers, mask=(rows < limit)[:, None], other=0.0)
    return tl.load(pointers)


@triton.jit
def store_rows(tensor, tile, first, stride, limit, ROWS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """Store a tile as rows from row `first` on, but for what is beyond row `limit` and the padding."""
    rows = first + tl.arange(0, ROWS)
    channels = tl.arange(0, WIDTH)
    pointers = tensor + rows.to(tl.int64)[:, None] * stride + channels[None, :]
    inside = (rows < limit)[:, None] & (channels < CHANNELS)[None, :]
    tl.store(pointers, tile.to(tensor.dtype.element_ty), mask=inside)


@triton.jit
def seen_keys(mask, rows, columns, queries, keys, stride_query, stride_key, CAUSAL: tl.constexpr, MASKED: tl.constexpr):
    """Say which keys, by column, queries attend to, by row; none of either beyond their number."""
    seen = (rows < queries)[:, None] & (columns < keys)[None, :]
    if CAUSAL:
        seen = seen & (columns[None, :] <= rows[:, None])
    if MASKED:
        pointers = mask + rows.to(tl.int64)[:, None] * stride_query + columns.to(tl.int64)[None, :] * stride_key
        seen = seen & (tl.load(pointers, mask=seen, other=0) != 0)
    return seen


@triton.jit
def multiply(left, right, PRECISION: tl.constexpr):
    """Multiply two tiles; "wide" is for the interpreter, which takes bfloat16 for whole numbers here."""
    if PRECISION == "wide":
        return tl.dot(left.to(tl.float32), right.to(tl.float32), input_precision="ieee")
    return tl.dot(left, right, input_precision=PRECISION)


@triton.jit
def multiply_add(left, right, total, PRECISION: tl.constexpr):
    """Add the product of two tiles to a third, float32."""
    if PRECISION == "wide":
        return tl.dot(left.to(tl.float32), right.to(tl.float32), total, input_precision="ieee")
    return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit
def weigh(distance, limit, step, LEVELS: tl.constexpr):
    """Return weights, and where gradients pass.

    Without levels, the weight is 2**distance, at most 2**limit, where gradients end. With levels, the distance counts
    them from the lowest, `limit` is the highest, and `step` the binary logarithm of the ratio of two neighbours;
    gradients pass straight through the rounding, and not below the lowest. NaN stays what it is.
    """
    if LEVELS:
        passes = distance >= 0.0
        level = tl.where(distance < 0.0, 0.0, distance)
        level = (level + 12582912.0) - 12582912.0  # 1.5 * 2**23 rounds to whole numbers, ties to even
        weights = tl.where(distance == float("-inf"), 0.0, tl.exp2((level - limit) * step))
    else:
        passes = distance <= limit
        weights = tl.exp2(tl.where(distance > limit, limit, distance))
    return weights, passes


@triton.jit
def weigh_unseen(distance, seen, limit, step, LEVELS: tl.constexpr):
    """Return weights, 0 where a key is not seen, and where gradients pass."""
    weights, passes = weigh(distance, limit, step, LEVELS)
    return tl.where(seen, weights, 0.0), passes & seen


@triton.jit
def kept(seed, place, rows, columns, keys, dropout):
    """Say which weights dropout keeps: the same in every kernel. `place` is that of batch and head together."""
    return tl.rand(tl.load(seed) + place, rows[:, None] * keys + columns[None, :]) >= dropout


@triton.jit
def program_place(blocks, heads, groups):
    """Return this program's block, batch, head and key head, as 64-bit numbers where they are multiplied by strides."""
    program = tl.program_id(0)
    place = program // blocks
    head = place % heads
    return program % blocks, (place // heads).to(tl.int64), head.to(tl.int64), (head // groups).to(tl.int64)
