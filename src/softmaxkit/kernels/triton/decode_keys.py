"""What the kernels of decoding share: which keys a program has, where they lie, and codes of caches as numbers."""

import triton
import triton.language as tl


@triton.jit
def keys_of_part(lengths, batch, split, splits, share, keys, COUNTED: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the first key of a part, and the one after its last.

    With lengths (`COUNTED`) the keys of each sequence are divided evenly among its parts; else a part has `share`.
    """
    count = keys
    if COUNTED:
        count = tl.minimum(tl.maximum(tl.load(lengths + batch), 0), keys).to(tl.int32)
        share = tl.cdiv(tl.cdiv(count, COLUMNS), splits) * COLUMNS
    first = split * share
    return first, tl.minimum(first + share, count)


@triton.jit
def locate(table, batch, columns, is_key, pages, PAGE: tl.constexpr):
    """Return the page of each key, its place in the page, and whether the pool has that page.

    Pages have `PAGE` tokens. Without pages (0) a sequence is one page, which all its keys have.
    """
    if PAGE == 0:
        return batch, columns.to(tl.int64), is_key
    else:
        page = tl.load(table + columns // PAGE, mask=is_key, other=0)
        is_there = is_key & (page >= 0) & (page < pages)
        return tl.where(is_there, page, 0).to(tl.int64), (columns % PAGE).to(tl.int64), is_there


@triton.jit
def load_units(tensor, places, is_there, COUNT: tl.constexpr, WIDTH: tl.constexpr):
    """Load rows of `COUNT` units, numbers or words of codes, with 0 up to `WIDTH` and where a key is not there."""
    units = tl.arange(0, WIDTH)
    pointers = tensor + places[:, None] + units[None, :]
    if WIDTH != COUNT:
        return tl.load(pointers, mask=is_there[:, None] & (units < COUNT)[None, :], other=0)
    else:
        return tl.load(pointers, mask=is_there[:, None], other=0)


@triton.jit
def load_steps(
    steps, places, is_key, is_there, stride_group,
    COUNT: tl.constexpr, GROUPS: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    """Load the steps of `COUNT` groups of channels, float32, (keys, groups); NaN where a key's page is not there."""
    groups = tl.arange(0, GROUPS)
    inside = is_there[:, None] & (groups < COUNT)[None, :]
    found = tl.load(steps + places[:, None] + groups[None, :] * stride_group, mask=inside, other=0.0).to(tl.float32)
    if PAGE:
        found = tl.where((is_key & (is_there == 0))[:, None], float("nan"), found)
    return found


@triton.jit
def decode_units(units, magic, J: tl.constexpr, BITS: tl.constexpr, CONVERTS: tl.constexpr):
    """Return code `J` of each unit, a word or a byte of codes, as float32.

    With `CONVERTS`, codes of 8 bits are converted, an instruction each, of which a card runs an eighth as many as of
    others at a time. Else a code is put into the fraction of a power of 2 whose unit is where the code lies, and this
    is taken off again: a logical instruction and an addition. `magic` is 2**23, the power for the lowest bits. It is an
    argument, whose value compilers do not see: an instruction has room for one constant, which is the code's mask.
    """
    words = units.to(tl.int32)
    if BITS == 8 and CONVERTS:
        return ((words << (24 - 8 * J)) >> 24).to(tl.float32)
    else:
        place: tl.constexpr = J % (16 // BITS) * BITS
        if BITS == 8:
            words = words ^ -0x7F7F7F80  # adds 128 to each code, as 8 is added to those of 4 bits
        if J >= 16 // BITS:
            words = words >> 16
        found = (words & (((1 << BITS) - 1) << place)) | (magic - (place << 23))
        return found.to(tl.float32, bitcast=True) - ((1 << (23 - place)) + (1 << (BITS - 1)))


@triton.jit
def for_units(steps, WIDTH: tl.constexpr):
    """Repeat the steps of groups, (keys, groups), for each unit of a group, (keys, units)."""
    keys: tl.constexpr = steps.shape[0]
    groups: tl.constexpr = steps.shape[1]
    wide = tl.broadcast_to(steps[:, :, None], [keys, groups, WIDTH // groups])
    return tl.reshape(wide, [keys, WIDTH])
