"""Attention of a few queries over a share of the keys in each program; `decode_merge` merges the parts."""

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
from softmaxkit.kernels.triton.tiles import multiply, multiply_add, weigh


@triton.jit
def decode_split(
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
    """Compute one part: all queries of the heads that share keys, over some of the keys.

    Arguments as in `attention_forward`; `heads` counts key heads. Codes have `BITS` bits, `PER` of them to a unit (a
    word or a byte), and steps, (batch, key heads, groups of channels, keys); with `BITS` 0 a unit is a float. With
    `COUNTED`, sequence b has the first `lengths[b]` keys. With `PAGE`, `table`, (batch, pages), lists its pages of
    `PAGE` tokens, and the first axis of keys, values and steps is that of the pages. `of_heads` is float32, (batch,
    heads, queries).

    Results are float32, (splits, batch, heads, queries), and `output` has channels: it holds sums of weighted values,
    `total` sums of weights, `highest` the highest scores for softmax and levels; with `ONLY_HIGHEST`, only the last is
    written. Levels need such a run first, which also stores all scores in `scores_kept`, float32 (batch, heads,
    queries, keys), -inf where not attended; a second run reads them, with the maxima of whole rows in `given`.
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
    is_half: tl.constexpr = query.dtype.element_ty == tl.float16
    # Decoded 4-bit numbers, relative to their centre, may be twice the largest float16.
    shrink: tl.constexpr = 0.5 if is_half and BITS == 4 else 1.0
    units = tl.arange(0, WIDTH)
    pointers = query + batch * query_b + (head * query_h + row_query.to(tl.int64) * query_t)[:, None]
    queries_here = ()
    results = ()
    for j in tl.static_range(PER):
        channels = units * PER + j
        inside = is_row[:, None] & (channels < CHANNELS)[None, :]
        queries_here += (tl.load(pointers + channels[None, :], mask=inside, other=0.0),)
        results += (tl.zeros([ROWS, VALUE_WIDTH], dtype=tl.float32),)
    row_place = (batch * heads * groups + head) * queries + row_query
    part_place = (split * batches + batch) * heads * groups * queries + head * queries + row_query
    key += key_head * key_h
    value += key_head * value_h
    key_steps += key_head * key_step_h
    value_steps += key_head * value_step_h
    most = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    number = tl.load(of_heads + batch * heads_b + head * heads_h + row_query * heads_q, mask=is_row, other=1.0)
    rate = 1.0
    shift = number
    if FORM == "levels" and not ONLY_HIGHEST:
        shift = tl.load(given + row_place, mask=is_row, other=0.0) / number - limit
        rate = (1.0 / number)[:, None]
    sums = tl.zeros([ROWS], dtype=tl.float32)
    first, last = keys_of_part(lengths, batch, split, splits, share, keys, COUNTED, COLUMNS)
    for start in tl.range(first, last, COLUMNS, num_stages=STAGES):
        columns = start + tl.arange(0, COLUMNS)
        is_key = columns < last
        page, place_there, is_there = locate(table + batch * table_b, batch, columns, is_key, pages, PAGE)
        kept = scores_kept + row_place.to(tl.int64)[:, None] * keys + columns[None, :]
        seen = is_row[:, None] & is_key[None, :]
        if FORM == "levels" and not ONLY_HIGHEST:
            scores = tl.load(kept, mask=seen, other=float("-inf"))
            seen = scores != float("-inf")
        else:
            codes = load_units(key, page * key_b + place_there * key_t, is_there, UNITS, WIDTH)
            if BITS == 0:
                scores = multiply(queries_here[0], tl.trans(codes), PRECISION) * factor
            else:
                steps = load_steps(
                    key_steps, page * key_step_b + place_there, is_key, is_there, key_step_g,
                    CHANNELS, BITS, STEPS, PAGE,
                )  # fmt: skip
                if BITS == 4:
                    of_units = for_units(steps, WIDTH) * shrink
                scores = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
                for j in tl.static_range(PER):
                    numbers = decode_units(codes, magic, j, BITS, True)
                    if BITS == 4:
                        numbers = numbers * of_units
                    numbers = tl.trans(numbers.to(queries_here[j].dtype))
                    scores = multiply_add(queries_here[j], numbers, scores, PRECISION)
                scores = scores * (factor / shrink)
                if BITS == 8:
                    scores = scores * tl.sum(steps, 1)[None, :]
            if CAUSAL:
                seen = seen & (columns[None, :] <= row_query[:, None])
            if MASKED:
                bits = mask + batch * mask_b + (head * mask_h + row_query.to(tl.int64) * mask_q)[:, None]
                seen = seen & (tl.load(bits + columns.to(tl.int64)[None, :] * mask_k, mask=seen, other=0) != 0)
            if FORM == "levels":
                tl.store(kept, tl.where(seen, scores, float("-inf")), mask=is_row[:, None] & is_key[None, :])
        if ONLY_HIGHEST or FORM == "softmax":
            risen = tl.maximum(most, tl.max(tl.where(seen, scores, float("-inf")), 1))
        if not ONLY_HIGHEST:
            if FORM == "softmax":
                base = tl.where(risen == float("-inf"), 0.0, risen)
                weights = tl.exp2(scores - base[:, None])
                rescale = tl.exp2(most - base)
                sums = sums * rescale
            else:
                weights, _ = weigh(scores * rate - shift[:, None], limit, number[:, None], FORM, FROM_ZERO)
            weights = tl.where(seen, weights, 0.0)
            sums += tl.sum(weights, 1)
            codes = load_units(value, page * value_b + place_there * value_t, is_there, VALUE_UNITS, VALUE_WIDTH)
            if BITS:
                steps = load_steps(
                    value_steps, page * value_step_b + place_there, is_key, is_there, value_step_g,
                    VALUE_CHANNELS, BITS, VALUE_STEPS, PAGE,
                )  # fmt: skip
            if BITS == 4:
                # A step that is not finite reaches the rows that attend to its token, and no others, as 0 * NaN would.
                weights = tl.where(seen, weights + tl.sum(steps - steps, 1)[None, :], 0.0)
                of_units = for_units(tl.where(steps - steps == 0.0, steps, 0.0), VALUE_WIDTH) * shrink
            if BITS == 8:
                weights = tl.where(seen, weights * tl.sum(steps, 1)[None, :], 0.0)
            if is_half:  # scale weights by the largest: float16 would lose small ones
                largest = tl.max(weights, 1)
                largest = tl.where(largest == 0.0, 1.0, largest)
                weights = weights / largest[:, None]
            further = ()
            for j in tl.static_range(PER):
                result = results[j]
                if FORM == "softmax":
                    result = result * rescale[:, None]
                if BITS:
                    numbers = decode_units(codes, magic, j, BITS, False)
                    if BITS == 4:
                        numbers = numbers * of_units
                    numbers = numbers.to(queries_here[j].dtype)
                else:
                    numbers = codes
                if is_half:
                    part = multiply(weights.to(numbers.dtype), numbers, PRECISION)
                    result += part * (largest / shrink)[:, None]
                else:
                    result = multiply_add(weights.to(numbers.dtype), numbers, result, PRECISION)
                further += (result,)
            results = further
        if ONLY_HIGHEST or FORM == "softmax":
            most = risen
    if ONLY_HIGHEST or FORM == "softmax":
        tl.store(highest + part_place, most, mask=is_row)
    if not ONLY_HIGHEST:
        tl.store(total + part_place, sums, mask=is_row)
        for j in tl.static_range(PER):
            channels = tl.arange(0, VALUE_WIDTH) * PER + j
            inside = is_row[:, None] & (channels < VALUE_CHANNELS)[None, :]
            tl.store(output + part_place[:, None] * VALUE_CHANNELS + channels[None, :], results[j], mask=inside)
