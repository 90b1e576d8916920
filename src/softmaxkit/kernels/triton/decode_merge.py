"""Merges the parts of `decode_split`: a sum, with rescaling for softmax and division where weights are normalised."""

import triton
import triton.language as tl


@triton.jit
def decode_merge(
    parts, totals, highests, lengths, output, rows, rows_of_sequence, keys, splits,
    COUNTED: tl.constexpr, FORM: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    """Write `WIDTH` elements of an output row of `CHANNELS` from its parts, float32 (splits, rows, channels).

    With `COUNTED`, NaN for a sequence whose length is not between 0 and `keys`.
    """
    blocks: tl.constexpr = (CHANNELS + WIDTH - 1) // WIDTH
    row = (tl.program_id(0) // blocks).to(tl.int64)
    channels = tl.program_id(0) % blocks * WIDTH + tl.arange(0, WIDTH)
    part = tl.arange(0, SPLITS)
    is_part = part < splits
    places = part.to(tl.int64) * rows + row
    inside = is_part[:, None] & (channels < CHANNELS)[None, :]
    values = tl.load(parts + places[:, None] * CHANNELS + channels[None, :], mask=inside, other=0.0)
    totals_here = tl.load(totals + places, mask=is_part, other=0.0)
    if FORM == "softmax":
        highest = tl.load(highests + places, mask=is_part, other=float("-inf"))
        most = tl.max(highest, 0)
        rescale = tl.exp2(highest - tl.where(most == float("-inf"), 0.0, most))
        values = values * rescale[:, None]
        totals_here = totals_here * rescale
    result = tl.sum(values, 0)
    total = tl.sum(totals_here, 0)
    if FORM == "softmax" or FORM == "levels":
        result = result / tl.where(total == 0.0, 1.0, total)
    result = tl.where(total == 0.0, 0.0, result)  # for a fully masked query: 0 times an infinite value is NaN
    if COUNTED:
        count = tl.load(lengths + row // rows_of_sequence)
        result = tl.where((count < 0) | (count > keys), float("nan"), result)
    tl.store(output + row * CHANNELS + channels, result.to(output.dtype.element_ty), mask=channels < CHANNELS)
