"""Attention of one query over a cache of codes, element by element, for heads that do not share keys."""

import triton
import triton.language as tl

from softmaxkit.kernels.triton.decode_keys import (
    decode_units,
    for_units,
    keys_of_part,
    load_steps,
    load_units,
    locate,
)
from softmaxkit.kernels.triton.tiles import weigh


@triton.jit
def decode_single(
    query, key, value, key_steps, value_steps, table, lengths, of_heads, mask, given, scores_kept, output, total,
    highest,
    query_b, query_h, query_t, key_b, key_h, key_t, value_b, value_h, value_t, key_step_b, key_step_h, key_step_g,
    value_step_b, value_step_h, value_step_g, table_b, heads_b, heads_h, heads_q, mask_b, mask_h, mask_q, mask_k,
    batches, heads, groups, queries, keys, pages, splits, share, factor, limit, magic,
    FORM: tl.constexpr, FROM_ZERO: tl.constexpr, ONLY_HIGHEST: tl.constexpr, BITS: tl.constexpr,
    PAGE: tl.constexpr, COUNTED: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
    PER: tl.constexpr, CHANNELS: tl.constexpr, UNITS: tl.constexpr, WIDTH: tl.constexpr, STEPS: tl.constexpr,
    VALUE_CHANNELS: tl.constexpr, VALUE_UNITS: tl.constexpr, VALUE_WIDTH: tl.constexpr, VALUE_STEPS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute one part in float32, with the arguments of `decode_split`.

    The threads that share a key add up its products; each keeps its own maximum, sums and weighted values, which are
    reduced once, at the end.
    """
    program = tl.program_id(0)
    split = program % splits
    place = program // splits
    head = (place % heads).to(tl.int64)
    batch = (place // heads).to(tl.int64)
    units = tl.arange(0, WIDTH)
    row_query = query + batch * query_b + head * query_h
    queries_here = ()
    results = ()
    for j in tl.static_range(PER):
        channels = units * PER + j
        numbers = tl.load(row_query + channels, mask=channels < CHANNELS, other=0.0)
        queries_here += (numbers.to(tl.float32) * factor,)
        results += (tl.zeros([COLUMNS, VALUE_WIDTH], dtype=tl.float32),)
    row_place = batch * heads + head
    part_place = (split * batches + batch) * heads + head
    key += head * key_h
    value += head * value_h
    key_steps += head * key_step_h
    value_steps += head * value_step_h
    most = tl.full([COLUMNS], float("-inf"), dtype=tl.float32)
    sums = tl.zeros([COLUMNS], dtype=tl.float32)
    number = tl.load(of_heads + batch * heads_b + head * heads_h)
    rate = 1.0
    shift = number
    if FORM == "levels" and not ONLY_HIGHEST:
        rate = 1.0 / number
        shift = tl.load(given + row_place) * rate - limit
    first, last = keys_of_part(lengths, batch, split, splits, share, keys, COUNTED, COLUMNS)
    for start in tl.range(first, last, COLUMNS, num_stages=STAGES):
        columns = start + tl.arange(0, COLUMNS)
        is_key = columns < last
        page, place_there, is_there = locate(table + batch * table_b, batch, columns, is_key, pages, PAGE)
        kept = scores_kept + row_place * keys + columns
        if FORM == "levels" and not ONLY_HIGHEST:
            scores = tl.load(kept, mask=is_key, other=float("-inf"))
            seen = scores != float("-inf")
        else:
            codes = load_units(key, page * key_b + place_there * key_t, is_there, UNITS, WIDTH)
            steps = load_steps(
                key_steps, page * key_step_b + place_there, is_key, is_there, key_step_g,
                CHANNELS, BITS, STEPS, PAGE,
            )  # fmt: skip
            products = decode_units(codes, magic, 0, BITS, True) * queries_here[0][None, :]
            for j in tl.static_range(1, PER):
                products += decode_units(codes, magic, j, BITS, True) * queries_here[j][None, :]
            of_groups = tl.sum(tl.reshape(products, [COLUMNS, STEPS, WIDTH // STEPS]), 2)
            scores = tl.sum(of_groups * steps, 1)
            seen = is_key
            if CAUSAL:
                seen = seen & (columns == 0)
            if MASKED:
                bits = mask + batch * mask_b + head * mask_h + columns.to(tl.int64) * mask_k
                seen = seen & (tl.load(bits, mask=is_key, other=0) != 0)
            if FORM == "levels":
                tl.store(kept, tl.where(seen, scores, float("-inf")), mask=is_key)
        if ONLY_HIGHEST:
            most = tl.maximum(most, tl.where(seen, scores, float("-inf")))
        else:
            if FORM == "softmax":
                risen = tl.maximum(most, tl.where(seen, scores, float("-inf")))
                base = tl.where(risen == float("-inf"), 0.0, risen)
                weights = tl.exp2(scores - base)
                rescale = tl.exp2(most - base)
                sums = sums * rescale
                most = risen
            else:
                weights, _ = weigh(scores * rate - shift, limit, number, FORM, FROM_ZERO)
            weights = tl.where(seen, weights, 0.0)
            sums += weights
            codes = load_units(value, page * value_b + place_there * value_t, is_there, VALUE_UNITS, VALUE_WIDTH)
            steps = load_steps(
                value_steps, page * value_step_b + place_there, is_key, is_there, value_step_g,
                VALUE_CHANNELS, BITS, VALUE_STEPS, PAGE,
            )  # fmt: skip
            weighted = for_units(tl.where(seen[:, None], weights[:, None] * steps, 0.0), VALUE_WIDTH)
            further = ()
            for j in tl.static_range(PER):
                result = results[j]
                if FORM == "softmax":
                    result = result * rescale[:, None]
                further += (result + decode_units(codes, magic, j, BITS, False) * weighted,)
            results = further
    if ONLY_HIGHEST or FORM == "softmax":
        top = tl.max(most, 0)
        tl.store(highest + part_place, top)
    if not ONLY_HIGHEST:
        if FORM == "softmax":
            rescale = tl.exp2(most - tl.where(top == float("-inf"), 0.0, top))
            sums = sums * rescale
        tl.store(total + part_place, tl.sum(sums, 0))
        for j in tl.static_range(PER):
            result = results[j]
            if FORM == "softmax":
                result = result * rescale[:, None]
            channels = tl.arange(0, VALUE_WIDTH) * PER + j
            tl.store(output + part_place * VALUE_CHANNELS + channels, tl.sum(result, 0), mask=channels < VALUE_CHANNELS)
