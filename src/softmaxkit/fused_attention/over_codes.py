"""Attention of queries to keys and values in codes, those of any cache: by the codes, or by what they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from softmaxkit.fused_attention.call import attention, choose, fused, module_for
from softmaxkit.kernels.attention import are_few, check_shapes, default_scale
from softmaxkit.kernels.codes import Cached
from softmaxkit.methods.base.spec import Spec, check_spec


def attention_over_codes(
    query: Tensor,
    keys: Cached,
    values: Cached,
    dtype: torch.dtype,
    spec: Spec,
    attn_mask: Tensor | None,
    scale: float | None,
    lengths: Tensor | None,
    parameters: Mapping[str, Any],
) -> Tensor:
    """Compute attention as `KeyValueCache.attention`.

    Args:
        query: as there.
        keys: of a cache.
        values: of a cache.
        dtype: what codes are read in where no kernel reads them.
        spec: as there.
        attn_mask: as there.
        scale: as there.
        lengths: int64, (batch,), 0 to as many as there are keys; or None.
        parameters: as there.
    """
    check_spec(spec)
    spec.require(parameters)
    check_shapes(query, keys, values)
    if are_few(query, keys) and (attn_mask is None or attn_mask.dtype == torch.bool):
        module = module_for(spec, "float", query.shape[1], keys.shape[2], parameters, query.device)
        factor = default_scale(query) if scale is None else scale
        call, choice = choose(module, query, keys, values, scale=factor)
        if call is not None and choice.kernel:
            by_number = lengths if choice.native else None
            mask = attn_mask if choice.native else _within(lengths, keys, attn_mask)
            result = fused(call, choice, query, keys, values, mask, False, factor, lengths=by_number)
            if result is not None:
                return result
    mask = _within(lengths, keys, attn_mask)
    return attention(
        query, keys.decoded(dtype), values.decoded(dtype), spec, mask, scale=scale, enable_gqa=True, **parameters
    )


def checked_lengths(lengths: Tensor, sequences: int, most: int, what: str) -> Tensor:
    """Return how many tokens of each sequence count, int64.

    Args:
        lengths: integers, (sequences,).
        sequences: how many there are.
        most: tokens that a sequence may have.
        what: these are, for the error.

    Raises:
        ValueError: they are no such numbers.
    """
    if lengths.shape != (sequences,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(
            f"lengths are integers, one for each of {sequences} sequences, not {lengths.dtype} of shape "
            f"{tuple(lengths.shape)}"
        )
    if sequences and not 0 <= int(lengths.min()) <= int(lengths.max()) <= most:
        raise ValueError(f"lengths are 0 to {most}, {what}, not {int(lengths.min())} to {int(lengths.max())}")
    return lengths.to(torch.int64)


def _within(lengths: Tensor | None, keys: Cached, mask: Tensor | None) -> Tensor | None:
    """Return a mask, boolean or added to the scores, that hides what is beyond lengths, too."""
    if lengths is None:
        return mask
    places = torch.arange(keys.shape[2], device=keys.device)
    seen = (places < lengths.to(keys.device)[:, None])[:, None, None]
    if mask is None:
        return seen
    return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, -torch.inf)
