"""Attention of a few queries, as in generation: keys are split among programs, parts are merged; no gradient."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from softmaxkit.kernels.attention import AttentionCall, attention_scale, check_shapes
from softmaxkit.kernels.codes import CHANNELS_OF_STEP, Cached, Paged
from softmaxkit.kernels.launch import side_by_side
from softmaxkit.kernels.operator import operator
from softmaxkit.kernels.triton.decode_merge import decode_merge
from softmaxkit.kernels.triton.decode_single import decode_single
from softmaxkit.kernels.triton.decode_split import decode_split
from softmaxkit.kernels.triton.launch import (
    FUSED,
    LOG2_E,
    in_binary_logarithms,
    levels_of,
    limit_of,
    mask_bytes,
    numbers_of_heads,
    on_device_of,
    precision,
    width,
)


class Share(NamedTuple):
    """How keys are divided among programs.

    Attributes:
        columns: keys that a program processes at a time.
        warps: per program, of 32 threads each.
        stages: blocks of keys in flight at once.
        programs: per multiprocessor, so that it has keys to read while some of them wait.
    """

    columns: int
    warps: int
    stages: int
    programs: int


AS_THEY_COME = Share(64, 4, 3, 2)
"""For floating-point keys and values."""
CACHED = Share(64, 2, 4, 8)
"""For codes that several queries share, on the tensor cores."""
SINGLE = Share(32, 4, 4, 8)
"""For codes that a single query reads, element by element. Chosen from the instructions of the machine code for
compute capability 9.0; not timed on a card."""
MOST_BYTES = 16 * 1024
"""Of a block of keys in the dtype of the queries, for the tensor cores: then the blocks in flight fit in the 99 KiB of
shared memory that a GeForce RTX has, and those of float32 in the registers."""
INTERPRETED_PROCESSORS = 8
"""Multiprocessors assumed for the interpreter."""
MOST_SPLITS = 256
MERGED = 128 * 128
"""Most numbers that a program merges, parts times channels; more would not fit in its registers."""
WORD = torch.int32
"""Type that codes are loaded as where they fill whole words; otherwise they are loaded as bytes."""
MAGIC = 0x4B000000
"""The bits of 2**23 in float32, into whose fraction `decode_keys.decode_units` inserts codes."""


def attend(
    query: Tensor,
    key: Tensor | Cached,
    value: Tensor | Cached,
    call: AttentionCall,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Compute `softmaxkit.kernels.triton.attention.attend` for up to 16 queries per key head.

    Keys and values may be a cache of codes, contiguous or paged. `lengths`, integers (batch,) on the device, are the
    numbers of leading keys that sequences attend to. They are not checked before the launch: a sequence whose length
    is negative or exceeds the number of keys gets NaN, as does one that attends to a page outside the pool.
    """
    check_shapes(query, key, value)
    keys, values = (x.codes if isinstance(x, Cached) else x for x in (key, value))
    steps = [x.steps if isinstance(x, Cached) else None for x in (key, value)]
    table = key.table if isinstance(key, Paged) else None
    channels = value.channels if isinstance(value, Cached) else value.shape[3]
    factor = attention_scale(query, scale)
    weights = (call.form, *levels_of(call), call.log_limit, call.base)
    how = (key.shape[2], channels, *weights, is_causal, factor)
    asked, shift = query, None
    if isinstance(key, Cached):
        asked = key.times_factors(query)
        shift = key.shifts(query) if call.offset is not None else None  # other weights do not depend on it
    of_heads = numbers_of_heads(call, query)
    result: Tensor = decode(asked, keys, values, *steps, table, lengths, of_heads, shift, mask, *how)
    return result.to(query.dtype)


