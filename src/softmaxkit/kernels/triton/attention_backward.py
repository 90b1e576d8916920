"""Attention backward, weights computed again: a kernel for queries, and one for keys and values."""

import triton
import triton.language as tl

from softmaxkit.kernels.triton.tiles import (
    kept,
    load_rows,
    multiply,
    multiply_add,
    program_place,
    seen_keys,
    store_rows,
    weigh_unseen,
)


@triton.jit
def queries_backward(
    query,
    key,
    value,
    gradient,
    shift,
    inverse,
    mean,
    mask,
    seed,
    result,
    row_sums,
    query_b,
    query_h,
    query_t,
    key_b,
    key_h,
    key_t,
    value_b,
    value_h,
    value_t,
    gradient_b,
    gradient_h,
    gradient_t,
    mask_b,
    mask_h,
    mask_q,
    mask_k,
    heads,
    groups,
    queries,
    keys,
    blocks,
    factor,
    limit,
    step,
    scale,
    dropout,
    LEVELS: tl.constexpr,
    DROPOUT: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_CHANNELS: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute the gradient of one block of queries, and of its scores the sum over each row.

    Arguments as `attention_forward`; `shift`, `inverse` and `mean`, float32 (batch, heads, queries), are what is taken
    from scores, what weights are multiplied by, and the mean gradient of a row's weights. `result` is float32,
    (batch, heads, queries, channels), contiguous; so is `row_sums`, without channels.
    """
    block, batch, head, key_head = program_place(blocks, heads, groups)
    block = blocks - 1 - block
    first_row = block * ROWS
    rows = first_row + tl.arange(0, ROWS)
    place = (batch * heads + head) * queries
    key += batch * key_b + key_head * key_h
    value += batch * value_b + key_head * value_h
    mask += batch * mask_b + head * mask_h
    queries_here = load_rows(
        query + batch * query_b + head * query_h, first_row, query_t, queries, True, ROWS, CHANNELS, WIDTH
    )
    gradients = load_rows(
        gradient + batch * gradient_b + head * gradient_h,
        first_row,
        gradient_t,
        queries,
        True,
        ROWS,
        VALUE_CHANNELS,
        VALUE_WIDTH,
    )
    shifts = tl.load(shift + place + rows, mask=rows < queries, other=0.0)
    inverses = tl.load(inverse + place + rows, mask=rows < queries, other=0.0)
    means = tl.load(mean + place + rows, mask=rows < queries, other=0.0)
    total = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    sums = tl.zeros([ROWS], dtype=tl.float32)
    last = keys
    if CAUSAL:
        last = tl.minimum(keys, first_row + ROWS)
    for start in range(0, last, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        keys_here = load_rows(key, start, key_t, keys, True, COLUMNS, CHANNELS, WIDTH)
        values = load_rows(value, start, value_t, keys, True, COLUMNS, VALUE_CHANNELS, VALUE_WIDTH)
        seen = seen_keys(mask, rows, columns, queries, keys, mask_q, mask_k, CAUSAL, MASKED)
        distance = multiply(queries_here, tl.trans(keys_here), PRECISION) * factor - shifts[:, None]
        weights, passes = weigh_unseen(distance, seen, limit, step, LEVELS)
        of_weights = multiply(gradients, tl.trans(values), PRECISION)
        if DROPOUT:
            here = kept(seed, batch * heads + head, rows, columns, keys, dropout)
            of_weights = tl.where(here, of_weights / (1.0 - dropout), 0.0)
        of_weights = of_weights - means[:, None]
        of_scores = tl.where(passes, weights * inverses[:, None] * of_weights, 0.0)
        sums += tl.sum(of_scores, 1)
        total = multiply_add(of_scores.to(keys_here.dtype), keys_here, total, PRECISION)
    store_rows(result + place * CHANNELS, total * scale, first_row, CHANNELS, queries, ROWS, CHANNELS, WIDTH)
    tl.store(row_sums + place + rows, sums, mask=rows < queries)


@triton.jit
def keys_backward(
    query,
    key,
    value,
    gradient,
    shift,
    inverse,
    mean,
    mask,
    seed,
    key_result,
    value_result,
    query_b,
    query_h,
    query_t,
    key_b,
    key_h,
    key_t,
    value_b,
    value_h,
    value_t,
    gradient_b,
    gradient_h,
    gradient_t,
    mask_b,
    mask_h,
    mask_q,
    mask_k,
    heads,
    groups,
    queries,
    keys,
    blocks,
    factor,
    limit,
    step,
    scale,
    dropout,
    LEVELS: tl.constexpr,
    DROPOUT: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_CHANNELS: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute the gradients of one block of keys and their values, over all the heads that share them.

    Arguments as `queries_backward`; `heads` are those of the keys here. The results are float32, (batch, key heads,
    keys, channels), contiguous.
    """
    block, batch, key_head, _ = program_place(blocks, heads, 1)
    first_column = block * COLUMNS
    columns = first_column + tl.arange(0, COLUMNS)
    keys_here = load_rows(
        key + batch * key_b + key_head * key_h, first_column, key_t, keys, True, COLUMNS, CHANNELS, WIDTH
    )
    values = load_rows(
        value + batch * value_b + key_head * value_h,
        first_column,
        value_t,
        keys,
        True,
        COLUMNS,
        VALUE_CHANNELS,
        VALUE_WIDTH,
    )
    of_keys = tl.zeros([COLUMNS, WIDTH], dtype=tl.float32)
    of_values = tl.zeros([COLUMNS, VALUE_WIDTH], dtype=tl.float32)
    first = 0
    if CAUSAL:
        first = first_column // ROWS * ROWS
    for group in range(0, groups):
        head = key_head * groups + group
        place = (batch * heads * groups + head) * queries
        for start in range(first, queries, ROWS):
            rows = start + tl.arange(0, ROWS)
            queries_here = load_rows(
                query + batch * query_b + head * query_h, start, query_t, queries, True, ROWS, CHANNELS, WIDTH
            )
            gradients = load_rows(
                gradient + batch * gradient_b + head * gradient_h,
                start,
                gradient_t,
                queries,
                True,
                ROWS,
                VALUE_CHANNELS,
                VALUE_WIDTH,
            )
            shifts = tl.load(shift + place + rows, mask=rows < queries, other=0.0)
            inverses = tl.load(inverse + place + rows, mask=rows < queries, other=0.0)
            means = tl.load(mean + place + rows, mask=rows < queries, other=0.0)
            seen = seen_keys(
                mask + batch * mask_b + head * mask_h, rows, columns, queries, keys, mask_q, mask_k, CAUSAL, MASKED
            )
            distance = multiply(queries_here, tl.trans(keys_here), PRECISION) * factor - shifts[:, None]
            weights, passes = weigh_unseen(distance, seen, limit, step, LEVELS)
            weights = weights * inverses[:, None]
            dropped = weights
            of_weights = multiply(gradients, tl.trans(values), PRECISION)
            if DROPOUT:
                here = kept(seed, batch * heads * groups + head, rows, columns, keys, dropout)
                dropped = tl.where(here, weights / (1.0 - dropout), 0.0)
                of_weights = tl.where(here, of_weights / (1.0 - dropout), 0.0)
            of_values = multiply_add(tl.trans(dropped.to(gradients.dtype)), gradients, of_values, PRECISION)
            of_weights = of_weights - means[:, None]
            of_scores = tl.where(passes, weights * of_weights, 0.0)
            of_keys = multiply_add(tl.trans(of_scores.to(queries_here.dtype)), queries_here, of_keys, PRECISION)
    place = (batch * heads + key_head) * keys
    store_rows(key_result + place * CHANNELS, of_keys * scale, first_column, CHANNELS, keys, COLUMNS, CHANNELS, WIDTH)
    store_rows(
        value_result + place * VALUE_CHANNELS,
        of_values,
        first_column,
        VALUE_CHANNELS,
        keys,
        COLUMNS,
        VALUE_CHANNELS,
        VALUE_WIDTH,
    )
