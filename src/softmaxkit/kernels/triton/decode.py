"""Attention of a few queries, as in generation: keys split among programs, their parts joined; no gradient."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from softmaxkit.kernels.attention import AttentionCall, check_shapes, default_scale
from softmaxkit.kernels.codes import CHANNELS_OF_STEP, Cached, Paged
from softmaxkit.kernels.operator import operator
from softmaxkit.kernels.triton.decode_merge import decode_merge
from softmaxkit.kernels.triton.decode_single import decode_single
from softmaxkit.kernels.triton.decode_split import decode_split
from softmaxkit.kernels.triton.launch import (
    LOG2_E,
    mask_bytes,
    offsets_of,
    on_device_of,
    precision,
    side_by_side,
    weigh_numbers,
    width,
)


class Share(NamedTuple):
    """How keys are shared out.

    Attributes:
        columns: keys that a program works on at a time.
        warps: of 32 threads.
        stages: blocks of keys on their way at once.
        programs: for each of the card's processors, so that all have keys to read while some wait.
    """

    columns: int
    warps: int
    stages: int
    programs: int


AS_THEY_COME = Share(64, 4, 3, 2)
"""Of keys and values as they come."""
CACHED = Share(64, 2, 4, 8)
"""Of codes that several queries read, by the matrix unit."""
SINGLE = Share(32, 4, 4, 8)
"""Of codes that one query reads, element by element. Chosen by the instructions of the machine code for compute
capability 9.0, and not timed on a card."""
INTERPRETED_PROCESSORS = 8
"""Processors that the interpreter is taken to have."""
MOST_SPLITS = 256
WORD = torch.int32
"""What codes are read in, where they fill such; else bytes."""
MAGIC = 0x4B000000
"""The bits of 2**23 in float32, which `decode_keys.decode_units` puts codes into."""


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
    """Return attention as `softmaxkit.kernels.triton.attention.attend`, of up to 16 queries of one head of keys.

    Keys and values may be in a cache of codes, in one piece or in pages. `lengths`, integers (batch,) on the device,
    are how many of its first keys each sequence attends to. They are not checked before the launch: a sequence
    whose length is negative, or more than there are keys, gets NaN, as does one that attends to a page that the pool
    does not have.
    """
    check_shapes(query, key, value)
    keys, values = (x.codes if isinstance(x, Cached) else x for x in (key, value))
    steps = [x.steps if isinstance(x, Cached) else None for x in (key, value)]
    table = key.table if isinstance(key, Paged) else None
    channels = value.channels if isinstance(value, Cached) else value.shape[3]
    factor = default_scale(query) if scale is None else scale
    how = (key.shape[2], channels, call.clip, len(call.exponentials), call.log_limit, call.base, is_causal, factor)
    asked, shift = query, None
    if isinstance(key, Cached):
        asked = key.taken_up(query)
        shift = key.shifts(query) if call.offset is not None else None  # others do not change with it
    result: Tensor = decode(asked, keys, values, *steps, table, lengths, call.offset, shift, mask, *how)
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
    offset: Tensor | None,
    shift: Tensor | None,
    mask: Tensor | None,
    count: int,
    value_channels: int,
    clip: float,
    levels: int,
    log_limit: float,
    base: float,
    is_causal: bool,
    scale: float,
) -> Tensor:
    """Attention as `attend`: keys and values are codes where they have steps, and in pages where there is a table.

    Args:
        query: as there, times the factors of the keys.
        keys: as there, or codes.
        values: as there, or codes.
        key_steps: of codes.
        value_steps: of codes.
        table: integers, (batch, pages).
        lengths: as there.
        offset: () or (heads,), of exponentials.
        shift: (batch, heads, queries), what the centre of the keys adds to the products of each query.
        mask: as there.
        count: keys of the longest sequence, or more.
        value_channels: channels of the values.
        clip: of levels.
        levels: how many there are; 0 for none.
        log_limit: of exponentials.
        base: of softmax, or 0.
        is_causal: as there.
        scale: as there.
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
    how = AS_THEY_COME if bits == 0 else SINGLE if is_single else CACHED
    splits, share = split(count, batch * key_heads, how, query.device)
    parts = query.new_empty((splits, batch, heads, queries, value_channels), dtype=torch.float32)
    totals, highests = (query.new_empty((splits, batch, heads, queries), dtype=torch.float32) for _ in range(2))
    offsets = _offsets(offset, shift, query, scale)
    steps = [totals if x is None else x if x.stride(-1) == 1 else x.contiguous() for x in (key_steps, value_steps)]
    table, counts = (totals if x is None else side_by_side(x) for x in (table, lengths))
    tensors = (query, keys, values, *steps, table, counts, offsets, marks)
    numbers = (
        *(stride for x in (query, keys, values, *steps) for stride in x.stride()[:3]),
        *(table.stride(0), *offsets.stride(), *mask_strides),
        *(batch, key_heads, heads // key_heads, queries, count, keys.shape[0], splits, share),
        *weigh_numbers(clip, levels, log_limit, base, scale),
        MAGIC,
    )
    widths = [_widths(x.shape[3], codes_of_unit, bits, is_single) for x in (keys, values)]
    constants = {
        "LEVELS": bool(levels),
        "SOFTMAX": base > 0,
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
    }
    kernel = (decode_single if is_single else decode_split)[(splits * batch * key_heads,)]
    given = scores = highests
    with on_device_of(query):
        if levels:
            scores = query.new_empty((batch, heads, queries, count), dtype=torch.float32)
            kernel(*tensors, given, scores, parts, totals, highests, *numbers, ONLY_HIGHEST=True, **constants)
            given = highests.amax(0)
            given = torch.where(given == -math.inf, 0.0, given)
        kernel(*tensors, given, scores, parts, totals, highests, *numbers, ONLY_HIGHEST=False, **constants)
        rows = batch * heads * queries
        decode_merge[(rows,)](
            *(parts, totals, highests, counts, output, rows, heads * queries, count, splits),
            COUNTED=lengths is not None,
            LEVELS=bool(levels),
            SOFTMAX=base > 0,
            CHANNELS=value_channels,
            WIDTH=width(value_channels),
            SPLITS=triton.next_power_of_2(splits),
        )
    return output


@decode.register_fake
def _(
    query: Tensor, keys: Tensor, values: Tensor, key_steps: Any, value_steps: Any, table: Any, lengths: Any,
    offset: Any, shift: Any, mask: Any, count: int, value_channels: int, *rest: Any,
) -> Tensor:  # fmt: skip
    return query.new_empty((*query.shape[:3], value_channels))


def _zero_or_nan(lengths: Tensor) -> Tensor:
    """Return the results of sequences that have no keys, where a length that is not 0 is wrong."""
    return torch.where(lengths == 0, 0.0, math.nan)[:, None, None, None]


def _units(keys: Tensor, values: Tensor, bits: int) -> tuple[Tensor, Tensor, int]:
    """Return codes as the units in which kernels load them, and the codes of a unit; 1 and what is given without."""
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
    """Return a power of 2 of units that has room for all, and how many groups with a step these are."""
    if bits != 4:
        return (triton.next_power_of_2(units) if is_single else width(units)), 1
    of_step = CHANNELS_OF_STEP // codes_of_unit
    padded = max(of_step, triton.next_power_of_2(units)) if is_single else width(units)
    return padded, padded // of_step


def _offsets(offset: Tensor | None, shift: Tensor | None, query: Tensor, scale: float) -> Tensor:
    """Return what is taken from the scores of each query, in binary logarithms, float32, (batch, heads, queries)."""
    offsets = offsets_of(offset, query)[None, :, None]
    if shift is not None:
        offsets = offsets - shift * (scale * LOG2_E)
    return offsets.expand(query.shape[:3])


def split(keys: int, rows: int, how: Share, device: torch.device) -> tuple[int, int]:
    """Return among how many programs keys are split, and how many each has.

    Args:
        keys: of a row.
        rows: batches times heads of keys, each of which is split.
        how: into what.
        device: whose processors are to be busy.
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
