"""Shared by the attention kernels: tiles of rows, the keys that queries attend to, and the weights of scores."""

import triton
import triton.language as tl

ROUNDS = tl.constexpr(12582912.0)
"""1.5 * 2**23: adding it rounds float32 to integers, ties to even."""


@triton.jit
def load_rows(
    tensor, first, stride, limit, CHECKED: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr
):
    """Load rows from `first` on; 0 from row `limit` on if `CHECKED`, and in the padding of `CHANNELS` to `WIDTH`."""
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
    """Load as `load_rows`, but whole tiles of a `DESCRIBED` tensor by the card's copy engine, see `launch.Tiles`.

    `row` and `column` are where the head begins in the described matrix.
    """
    if DESCRIBED and not CHECKED:
        return described.load([row + start, column])
    return load_rows(tensor, start, stride, limit, CHECKED, ROWS, CHANNELS, WIDTH)


@triton.jit
def store_rows(tensor, tile, first, stride, limit, ROWS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """Store a tile as rows from `first` on, except for rows from `limit` on and the padding of channels."""
    rows = first + tl.arange(0, ROWS)
    channels = tl.arange(0, WIDTH)
    pointers = tensor + rows.to(tl.int64)[:, None] * stride + channels[None, :]
    inside = (rows < limit)[:, None] & (channels < CHANNELS)[None, :]
    tl.store(pointers, tile.to(tensor.dtype.element_ty), mask=inside)


@triton.jit
def seen_keys(mask, rows, columns, queries, keys, stride_query, stride_key, CAUSAL: tl.constexpr, MASKED: tl.constexpr):
    """Return which keys queries attend to; False for indices beyond the last query or key.

    `rows` and `columns` are indices of queries and keys, one of them (n, 1) and the other (1, n).
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
    """Multiply two tiles; "wide" is for the interpreter, which treats bfloat16 as integers here."""
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
def weigh(distance, limit, step, FORM: tl.constexpr, FROM_ZERO: tl.constexpr):
    """Return weights, and where gradients pass.

    An exponential is 2**distance, clamped to 2**limit, and gradients pass up to `limit`. The logistic function of
    distance, in binary logarithms, is multiplied by 2**limit. With levels, the distance is in levels above the lowest,
    `limit` is the highest, and `step` the binary logarithm of the ratio of adjacent weights; the lowest weight is 0 if
    `FROM_ZERO`. Gradients pass straight through the rounding, but not below the lowest. NaN is preserved.
    """
    if FORM == "levels":
        passes = distance >= 0.0
        level = tl.maximum(distance, 0.0, propagate_nan=tl.PropagateNan.ALL)
        level = (level + ROUNDS) - ROUNDS
        weights = tl.exp2((level - limit) * step)
        if FROM_ZERO:
            weights = tl.where(level == 0.0, 0.0, weights)
    elif FORM == "logistic":
        passes = distance == distance
        weights = tl.exp2(limit) / (1.0 + tl.exp2(-distance))
    else:
        passes = distance <= limit
        weights = tl.exp2(tl.minimum(distance, limit, propagate_nan=tl.PropagateNan.ALL))
    return weights, passes


@triton.jit
def lift_of(limit, values):
    """Return by how many powers of 2 weights up to 2**limit are raised before they are multiplied with values.

    In float16 they are raised to 2**15: small ones would lose bits, and large ones overflow.
    """
    if values.dtype.element_ty == tl.float16:
        return 15.0 - limit
    else:
        return limit * 0.0


@triton.jit
def weigh_unseen(distance, seen, limit, step, FORM: tl.constexpr, FROM_ZERO: tl.constexpr):
    """Return weights, 0 where a key is not attended to, and where gradients pass."""
    weights, passes = weigh(distance, limit, step, FORM, FROM_ZERO)
    return tl.where(seen, weights, 0.0), passes & seen


@triton.jit
def of_distances(of_weights, weights, FORM: tl.constexpr):
    """Return the gradient of distances divided by the weights, given that of the weights."""
    if FORM == "logistic":
        return of_weights * (1.0 - weights)
    else:
        return of_weights


@triton.jit
def kept(seed, place, rows, columns, dropout):
    """Return which weights dropout keeps, the same in every kernel.

    `place` is the flat index of batch and head; `rows` and `columns` as in `seen_keys`. Row and column count apart,
    since their product may exceed 32 bits.
    """
    zero = rows * 0 + columns * 0
    numbers, _, _, _ = tl.philox(tl.load(seed) + place, zero + columns, zero + rows, zero, zero)
    return tl.uint_to_uniform_float(numbers) >= dropout


@triton.jit
def program_place(blocks, heads, groups):
    """Return this program's block, batch, head and key head; int64 where they are multiplied by strides."""
    program = tl.program_id(0)
    place = program // blocks
    head = place % heads
    return program % blocks, (place // heads).to(tl.int64), head.to(tl.int64), (head // groups).to(tl.int64)


@triton.jit
def tile_place(batch, head, rows_b, rows_h, columns_h):
    """Return the row and column at which a head begins in the described matrix, see `launch.Tiles`."""
    return (batch * rows_b + head * rows_h).to(tl.int32), (head * columns_h).to(tl.int32)
