"""Attention over cached codes of keys and values: by a kernel that reads the codes, or after dequantisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from softmaxkit.fused_attention.call import attention, fused
from softmaxkit.fused_attention.choice import choose
from softmaxkit.fused_attention.prepared import is_wide_floating, mask_and_bias
from softmaxkit.fused_attention.torch_attention import within_lengths
from softmaxkit.kernels.attention import are_few, attention_scale, check_mask_device, check_shapes
from softmaxkit.kernels.backends import runs_on_gpu
from softmaxkit.kernels.codes import Cached
from softmaxkit.methods.base.numbers import attention_call_with, module_for
from softmaxkit.methods.base.spec import Spec

HELD = "the tokens of the cache"


def check_queries(query: Tensor, dtype: torch.dtype, device: torch.device, holder: str) -> None:
    """Check that queries have the dtype and the device of a cache.

    Args:
        query: queries of any shape.
        dtype: dtype of the keys before they were encoded.
        device: device of the codes.
        holder: what holds the codes, "cache" or "pool".

    Raises:
        TypeError: they have not.
    """
    if (query.dtype, query.device) != (dtype, device):
        raise TypeError(
            f"this {holder} requires queries in {dtype} on {device}, got {query.dtype} on {query.device}; convert them "
            f'with query.to("{device}", {dtype})'
        )


def attention_over_codes(
    query: Tensor,
    keys: Cached,
    values: Cached,
    dtype: torch.dtype,
    spec: Spec,
    attn_mask: Tensor | None,
    scale: float | None,
    lengths: Tensor | None,
    mode: str,
    parameters: Mapping[str, Any],
) -> Tensor:
    """Compute `KeyValueCache.attention` of codes that are given.

    Args:
        query: (batch, heads, queries, channels).
        keys: codes, (batch, key heads, tokens, channels).
        values: codes, (batch, key heads, tokens, value channels).
        dtype: dtype to dequantise to if no kernel reads the codes.
        spec: the method.
        attn_mask: as in `softmaxkit.attention`.
        scale: as in `softmaxkit.attention`.
        lengths: integers, (batch,): the number of first tokens that each sequence attends to; None for all.
        mode: "float" or "integer".
        parameters: the method's real parameters.

    Raises:
        ValueError, TypeError: as in `softmaxkit.attention`; or lengths are not 0 to the number of tokens.
    """
    check_shapes(query, keys, values)
    check_mask_device("attn_mask", attn_mask, query.device)
    result = by_codes(query, keys, values, spec, attn_mask, scale, lengths, mode, parameters)
    if result is not None:
        return result
    if lengths is not None:
        check_range(lengths, keys.shape[2], HELD)
    mask = within_lengths(lengths, keys, attn_mask)
    key, value = (x.decoded(dtype) for x in (keys, values))
    result = attention(query, key, value, spec, mask, scale=scale, enable_gqa=True, mode=mode, **parameters)
    return result.to(query.dtype)  # that of autocast, where it is on, but kernels that read codes do not know of it


def by_codes(
    query: Tensor,
    keys: Cached,
    values: Cached,
    spec: Spec,
    attn_mask: Tensor | None,
    scale: float | None,
    lengths: Tensor | None,
    mode: str,
    parameters: Mapping[str, Any],
    only_on_gpu: bool = False,
) -> Tensor | None:
    """Compute attention with a kernel that reads the codes, as `attention_over_codes`; None if no kernel applies.

    With `only_on_gpu`, native kernels do not apply: they do not check block tables.
    """
    if mode != "float" or not are_few(query, keys):
        return None
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        attn_mask, bias = mask_and_bias(attn_mask) if is_wide_floating(attn_mask) else (None, attn_mask)
        if bias is not None:  # kernels that read codes take boolean masks alone
            return None
    module = module_for(spec, mode, keys.shape[2], parameters, query.device, query.shape[1])
    factor = attention_scale(query, scale)
    with_numbers = attention_call_with(module, parameters)
    call, choice = choose(module, query, keys, values, scale=factor, with_numbers=with_numbers)
    if call is None or not choice.kernel or (choice.native and only_on_gpu):
        return None
    if lengths is not None and (choice.native or not are_read_by_kernel(lengths)):
        check_range(lengths, keys.shape[2], HELD)
    if lengths is not None and not choice.native:
        lengths = on_device(lengths, query.device)
    return fused(call, choice, query, keys, values, attn_mask, False, factor, lengths=lengths)


def on_device(numbers: Tensor, device: torch.device) -> Tensor:
    """Copy numbers without waiting for the device, except from pinned memory, which the caller may change at once."""
    return numbers.to(device, non_blocking=not numbers.is_pinned())


def are_read_by_kernel(numbers: Tensor) -> bool:
    """Return whether a GPU kernel checks these lengths or tables, since the host would have to wait for them."""
    return runs_on_gpu(numbers.device)


def checked_lengths(lengths: Tensor, sequences: int) -> Tensor:
    """Return the lengths after checking their shape and dtype.

    Args:
        lengths: integers, (sequences,): the number of tokens that each sequence attends to.
        sequences: number of sequences.

    Raises:
        ValueError: another shape, or a dtype that is not integral.
    """
    if lengths.shape != (sequences,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(
            f"lengths must be integers, one for each of {sequences} sequences, got {lengths.dtype} of shape "
            f"{tuple(lengths.shape)}"
        )
    return lengths


def check_range(lengths: Tensor, most: int, what: str) -> tuple[int, int]:
    """Return the smallest and the largest length, 0 if there are none; waits for a GPU that holds them.

    Raises:
        ValueError: one is not 0 to `most`, which is described by `what`.
    """
    numbers = lengths.tolist() or [0]
    smallest, largest = min(numbers), max(numbers)
    if not 0 <= smallest <= largest <= most:
        raise ValueError(f"lengths must be 0 to {most}, {what}, got {smallest} to {largest}")
    return smallest, largest
