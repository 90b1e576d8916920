"""Native attention as a PyTorch operator, which torch.compile and torch.export go through as through torch's own."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from softmaxkit.fused_attention.torch_attention import (
    attend_by_stripes,
    is_bias,
    scaled_dot_product,
    within_lengths,
    without_repetition,
)
from softmaxkit.kernels.attention import AttentionCall, Form
from softmaxkit.kernels.codes import Cached
from softmaxkit.kernels.launch import untraced
from softmaxkit.kernels.native_attention import attend
from softmaxkit.kernels.operator import operator
from softmaxkit.kernels.row_call import RowCall


def attend_natively(
    query: Tensor,
    key: Tensor | Cached,
    value: Tensor | Cached,
    call: AttentionCall,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
    lengths: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute attention by a native kernel, or by torch where it refuses the numbers; arguments as in `attend`.

    A bias, added to the scores, goes to torch too, unless it is 0 everywhere. Lengths come with codes and without it.

    torch propagates NaN and infinity, and is precise enough where integers are too coarse. It computes the sequences
    concerned; results of the others do not depend on them.

    Raises:
        RuntimeError, TypeError, ValueError: as `attend`.
    """
    if isinstance(key, Tensor) and isinstance(value, Tensor) and lengths is None:
        entries = [entry for of_head in call.entries for entry in of_head]
        numbers = call.form, call.clips, entries, call.offset, call.limit, call.base
        result: Tensor = native_attention(query, key, value, mask, is_causal, scale, *numbers, bias)
        return result
    return _attend_untraced(query, key, value, call, mask, is_causal, scale, lengths)


def _attend(
    query: Tensor,
    key: Tensor | Cached,
    value: Tensor | Cached,
    call: AttentionCall,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
    lengths: Tensor | None = None,
) -> Tensor:
    """Run the kernel, and torch for those sequences of the batch whose numbers it refuses."""
    try:
        return attend(query, key, value, call, mask, is_causal, scale, lengths)
    except ArithmeticError:
        if query.shape[0] == 1:
            key, value = (x.decoded(query.dtype) if isinstance(x, Cached) else x for x in (key, value))
            mask = within_lengths(lengths, key, mask)
            return _attend_by_torch(query, key, value, call, mask, is_causal, scale)
    results = []
    for first in range(query.shape[0]):
        one = slice(first, first + 1)
        keys, values = (x.sequences(one) if isinstance(x, Cached) else x[one] for x in (key, value))
        seen = mask if mask is None or mask.ndim < 4 or mask.shape[0] == 1 else mask[one]
        length = None if lengths is None else lengths[one]
        results.append(_attend(query[one], keys, values, call, seen, is_causal, scale, length))
    return torch.cat(results)


_attend_untraced = untraced(_attend)


@operator("cpu")
def native_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
    form: str,
    clips: list[float],
    entries: list[float],
    offset: Tensor | None,
    limit: float,
    base: float,
    bias: Tensor | None = None,
) -> Tensor:
    """Attention as `attend_natively`, with the numbers of an `AttentionCall`; contiguous, not differentiable.

    The entries of heads follow each other.
    """
    levels = len(entries) // len(clips) if clips else 1
    of_heads = tuple(tuple(entries[first : first + levels]) for first in range(0, len(entries), levels))
    call = AttentionCall(cast(Form, form), tuple(clips), of_heads, offset, limit, base)
    if bias is not None and is_bias(bias):
        return _attend_by_torch(query, key, value, call, mask, is_causal, scale, bias)
    key, value, mask = _without_hidden_tail(key, value, mask)
    return _attend(query, key, value, call, mask, is_causal, scale)


@native_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *rest: object) -> Tensor:
    return query.new_empty((*query.shape[:3], value.shape[3]))


def _without_hidden_tail(key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Drop the last keys if no query attends to them: those of a static cache, most of which may still be empty."""
    if mask is None or mask.ndim == 0 or mask.dtype != torch.bool:
        return key, value, mask
    rows = without_repetition(mask)
    keys = key.shape[2]
    if not 1 < keys == rows.shape[-1] or rows.numel() == 0 or bool(rows[..., -1].any()):
        return key, value, mask
    attended = rows.view(torch.uint8).reshape(-1, keys).amax(0)  # `any` is far slower
    keys -= int(attended.flip(0).argmax()) if bool(attended.any()) else keys
    return key[:, :, :keys], value[:, :, :keys], mask[..., :keys]


def _attend_by_torch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    call: AttentionCall,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
    bias: Tensor | None = None,
) -> Tensor:
    given = query, key, value, mask, bias, 0.0, is_causal, scale
    if call.form == "softmax":
        return scaled_dot_product(call.base, *given).contiguous()
    return attend_by_stripes(RowCall.of_attention(call), *given).contiguous()