@operator("cpu", "cuda")
def decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    key_steps: Tensor | None,
    value_steps: Tensor | None,
    table: Tensor | None,
    lengths: Tensor | None,
    of_heads: Tensor | None,
    shift: Tensor | None,
    mask: Tensor | None,
    count: int,
    value_channels: int,
    form: str,
    levels: int,
    from_zero: bool,
    log_limit: float,
    base: float,
    is_causal: bool,
    scale: float,
) -> Tensor:
    """Compute `attend`: keys and values that have steps are codes; with a table, they are paged.

    Args:
        query: as in `attend`, multiplied by the key factors.
        keys: as in `attend`, or codes.
        values: as in `attend`, or codes.
        key_steps: steps of the key codes.
        value_steps: steps of the value codes.
        table: page table, integers (batch, pages).
        lengths: as in `attend`.
        of_heads: as `launch.numbers_of_heads` returns them.
        shift: (batch, heads, queries), what the key centre adds to each query's products.
        mask: as in `attend`.
        count: keys of the longest sequence, or an upper bound.
        value_channels: channels of the values.
        form: of the weights, as are the numbers of an `AttentionCall`.
        levels: number of levels.
        from_zero: whether the weight of the lowest level is 0.
        log_limit: for exponentials.
        base: for softmax.
        is_causal: as in `attend`.
        scale: as in `attend`.
    """
    output = query.new_empty((*query.shape[:3], value_channels))
    if output.numel() == 0:
        return output
    batch, heads, queries, channels = query.shape
    if count == 0:
        return output.zero_() if lengths is None else output.copy_(_zero_or_nan(lengths))
    query, keys, values = (side_by_side(x) for x in (query, keys, values))
    bits = 0 if key_steps is None else 8 if keys.dtype == torch.int8 else 4
    keys, values, codes_of_unit = _units(keys, values, bits)
    key_heads, is_single = keys.shape[1], bits > 0 and heads == keys.shape[1] and queries == 1
    marks, mask_strides = mask_bytes(mask, (batch, heads, queries, count), query)
    widths = [_widths(x.shape[3], codes_of_unit, bits, is_single) for x in (keys, values)]
    how = SINGLE if is_single else _share(query.dtype, bits, codes_of_unit * max(widths)[0])
    splits, share = split(count, batch * key_heads, how, query.device)
    parts = query.new_empty((splits, batch, heads, queries, value_channels), dtype=torch.float32)
    totals, highests = (query.new_empty((splits, batch, heads, queries), dtype=torch.float32) for _ in range(2))
    logarithms = _of_queries(of_heads, shift, query, scale)
    optional = (key_steps, value_steps, table, lengths)
    *steps, table, counts = (totals if x is None else side_by_side(x) for x in optional)
    tensors = (query, keys, values, *steps, table, counts, logarithms, marks)
    scalars = (
        *(stride for x in (query, keys, values, *steps) for stride in x.stride()[:3]),
        *(table.stride(0), *logarithms.stride(), *mask_strides),
        *(batch, key_heads, heads // key_heads, queries, count, keys.shape[0], splits, share),
        *(scale * math.log2(base), limit_of(levels, log_limit), MAGIC),
    )
    constants = {
        "FORM": form,
        "FROM_ZERO": from_zero,
        "BITS": bits,
        "PAGE": 0 if table is totals else keys.shape[2],
        "COUNTED": lengths is not None,
        "CAUSAL": is_causal,
        "MASKED": mask is not None,
        "PRECISION": precision(),
        "PER": codes_of_unit,
        "CHANNELS": channels,
        "UNITS": keys.shape[3],
        "WIDTH": widths[0][0],
        "STEPS": widths[0][1],
        "VALUE_CHANNELS": value_channels,
        "VALUE_UNITS": values.shape[3],
        "VALUE_WIDTH": widths[1][0],
        "VALUE_STEPS": widths[1][1],
        "ROWS": 16,
        "COLUMNS": how.columns,
        "STAGES": how.stages,
        "num_warps": how.warps,
        "num_stages": how.stages,
        **FUSED,
    }
    kernel = (decode_single if is_single else decode_split)[(splits * batch * key_heads,)]
    given = scores = highests
    with on_device_of(query):
        if form == "levels":
            scores = query.new_empty((batch, heads, queries, count), dtype=torch.float32)
            kernel(*tensors, given, scores, parts, totals, highests, *scalars, ONLY_HIGHEST=True, **constants)
            given = highests.amax(0)
            given = torch.where(given == -math.inf, 0.0, given)
        kernel(*tensors, given, scores, parts, totals, highests, *scalars, ONLY_HIGHEST=False, **constants)
        rows, most = batch * heads * queries, triton.next_power_of_2(splits)
        merged = min(width(value_channels), 128, MERGED // most)
        decode_merge[(rows * triton.cdiv(value_channels, merged),)](
            *(parts, totals, highests, counts, output, rows, heads * queries, count, splits),
            COUNTED=lengths is not None,
            FORM=form,
            CHANNELS=value_channels,
            WIDTH=merged,
            SPLITS=most,
            **FUSED,
        )
    return output


@decode.register_fake
def _(
    query: Tensor, keys: Tensor, values: Tensor, key_steps: Any, value_steps: Any, table: Any, lengths: Any,
    of_heads: Any, shift: Any, mask: Any, count: int, value_channels: int, *rest: Any,
) -> Tensor:  # fmt: skip
    return query.new_empty((*query.shape[:3], value_channels))


def _zero_or_nan(lengths: Tensor) -> Tensor:
    """Return the results where there are no keys: 0 for a length of 0, NaN for any other, which is invalid."""
    return torch.where(lengths == 0, 0.0, math.nan)[:, None, None, None]


def _units(keys: Tensor, values: Tensor, bits: int) -> tuple[Tensor, Tensor, int]:
    """View codes as the units that kernels load, and return the codes per unit; other tensors unchanged, and 1."""
    if bits == 0:
        return keys, values, 1
    in_words = [
        x.storage_offset() % 4 == 0 and x.shape[3] % 4 == 0 and all(stride % 4 == 0 for stride in x.stride()[:3])
        for x in (keys, values)
    ]
    if not all(in_words):
        return keys, values, 8 // bits
    return keys.view(WORD), values.view(WORD), 32 // bits


def _widths(units: int, codes_of_unit: int, bits: int, is_single: bool) -> tuple[int, int]:
    """Return the number of units padded to a power of 2, and the number of step groups in them."""
    if bits != 4:
        return (triton.next_power_of_2(units) if is_single else width(units)), 1
    of_step = CHANNELS_OF_STEP // codes_of_unit
    padded = max(of_step, triton.next_power_of_2(units)) if is_single else width(units)
    return padded, padded // of_step


def _share(dtype: torch.dtype, bits: int, channels: int) -> Share:
    """Return the share on the tensor cores, for queries of a dtype and a padded number of channels."""
    how = CACHED if bits else AS_THEY_COME
    return how._replace(columns=min(how.columns, MOST_BYTES // (dtype.itemsize * channels)))


def _of_queries(of_heads: Tensor | None, shift: Tensor | None, query: Tensor, scale: float) -> Tensor:
    """Return the numbers of the heads, less the shift, in binary logarithms, float32 (batch, heads, queries)."""
    logarithms = in_binary_logarithms(of_heads, query)[None, :, None]
    if shift is not None:
        logarithms = logarithms - shift * (scale * LOG2_E)
    return logarithms.expand(query.shape[:3])


def split(keys: int, rows: int, how: Share, device: torch.device) -> tuple[int, int]:
    """Return the number of programs that share the keys of a row, and the keys per program.

    Args:
        keys: keys of a row.
        rows: batch size times key heads; each row is split.
        how: block size, and programs per multiprocessor.
        device: device whose multiprocessors are to be kept busy.
    """
    processors = (
        torch.cuda.get_device_properties(device).multi_processor_count
        if device.type == "cuda"
        else INTERPRETED_PROCESSORS
    )
    blocks = triton.cdiv(keys, how.columns)
    splits = max(1, min(how.programs * processors // max(rows, 1), blocks, MOST_SPLITS))
    share = triton.cdiv(blocks, splits) * how.columns
    return triton.cdiv(keys, share), share
