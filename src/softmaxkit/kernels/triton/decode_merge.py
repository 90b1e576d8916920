"""Merges the parts of `decode_split`: a sum, with rescaling for softmax and division where weights are normalised."""

import triton
import triton.language as tl


@triton.jit
def decode_merge(
    parts, totals, highests, lengths, output, rows, rows_of_sequence, keys, splits,
    COUNTED: tl.constexpr, LEVELS: tl.constexpr, SOFTMAX: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
    SPLITS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Write one output row of `CHANNELS` elements from its parts, float32 (splits, rows, channels), `PARTS` at a time.

    With `COUNTED`, NaN for a sequence whose length is not between 0 and `keys`.
    """
    row = tl.program_id(0).to(tl.int64)
    channels = tl.arange(0, WIDTH)
    base = 0.0
    if SOFTMAX:
        every = tl.arange(0, SPLITS)
        most = tl.max(tl.load(highests + every.to(tl.int64) * rows + row, mask=every < splits, other=float("-inf")), 0)
        base = tl.where(most == float("-inf"), 0.0, most)
    result = tl.zeros([WIDTH], dtype=tl.float32)
    total = 0.0
    for first in range(0, splits, PARTS):
        part = first + tl.arange(0, PARTS)
        is_part = part < splits
        places = part.to(tl.int64) * rows + row
        inside = is_part[:, None] & (channels < CHANNELS)[None, :]
        values = tl.load(parts + places[:, None] * CHANNELS + channels[None, :], mask=inside, other=0.0)
        if SOFTMAX:
            rescale = tl.exp2(tl.load(highests + places, mask=is_part, other=float("-inf")) - base)
            values = values * rescale[:, None]
        result += tl.sum(values, 0)
        if SOFTMAX or LEVELS:
            sums = tl.load(totals + places, mask=is_part, other=0.0)
            if SOFTMAX:
                sums = sums * rescale
            total += tl.sum(sums, 0)
    if SOFTMAX or LEVELS:
        result = result / tl.where(total == 0.0, 1.0, total)
    if COUNTED:
        count = tl.load(lengths + row // rows_of_sequence)
        result = tl.where((count < 0) | (count > keys), float("nan"), result)
    tl.store(output + row * CHANNELS + channels, result.to(output.dtype.element_ty), mask=channels < CHANNELS)
