"""Attention backward with recomputed weights: one kernel for queries, and one for keys and values."""

import triton
import triton.language as tl

from softmaxkit.kernels.triton.tiles import (
    kept,
    lift_of,
    load_rows,
    load_tile,
    multiply,
    multiply_add,
    of_distances,
    program_place,
    seen_keys,
    store_rows,
    tile_place,
    weigh,
    weigh_unseen,
)


@triton.jit
def _gather_of_query(
    total, sums, queries_here, gradients, shifts, inverses, means, key, value, key_tiles, value_tiles, key_row,
    key_column, value_row, value_column, mask, rows, first, last, queries, keys, key_t, value_t, mask_q, mask_k,
    factor, limit, step, seed, place, dropout,
    FORM: tl.constexpr, FROM_ZERO: tl.constexpr, DROPOUT: tl.constexpr, CHECKED: tl.constexpr,
    DESCRIBED: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, VALUE_CHANNELS: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Accumulate the query gradients, and the row sums of the score gradients, over keys `first` to `last`."""
    for start in range(first, last, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        keys_here = load_tile(
            key, key_tiles, key_row, key_column, start, key_t, keys, CHECKED, DESCRIBED, COLUMNS, CHANNELS, WIDTH
        )
        values = load_tile(
            value, value_tiles, value_row, value_column, start, value_t, keys, CHECKED, DESCRIBED, COLUMNS,
            VALUE_CHANNELS, VALUE_WIDTH,
        )  # fmt: skip
        distance = multiply(queries_here, tl.trans(keys_here), PRECISION) * factor - shifts[:, None]
        if CHECKED:
            seen = seen_keys(mask, rows[:, None], columns[None, :], queries, keys, mask_q, mask_k, CAUSAL, MASKED)
            weights, passes = weigh_unseen(distance, seen, limit, step, FORM, FROM_ZERO)
        else:
            weights, passes = weigh(distance, limit, step, FORM, FROM_ZERO)
        of_weights = multiply(gradients, tl.trans(values), PRECISION)
        if DROPOUT:
            here = kept(seed, place, rows[:, None], columns[None, :], dropout)
            of_weights = tl.where(here, of_weights / (1.0 - dropout), 0.0)
        if FORM == "levels":
            of_weights = (of_weights - means[:, None]) * inverses[:, None]
        of_scores = tl.where(passes, weights * of_distances(of_weights, weights, FORM), 0.0)
        sums += tl.sum(of_scores, 1)
        total = multiply_add(of_scores.to(keys_here.dtype), keys_here, total, PRECISION)
    return total, sums


@triton.jit
def queries_backward(
    query, key, value, gradient, key_tiles, value_tiles, of_heads, shift, inverse, mean, mask, seed, result, row_sums,
    query_b, query_h, query_t, key_b, key_h, key_t, value_b, value_h, value_t, gradient_b, gradient_h, gradient_t,
    key_tiles_b, key_tiles_h, key_tiles_c, value_tiles_b, value_tiles_h, value_tiles_c,
    mask_b, mask_h, mask_q, mask_k, stride_head, heads, groups, queries, keys, blocks, factor, limit, scale, dropout,
    FORM: tl.constexpr, FROM_ZERO: tl.constexpr, DROPOUT: tl.constexpr, DESCRIBED: tl.constexpr, CAUSAL: tl.constexpr,
    MASKED: tl.constexpr, PRECISION: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
    VALUE_CHANNELS: tl.constexpr, VALUE_WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of one block of queries, and the row sums of its score gradients.

    Arguments as in `attention_forward`. `shift` is subtracted from scores; with levels, `inverse` multiplies weights
    and `mean` is the mean gradient of a row's weights; all are float32 (batch, heads, queries). `result` is (batch,
    heads, queries, channels) and `row_sums` float32 (batch, heads, queries), both contiguous.
    """
    block, batch, head, key_head = program_place(blocks, heads, groups)
    block = blocks - 1 - block
    first_row = block * ROWS
    rows = first_row + tl.arange(0, ROWS)
    is_row = rows < queries
    head_place = batch * heads + head
    place = head_place * queries
    key += batch * key_b + key_head * key_h
    value += batch * value_b + key_head * value_h
    mask += batch * mask_b + head * mask_h
    key_row, key_column = tile_place(batch, key_head, key_tiles_b, key_tiles_h, key_tiles_c)
    value_row, value_column = tile_place(batch, key_head, value_tiles_b, value_tiles_h, value_tiles_c)
    query += batch * query_b + head * query_h
    gradient += batch * gradient_b + head * gradient_h
    queries_here = load_rows(query, first_row, query_t, queries, True, ROWS, CHANNELS, WIDTH)
    gradients = load_rows(gradient, first_row, gradient_t, queries, True, ROWS, VALUE_CHANNELS, VALUE_WIDTH)
    step = tl.load(of_heads + head * stride_head)
    if FORM == "levels":
        factor = factor / step
    shifts = tl.load(shift + place + rows, mask=is_row, other=0.0)
    inverses = shifts
    means = shifts
    if FORM == "levels":
        inverses = tl.load(inverse + place + rows, mask=is_row, other=0.0)
        means = tl.load(mean + place + rows, mask=is_row, other=0.0)
    total = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    sums = tl.zeros([ROWS], dtype=tl.float32)
    last = keys
    whole = keys // COLUMNS * COLUMNS  # keys in full blocks that all rows attend to: no masking
    if CAUSAL:
        last = tl.minimum(keys, first_row + ROWS)
        whole = tl.minimum(whole, (first_row + 1) // COLUMNS * COLUMNS)
    if MASKED:
        whole = 0
    if not MASKED:
        total, sums = _gather_of_query(
            total, sums, queries_here, gradients, shifts, inverses, means, key, value, key_tiles, value_tiles, key_row,
            key_column, value_row, value_column, mask, rows, 0, whole, queries, keys, key_t, value_t, mask_q, mask_k,
            factor, limit, step, seed, head_place, dropout, FORM, FROM_ZERO, DROPOUT, False, DESCRIBED, CAUSAL, MASKED,
            PRECISION, CHANNELS, WIDTH, VALUE_CHANNELS, VALUE_WIDTH, COLUMNS,
        )  # fmt: skip
    total, sums = _gather_of_query(
        total, sums, queries_here, gradients, shifts, inverses, means, key, value, key_tiles, value_tiles, key_row,
        key_column, value_row, value_column, mask, rows, whole, last, queries, keys, key_t, value_t, mask_q, mask_k,
        factor, limit, step, seed, head_place, dropout, FORM, FROM_ZERO, DROPOUT, True, DESCRIBED, CAUSAL, MASKED,
        PRECISION, CHANNELS, WIDTH, VALUE_CHANNELS, VALUE_WIDTH, COLUMNS,
    )  # fmt: skip
    store_rows(result + place * CHANNELS, total * scale, first_row, CHANNELS, queries, ROWS, CHANNELS, WIDTH)
    tl.store(row_sums + place + rows, sums, mask=is_row)


@triton.jit
def _gather_of_keys(
    of_keys, of_values, keys_here, values, query, gradient, query_tiles, gradient_tiles, query_row, query_column,
    gradient_row, gradient_column, shift, inverse, mean, mask, columns, first, last, queries, keys, query_t,
    gradient_t, mask_q, mask_k, factor, limit, step, raised, seed, place, dropout,
    FORM: tl.constexpr, FROM_ZERO: tl.constexpr, DROPOUT: tl.constexpr, CHECKED: tl.constexpr,
    DESCRIBED: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, VALUE_CHANNELS: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Accumulate the gradients of keys and values over queries `first` to `last` of one head.

    Those of values are multiplied by `raised`, and with dropout by 1 - dropout. Tiles of weights have keys as rows and
    queries as columns, so that no product has to transpose them.
    """
    for start in range(first, last, ROWS):
        rows = start + tl.arange(0, ROWS)
        is_row = rows < queries
        queries_here = load_tile(
            query, query_tiles, query_row, query_column, start, query_t, queries, CHECKED, DESCRIBED, ROWS, CHANNELS,
            WIDTH,
        )  # fmt: skip
        gradients = load_tile(
            gradient, gradient_tiles, gradient_row, gradient_column, start, gradient_t, queries, CHECKED, DESCRIBED,
            ROWS, VALUE_CHANNELS, VALUE_WIDTH,
        )  # fmt: skip
        shifts = tl.load(shift + rows, mask=is_row, other=0.0)
        distance = multiply(keys_here, tl.trans(queries_here), PRECISION) * factor - shifts[None, :]
        if CHECKED:
            seen = seen_keys(mask, rows[None, :], columns[:, None], queries, keys, mask_q, mask_k, CAUSAL, MASKED)
            weights, passes = weigh_unseen(distance, seen, limit, step, FORM, FROM_ZERO)
        else:
            weights, passes = weigh(distance, limit, step, FORM, FROM_ZERO)
        if FORM == "levels":
            weights = weights * tl.load(inverse + rows, mask=is_row, other=0.0)[None, :]
        dropped = weights * raised
        of_weights = multiply(values, tl.trans(gradients), PRECISION)
        if DROPOUT:
            here = kept(seed, place, rows[None, :], columns[:, None], dropout)
            dropped = tl.where(here, dropped, 0.0)
            of_weights = tl.where(here, of_weights / (1.0 - dropout), 0.0)
        of_values = multiply_add(dropped.to(gradients.dtype), gradients, of_values, PRECISION)
        if FORM == "levels":
            of_weights = of_weights - tl.load(mean + rows, mask=is_row, other=0.0)[None, :]
        of_scores = tl.where(passes, weights * of_distances(of_weights, weights, FORM), 0.0)
        of_keys = multiply_add(of_scores.to(queries_here.dtype), queries_here, of_keys, PRECISION)
    return of_keys, of_values


@triton.jit
def keys_backward(
    query, key, value, gradient, query_tiles, gradient_tiles, of_heads, shift, inverse, mean, mask, seed,
    key_result, value_result,
    query_b, query_h, query_t, key_b, key_h, key_t, value_b, value_h, value_t, gradient_b, gradient_h, gradient_t,
    query_tiles_b, query_tiles_h, query_tiles_c, gradient_tiles_b, gradient_tiles_h, gradient_tiles_c,
    mask_b, mask_h, mask_q, mask_k, stride_head, heads, groups, queries, keys, blocks, factor, limit, scale, dropout,
    FORM: tl.constexpr, FROM_ZERO: tl.constexpr, DROPOUT: tl.constexpr, DESCRIBED: tl.constexpr, CAUSAL: tl.constexpr,
    MASKED: tl.constexpr, PRECISION: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
    VALUE_CHANNELS: tl.constexpr, VALUE_WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of one block of keys and their values, over all query heads that share them.

    Arguments as in `queries_backward`, but queries and gradients have the descriptors and `heads` is the number of key
    heads. The results are (batch, key heads, keys, channels), contiguous.
    """
    block, batch, key_head, _ = program_place(blocks, heads, 1)
    first_column = block * COLUMNS
    columns = first_column + tl.arange(0, COLUMNS)
    key += batch * key_b + key_head * key_h
    value += batch * value_b + key_head * value_h
    keys_here = load_rows(key, first_column, key_t, keys, True, COLUMNS, CHANNELS, WIDTH)
    values = load_rows(value, first_column, value_t, keys, True, COLUMNS, VALUE_CHANNELS, VALUE_WIDTH)
    of_keys = tl.zeros([COLUMNS, WIDTH], dtype=tl.float32)
    of_values = tl.zeros([COLUMNS, VALUE_WIDTH], dtype=tl.float32)
    # Queries from `first` on attend to some of these keys; whole blocks, `seen_from` to `whole`, attend to all.
    first = 0
    seen_from = 0
    whole = queries // ROWS * ROWS
    if CAUSAL:
        first = first_column // ROWS * ROWS
        seen_from = tl.cdiv(first_column + COLUMNS - 1, ROWS) * ROWS
    if MASKED:
        seen_from = queries
    whole = tl.maximum(whole, seen_from)
    raised = tl.exp2(lift_of(0.0 if FORM == "levels" else limit, value))
    for group in range(0, groups):
        head = key_head * groups + group
        head_place = batch * heads * groups + head
        place = head_place * queries
        query_here = query + batch * query_b + head * query_h
        gradient_here = gradient + batch * gradient_b + head * gradient_h
        mask_here = mask + batch * mask_b + head * mask_h
        step = tl.load(of_heads + head * stride_head)
        factor_here = factor / step if FORM == "levels" else factor
        query_row, query_column = tile_place(batch, head, query_tiles_b, query_tiles_h, query_tiles_c)
        gradient_row, gradient_column = tile_place(batch, head, gradient_tiles_b, gradient_tiles_h, gradient_tiles_c)
        for part in range(0, 2):  # before the whole blocks, and after them
            of_keys, of_values = _gather_of_keys(
                of_keys, of_values, keys_here, values, query_here, gradient_here, query_tiles, gradient_tiles,
                query_row, query_column, gradient_row, gradient_column, shift + place, inverse + place, mean + place,
                mask_here, columns, tl.where(part == 0, first, whole),
                tl.where(part == 0, tl.minimum(seen_from, queries), queries), queries, keys, query_t, gradient_t,
                mask_q, mask_k, factor_here, limit, step, raised, seed, head_place, dropout, FORM, FROM_ZERO, DROPOUT,
                True, DESCRIBED, CAUSAL, MASKED, PRECISION, CHANNELS, WIDTH, VALUE_CHANNELS, VALUE_WIDTH, ROWS,
            )  # fmt: skip
        if not MASKED:
            of_keys, of_values = _gather_of_keys(
                of_keys, of_values, keys_here, values, query_here, gradient_here, query_tiles, gradient_tiles,
                query_row, query_column, gradient_row, gradient_column, shift + place, inverse + place, mean + place,
                mask_here, columns, seen_from, whole, queries, keys, query_t, gradient_t, mask_q, mask_k, factor_here,
                limit, step, raised, seed, head_place, dropout, FORM, FROM_ZERO, DROPOUT, False, DESCRIBED, CAUSAL,
                MASKED, PRECISION, CHANNELS, WIDTH, VALUE_CHANNELS, VALUE_WIDTH, ROWS,
            )  # fmt: skip
    place = (batch * heads + key_head) * keys
    store_rows(key_result + place * CHANNELS, of_keys * scale, first_column, CHANNELS, keys, COLUMNS, CHANNELS, WIDTH)
    value_result += place * VALUE_CHANNELS
    of_values = of_values / raised
    if DROPOUT:
        of_values = of_values / tl.maximum(1.0 - dropout, 1e-30)
    store_rows(value_result, of_values, first_column, VALUE_CHANNELS, keys, COLUMNS, VALUE_CHANNELS, VALUE_WIDTH)
