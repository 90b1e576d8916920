"""Shared by the decoding kernels: which keys a program has, where they are stored, and how codes are decoded."""

import triton
import triton.language as tl


@triton.jit
def keys_of_part(lengths, batch, split, splits, share, keys, COUNTED: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the first key of a part, and the one after its last.

    With lengths (`COUNTED`) each sequence's keys are divided evenly among its parts; otherwise a part has `share` keys.
    """
    count = keys
    if COUNTED:
        count = tl.minimum(tl.maximum(tl.load(lengths + batch), 0), keys).to(tl.int32)
        share = tl.cdiv(tl.cdiv(count, COLUMNS), splits) * COLUMNS
    first = split * share
    return first, tl.minimum(first + share, count)


@triton.jit
def locate(table, batch, columns, is_key, pages, PAGE: tl.constexpr):
    """Return the page of each key, its position in the page, and whether the pool has that page.

    Pages have `PAGE` tokens. Without pages (0), each sequence is one page that contains all its keys.
    """
    if PAGE == 0:
        return batch, columns.to(tl.int64), is_key
    else:
        page = tl.load(table + columns // PAGE, mask=is_key, other=0)
        is_there = is_key & (page >= 0) & (page < pages)
        return tl.where(is_there, page, 0).to(tl.int64), (columns % PAGE).to(tl.int64), is_there


@triton.jit
def load_units(tensor, places, is_there, COUNT: tl.constexpr, WIDTH: tl.constexpr):
    """Load rows of `COUNT` units, floats or packed codes, padded with 0 to `WIDTH`; 0 where `is_there` is false."""
    units = tl.arange(0, WIDTH)
    pointers = tensor + places[:, None] + units[None, :]
    if WIDTH != COUNT:
        return tl.load(pointers, mask=is_there[:, None] & (units < COUNT)[None, :], other=0)
    else:
        return tl.load(pointers, mask=is_there[:, None], other=0)


@triton.jit
def load_steps(
    steps, places, is_key, is_there, stride_group,
    CHANNELS: tl.constexpr, BITS: tl.constexpr, GROUPS: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    """Load the steps of a key's channels, float32, (keys, `GROUPS`); NaN where a key's page is missing.

    There is one step for every 32 channels with 4 bits, and one for all with 8; further groups are padding, 0.
    """
    groups = tl.arange(0, GROUPS)
    count: tl.constexpr = (CHANNELS + 31) // 32 if BITS == 4 else 1
    inside = is_there[:, None] & (groups < count)[None, :]
    pointers = steps + places[:, None] + groups[None, :] * stride_group
    group_steps = tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
    if PAGE:
        group_steps = tl.where((is_key & (is_there == 0))[:, None], float("nan"), group_steps)
    return group_steps


@triton.jit
def decode_units(units, magic, J: tl.constexpr, BITS: tl.constexpr, CONVERTS: tl.constexpr):
    """Return code `J` of each unit, a word or a byte of codes, as float32.

    With `CONVERTS`, 8-bit codes take one conversion instruction each, which has an eighth of the throughput of others.
    Otherwise the code's bits are inserted, where they are, into the fraction of the power of 2 that gives the lowest of
    them weight 1, and the power is subtracted: a logical instruction and an addition. `magic` is 2**23, the power for
    the lowest bits, an argument to hide its value from the compiler: an instruction's only constant is the code's mask.
    """
    words = units.to(tl.int32)
    if BITS == 8 and CONVERTS:
        return ((words << (24 - 8 * J)) >> 24).to(tl.float32)
    else:
        place: tl.constexpr = J % (16 // BITS) * BITS
        if BITS == 8:
            words = words ^ -0x7F7F7F80  # adds 128 to each code; 4-bit codes are stored plus 8
        if J >= 16 // BITS:
            words = words >> 16
        pattern = (words & (((1 << BITS) - 1) << place)) | (magic - (place << 23))
        return pattern.to(tl.float32, bitcast=True) - ((1 << (23 - place)) + (1 << (BITS - 1)))


@triton.jit
def for_units(steps, WIDTH: tl.constexpr):
    """Repeat each group's step, (keys, groups), for every unit of the group, (keys, units)."""
    keys: tl.constexpr = steps.shape[0]
    groups: tl.constexpr = steps.shape[1]
    wide = tl.broadcast_to(steps[:, :, None], [keys, groups, WIDTH // groups])
    return tl.reshape(wide, [keys, WIDTH])
