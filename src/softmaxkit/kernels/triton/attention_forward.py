"""Attention forward, one block of queries per program: element-wise weights in one pass, levels in two."""

import triton
import triton.language as tl

from softmaxkit.kernels.triton.tiles import (
    ROUNDS,
    kept,
    lift_of,
    load_rows,
    load_tile,
    multiply,
    multiply_add,
    program_place,
    seen_keys,
    store_rows,
    tile_place,
    weigh,
)


@triton.jit
def _highest(
    highest, query, key, key_tiles, key_row, key_column, mask, rows, first, last, queries, keys, stride_key,
    stride_mask_q, stride_mask_k,
    CHECKED: tl.constexpr, DESCRIBED: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
    PRECISION: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Return the maximum of `highest` and each row's products with keys `first` to `last`."""
    for start in range(first, last, COLUMNS):
        keys_here = load_tile(
            key, key_tiles, key_row, key_column, start, stride_key, keys, CHECKED, DESCRIBED, COLUMNS, CHANNELS, WIDTH
        )
        scores = multiply(query, tl.trans(keys_here), PRECISION)
        if CHECKED:
            columns = start + tl.arange(0, COLUMNS)
            seen = seen_keys(
                mask, rows[:, None], columns[None, :], queries, keys, stride_mask_q, stride_mask_k, CAUSAL, MASKED
            )
            scores = tl.where(seen, scores, float("-inf"))
        highest = tl.maximum(highest, tl.max(scores, 1))
    return highest


@triton.jit
def _weights(distance, limit, step, FORM: tl.constexpr, FROM_ZERO: tl.constexpr):
    """Return the weights of `weigh`, equal in every bit, with one addition fewer; `keys_backward` would spill."""
    if FORM == "levels":
        level = tl.maximum(distance, 0.0, propagate_nan=tl.PropagateNan.ALL) + ROUNDS
        weights = tl.exp2((level - (limit + ROUNDS)) * step)
        return tl.where(level == ROUNDS, 0.0, weights) if FROM_ZERO else weights
    weights, _ = weigh(distance, limit, step, FORM, FROM_ZERO)
    return weights


@triton.jit
def _gather(
    output, total, shift, query, key, value, key_tiles, value_tiles, key_row, key_column, value_row, value_column,
    mask, rows, first, last, queries, keys, stride_key, stride_value, stride_mask_q, stride_mask_k,
    factor, limit, step, seed, place, dropout,
    FORM: tl.constexpr, FROM_ZERO: tl.constexpr, DROPOUT: tl.constexpr, CHECKED: tl.constexpr,
    DESCRIBED: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, VALUE_CHANNELS: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Accumulate the weighted values of keys `first` to `last` in `output`.

    With levels or a mask, also accumulate the weights in `total`.
    """
    for start in range(first, last, COLUMNS):
        keys_here = load_tile(
            key, key_tiles, key_row, key_column, start, stride_key, keys, CHECKED, DESCRIBED, COLUMNS, CHANNELS, WIDTH
        )
        distance = multiply(query, tl.trans(keys_here), PRECISION) * factor - shift[:, None]
        columns = start + tl.arange(0, COLUMNS)
        weights = _weights(distance, limit, step, FORM, FROM_ZERO)
        if CHECKED:
            seen = seen_keys(
                mask, rows[:, None], columns[None, :], queries, keys, stride_mask_q, stride_mask_k, CAUSAL, MASKED
            )
            weights = tl.where(seen, weights, 0.0)
        if FORM == "levels" or MASKED:
            total += tl.sum(weights, 1)
        if DROPOUT:
            here = kept(seed, place, rows[:, None], columns[None, :], dropout)
            weights = tl.where(here, weights, 0.0)
        values = load_tile(
            value, value_tiles, value_row, value_column, start, stride_value, keys, CHECKED, DESCRIBED, COLUMNS,
            VALUE_CHANNELS, VALUE_WIDTH,
        )  # fmt: skip
        output = multiply_add(weights.to(values.dtype), values, output, PRECISION)
    return output, total


@triton.jit
def attention_forward(
    query, key, value, key_tiles, value_tiles, of_heads, mask, seed, output, highest, total,
    query_b, query_h, query_t, key_b, key_h, key_t, value_b, value_h, value_t, output_b, output_h, output_t,
    key_tiles_b, key_tiles_h, key_tiles_c, value_tiles_b, value_tiles_h, value_tiles_c,
    mask_b, mask_h, mask_q, mask_k, stride_head, heads, groups, queries, keys, blocks, factor, limit, dropout,
    FORM: tl.constexpr, FROM_ZERO: tl.constexpr, DROPOUT: tl.constexpr, DESCRIBED: tl.constexpr, CAUSAL: tl.constexpr,
    MASKED: tl.constexpr, PRECISION: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
    VALUE_CHANNELS: tl.constexpr, VALUE_WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Compute one block of queries.

    Tensors are (batch, heads, tokens, channels) with strides `_b`, `_h`, `_t` and a channel stride of 1. `factor`
    converts products to binary logarithms, and is positive with levels. `of_heads` is float32, one or one per head, in
    binary logarithms: the offset, or the step between levels. `seed` is the dropout seed, one int64. With levels,
    `highest` and `total`, float32 (batch, heads, queries), receive each row's highest score, in levels, and sum of
    weights. With `DESCRIBED`, keys and values also have tensor descriptors, see `launch.Tiles`.
    """
    block, batch, head, key_head = program_place(blocks, heads, groups)
    block = blocks - 1 - block  # start the longest causal rows first
    first_row = block * ROWS
    rows = first_row + tl.arange(0, ROWS)
    key += batch * key_b + key_head * key_h
    value += batch * value_b + key_head * value_h
    mask += batch * mask_b + head * mask_h
    key_row, key_column = tile_place(batch, key_head, key_tiles_b, key_tiles_h, key_tiles_c)
    value_row, value_column = tile_place(batch, key_head, value_tiles_b, value_tiles_h, value_tiles_c)
    place = batch * heads + head
    queries_here = load_rows(
        query + batch * query_b + head * query_h, first_row, query_t, queries, True, ROWS, CHANNELS, WIDTH
    )
    last = keys
    whole = keys // COLUMNS * COLUMNS  # keys in full blocks that all rows attend to: no masking
    if CAUSAL:
        last = tl.minimum(keys, first_row + ROWS)
        whole = tl.minimum(whole, (first_row + 1) // COLUMNS * COLUMNS)
    if MASKED:
        whole = 0
    sums = tl.zeros([ROWS], dtype=tl.float32)
    lift = 0.0
    number = tl.load(of_heads + head * stride_head)
    if FORM == "levels":
        factor = factor / number
        most = tl.full([ROWS], float("-inf"), dtype=tl.float32)
        if not MASKED:
            most = _highest(
                most, queries_here, key, key_tiles, key_row, key_column, mask, rows, 0, whole, queries, keys, key_t,
                mask_q, mask_k, False, DESCRIBED, CAUSAL, MASKED, PRECISION, CHANNELS, WIDTH, COLUMNS,
            )  # fmt: skip
        most = _highest(
            most, queries_here, key, key_tiles, key_row, key_column, mask, rows, whole, last, queries, keys, key_t,
            mask_q, mask_k, True, DESCRIBED, CAUSAL, MASKED, PRECISION, CHANNELS, WIDTH, COLUMNS,
        )  # fmt: skip
        most = tl.where(most == float("-inf"), 0.0, most * factor)
        shift = most - limit
    else:
        lift = lift_of(limit, value)
        limit += lift
        shift = tl.zeros([ROWS], dtype=tl.float32) + (number - lift if FORM == "exponential" else number)
    result = tl.zeros([ROWS, VALUE_WIDTH], dtype=tl.float32)
    if not MASKED:
        result, sums = _gather(
            result, sums, shift, queries_here, key, value, key_tiles, value_tiles, key_row, key_column, value_row,
            value_column, mask, rows, 0, whole, queries, keys, key_t, value_t, mask_q, mask_k, factor, limit, number,
            seed, place, dropout, FORM, FROM_ZERO, DROPOUT, False, DESCRIBED, CAUSAL, MASKED, PRECISION, CHANNELS,
            WIDTH, VALUE_CHANNELS, VALUE_WIDTH, COLUMNS,
        )  # fmt: skip
    result, sums = _gather(
        result, sums, shift, queries_here, key, value, key_tiles, value_tiles, key_row, key_column, value_row,
        value_column, mask, rows, whole, last, queries, keys, key_t, value_t, mask_q, mask_k, factor, limit, number,
        seed, place, dropout, FORM, FROM_ZERO, DROPOUT, True, DESCRIBED, CAUSAL, MASKED, PRECISION, CHANNELS, WIDTH,
        VALUE_CHANNELS, VALUE_WIDTH, COLUMNS,
    )  # fmt: skip
    if FORM == "levels":
        result = result / tl.where(sums == 0.0, 1.0, sums)[:, None]
        row_place = place * queries + rows
        tl.store(highest + row_place, most, mask=rows < queries)
        tl.store(total + row_place, sums, mask=rows < queries)
    else:
        result = result * tl.exp2(-lift)
    if MASKED:  # for a fully masked query: 0 times an infinite value is NaN
        result = tl.where((sums == 0.0)[:, None], 0.0, result)
    if DROPOUT:
        result = result / tl.maximum(1.0 - dropout, 1e-30)  # with a dropout of 1, 0 rather than 0 / 0
    output += batch * output_b + head * output_h
    store_rows(output, result, first_row, output_t, queries, ROWS, VALUE_CHANNELS, VALUE_WIDTH)
