"""Attention of a few queries to some of the keys, a share of them in each program, whose parts `decode_merge` joins."""

import triton
import triton.language as tl

from softmaxkit.kernels.triton.tiles import from_codes, load_rows, multiply, multiply_add, weigh


@triton.jit
def decode_split(
    query, key, value, key_steps, value_steps, offset, mask, given, scores_kept, output, total, highest,
    query_b, query_h, query_t, key_b, key_h, key_t, value_b, value_h, value_t, key_step_b, key_step_h, value_step_b,
    value_step_h, mask_b, mask_h, mask_q, mask_k, offset_h,
    batches, heads, groups, queries, keys, splits, share, factor, limit, step,
    LEVELS: tl.constexpr, SOFTMAX: tl.constexpr, ONLY_HIGHEST: tl.constexpr, CACHED: tl.constexpr,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, VALUE_CHANNELS: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Compute a part: all queries of the heads that share keys, and `share` keys.

    Arguments as `attention_forward`, `heads` being those of the keys; `CACHED` keys and values are int8, with steps,
    float32 (batch, key heads, keys). The results are float32, (splits, batch, heads, queries) and channels: sums of
    weighted values, of weights where these are divided by them, and the highest scores of softmax and levels; with
    `ONLY_HIGHEST` nothing else. With levels such a run comes first and keeps all scores, float32 (batch, heads,
    queries, keys), -inf where a key is not seen; a second reads them, with the highest of whole rows as `given`.
    """
    program = tl.program_id(0)
    split = program % splits
    place = program // splits
    key_head = (place % heads).to(tl.int64)
    batch = (place // heads).to(tl.int64)
    rows = tl.arange(0, ROWS)
    is_row = rows < groups * queries
    head = key_head * groups + rows // queries
    row_query = rows % queries
    channels = tl.arange(0, WIDTH)
    pointers = query + batch * query_b + (head * query_h + row_query.to(tl.int64) * query_t)[:, None]
    inside = is_row[:, None] & (channels < CHANNELS)[None, :]
    queries_here = tl.load(pointers + channels[None, :], mask=inside, other=0.0)
    row_place = (batch * heads * groups + head) * queries + row_query
    part_place = (split * batches + batch) * heads * groups * queries + head * queries + row_query
    key += batch * key_b + key_head * key_h
    value += batch * value_b + key_head * value_h
    if LEVELS:
        most = tl.full([ROWS], float("-inf"), dtype=tl.float32)
        shift = tl.zeros([ROWS], dtype=tl.float32)
        if not ONLY_HIGHEST:
            shift = tl.load(given + row_place, mask=is_row, other=0.0) - limit
    elif SOFTMAX:
        most = tl.full([ROWS], float("-inf"), dtype=tl.float32)
        shift = most
    else:
        most = tl.zeros([ROWS], dtype=tl.float32)
        shift = tl.load(offset + head * offset_h, mask=is_row, other=0.0)
    result = tl.zeros([ROWS, VALUE_WIDTH], dtype=tl.float32)
    sums = tl.zeros([ROWS], dtype=tl.float32)
    first = split * share
    last = tl.minimum(first + share, keys)
    for start in range(first, last, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        is_key = columns < last
        kept = scores_kept + row_place.to(tl.int64)[:, None] * keys + columns[None, :]
        seen = is_row[:, None] & is_key[None, :]
        if LEVELS and not ONLY_HIGHEST:
            scores = tl.load(kept, mask=seen, other=float("-inf"))
            seen = scores != float("-inf")
        else:
            keys_here = load_rows(key, start, key_t, last, True, COLUMNS, CHANNELS, WIDTH)
            if CACHED:
                keys_here = from_codes(keys_here).to(queries_here.dtype)
            scores = multiply(queries_here, tl.trans(keys_here), PRECISION) * factor
            if CACHED:
                steps = tl.load(
                    key_steps + batch * key_step_b + key_head * key_step_h + columns, mask=is_key, other=0.0
                )
                scores = scores * steps[None, :]
            if CAUSAL:
                seen = seen & (columns[None, :] <= row_query[:, None])
            if MASKED:
                bits = mask + batch * mask_b + (head * mask_h + row_query.to(tl.int64) * mask_q)[:, None]
                seen = seen & (tl.load(bits + columns.to(tl.int64)[None, :] * mask_k, mask=seen, other=0) != 0)
            if LEVELS:
                tl.store(kept, tl.where(seen, scores, float("-inf")), mask=is_row[:, None] & is_key[None, :])
        if ONLY_HIGHEST or SOFTMAX:
            risen = tl.maximum(most, tl.max(tl.where(seen, scores, float("-inf")), 1))
        if not ONLY_HIGHEST:
            if SOFTMAX:
                base = tl.where(risen == float("-inf"), 0.0, risen)
                weights = tl.exp2(scores - base[:, None])
                rescale = tl.exp2(most - base)
                result = result * rescale[:, None]
                sums = sums * rescale
            else:
                weights, _ = weigh(scores - shift[:, None], limit, step, LEVELS)
            weights = tl.where(seen, weights, 0.0)
            sums += tl.sum(weights, 1)
            if CACHED:
                steps = value_steps + batch * value_step_b + key_head * value_step_h + columns
                weights = weights * tl.load(steps, mask=is_key, other=0.0)[None, :]
            values = load_rows(value, start, value_t, last, True, COLUMNS, VALUE_CHANNELS, VALUE_WIDTH)
            if CACHED:
                values = from_codes(values).to(queries_here.dtype)
            result = multiply_add(weights.to(values.dtype), values, result, PRECISION)
        if ONLY_HIGHEST or SOFTMAX:
            most = risen
    if ONLY_HIGHEST or SOFTMAX:
        tl.store(highest + part_place, most, mask=is_row)
    if not ONLY_HIGHEST:
        tl.store(total + part_place, sums, mask=is_row)
        channels = tl.arange(0, VALUE_WIDTH)
        inside = is_row[:, None] & (channels < VALUE_CHANNELS)[None, :]
        tl.store(output + part_place[:, None] * VALUE_CHANNELS + channels[None, :], result, mask=inside)
