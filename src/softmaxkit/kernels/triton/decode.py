"""Attention of a few queries, as in generation: keys split among programs, their parts joined; no gradient."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from softmaxkit.kernels.attention import AttentionCall, check_shapes, default_scale
from softmaxkit.kernels.codes import Cached
from softmaxkit.kernels.operator import operator
from softmaxkit.kernels.triton.decode_merge import decode_merge
from softmaxkit.kernels.triton.decode_split import decode_split
from softmaxkit.kernels.triton.launch import (
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
"""Of those in an 8-bit cache."""
INTERPRETED_PROCESSORS = 8
"""Processors that the interpreter is taken to have."""
MOST_SPLITS = 256


def attend(
    query: Tensor,
    key: Tensor | Cached,
    value: Tensor | Cached,
    call: AttentionCall,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return attention as `softmaxkit.kernels.triton.attention.attend`, of up to 16 queries of one head of keys.

    Keys and values may be in an 8-bit cache.
    """
    check_shapes(query, key, value)
    keys, values = (x.codes if isinstance(x, Cached) else x for x in (key, value))
    steps = [x.steps[:, :, 0] if isinstance(x, Cached) else None for x in (key, value)]
    factor = default_scale(query) if scale is None else scale
    how = (call.clip, len(call.exponentials), call.log_limit, call.base, is_causal, factor)
    asked = key.taken_up(query) if isinstance(key, Cached) else query
    result: Tensor = decode(asked, keys, values, *steps, call.offset, mask, *how)
    return result.to(query.dtype)


@operator("cpu", "cuda")
def decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    key_steps: Tensor | None,
    value_steps: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
    clip: float,
    levels: int,
    log_limit: float,
    base: float,
    is_causal: bool,
    scale: float,
) -> Tensor:
    """Attention as `attend`; keys and values are int8 where they have steps."""
    output = query.new_empty((*query.shape[:3], values.shape[3]))
    if output.numel() == 0 or keys.shape[2] == 0:
        return output.zero_()
    query, keys, values = (side_by_side(x) for x in (query, keys, values))
    batch, heads, queries, channels = query.shape
    key_heads, count = keys.shape[1:3]
    bits, mask_strides = mask_bytes(mask, (batch, heads, queries, count), query)
    how = AS_THEY_COME if key_steps is None else CACHED
    splits, share = split(count, batch * key_heads, how, query.device)
    parts = query.new_empty((splits, batch, heads, queries, values.shape[3]), dtype=torch.float32)
    totals, highests = (query.new_empty((splits, batch, heads, queries), dtype=torch.float32) for _ in range(2))
    offsets = offsets_of(offset, query)
    steps = [totals if x is None else x for x in (key_steps, value_steps)]
    tensors = (query, keys, values, *steps, offsets, bits)
    numbers = (
        *(stride for x in (query, keys, values) for stride in x.stride()[:3]),
        *(stride for x in steps for stride in x.stride()[:2]),
        *mask_strides,
        offsets.stride(0) if offsets.numel() > 1 else 0,
        *(batch, key_heads, heads // key_heads, queries, count, splits, share),
        *weigh_numbers(clip, levels, log_limit, base, scale),
    )
    constants = {
        "LEVELS": bool(levels),
        "SOFTMAX": base > 0,
        "CACHED": key_steps is not None,
        "CAUSAL": is_causal,
        "MASKED": mask is not None,
        "PRECISION": precision(),
        "CHANNELS": channels,
        "WIDTH": width(channels),
        "VALUE_CHANNELS": values.shape[3],
        "VALUE_WIDTH": width(values.shape[3]),
        "ROWS": 16,
        "COLUMNS": how.columns,
        "num_warps": how.warps,
        "num_stages": how.stages,
    }
    grid = (splits * batch * key_heads,)
    given = scores = highests
    with on_device_of(query):
        if levels:
            scores = query.new_empty((batch, heads, queries, count), dtype=torch.float32)
            decode_split[grid](
                *tensors, given, scores, parts, totals, highests, *numbers, ONLY_HIGHEST=True, **constants
            )
            given = highests.amax(0)
            given = torch.where(given == -math.inf, 0.0, given)
        decode_split[grid](*tensors, given, scores, parts, totals, highests, *numbers, ONLY_HIGHEST=False, **constants)
        decode_merge[(batch * heads * queries,)](
            *(parts, totals, highests, output, batch * heads * queries, splits),
            LEVELS=bool(levels),
            SOFTMAX=base > 0,
            CHANNELS=values.shape[3],
            WIDTH=width(values.shape[3]),
            SPLITS=triton.next_power_of_2(splits),
        )
    return output


@decode.register_fake
def _(query: Tensor, keys: Tensor, values: Tensor, *rest: Any) -> Tensor:
    return query.new_empty((*query.shape[:3], values.shape[3]))


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
