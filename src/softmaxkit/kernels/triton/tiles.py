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
def load_tile(
    tensor, described, row, column, start, stride, limit,
    CHECKED: tl.constexpr, DESCRIBED: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Load as `load_rows`; whole tiles by the card's copy engine where the tensor is `DESCRIBED`, see `launch.Tiles`.

    `row` and `column` are where the tensor's own numbers begin in the matrix that is described.
    """
    if DESCRIBED and not CHECKED:
        return described.load([row + start, column])
    return load_rows(tensor, start, stride, limit, CHECKED, ROWS, CHANNELS, WIDTH)


@triton.jit
def store_rows(tensor, tile, first, stride, limit, ROWS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """Store a tile as rows from row `first` on, but for what is beyond row `limit` and the padding."""
    rows = first + tl.arange(0, ROWS)
    channels = tl.arange(0, WIDTH)
    pointers = tensor + rows.to(tl.int64)[:, None] * stride + channels[None, :]
    inside = (rows < limit)[:, None] & (channels < CHANNELS)[None, :]
    tl.store(pointers, tile.to(tensor.dtype.element_ty), mask=inside)


@triton.jit
def from_codes(codes):
    """Return codes of 8 bits as float32, by adding them to the bits of 1.5 * 2**23, which is taken off again."""
    return (codes.to(tl.int32) + 0x4B400000).to(tl.float32, bitcast=True) - 12582912.0


@triton.jit
def seen_keys(mask, rows, columns, queries, keys, stride_query, stride_key, CAUSAL: tl.constexpr, MASKED: tl.constexpr):
    """Say which keys queries attend to; none of either beyond their number.

    `rows` and `columns` number queries and keys, one of them standing, (n, 1), and one lying, (1, n).
    """
    seen = (rows < queries) & (columns < keys)
    if CAUSAL:
        seen = seen & (columns <= rows)
    if MASKED:
        pointers = mask + rows.to(tl.int64) * stride_query + columns.to(tl.int64) * stride_key
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
        level = tl.maximum(distance, 0.0, propagate_nan=tl.PropagateNan.ALL)
        level = (level + 12582912.0) - 12582912.0  # 1.5 * 2**23 rounds to whole numbers, ties to even
        weights = tl.exp2((level - limit) * step)
    else:
        passes = distance <= limit
        weights = tl.exp2(tl.minimum(distance, limit, propagate_nan=tl.PropagateNan.ALL))
    return weights, passes


@triton.jit
def weigh_unseen(distance, seen, limit, step, LEVELS: tl.constexpr):
    """Return weights, 0 where a key is not seen, and where gradients pass."""
    weights, passes = weigh(distance, limit, step, LEVELS)
    return tl.where(seen, weights, 0.0), passes & seen


@triton.jit
def kept(seed, place, rows, columns, keys, dropout):
    """Say which weights dropout keeps, the same in every kernel.

    `place` is that of batch and head together; `rows` and `columns` as in `seen_keys`.
    """
    return tl.rand(tl.load(seed) + place, rows * keys + columns) >= dropout


@triton.jit
def program_place(blocks, heads, groups):
    """Return this program's block, batch, head and key head, as 64-bit numbers where they are multiplied by strides."""
    program = tl.program_id(0)
    place = program // blocks
    head = place % heads
    return program % blocks, (place // heads).to(tl.int64), head.to(tl.int64), (head // groups).to(tl.int64)


@triton.jit
def tile_place(batch, head, rows_b, rows_h, columns_h):
    """Return row and column where a head begins in the matrix that a descriptor describes, see `launch.Tiles`."""
    return (batch * rows_b + head * rows_h).to(tl.int32), (head * columns_h).to(tl.int32)
