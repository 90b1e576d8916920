"""Attention over a subset of the keys, with mergeable states: for chunks, threads or several machines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softmaxkit.fused_attention.autocast import without_autocast
from softmaxkit.kernels.attention import (
    attention_scale,
    check_mask_device,
    check_optional_tensors,
    check_shapes,
    check_tensors,
    check_truth_values,
)
from softmaxkit.masks import expand_mask
from softmaxkit.methods.base.partial import Partial
from softmaxkit.methods.base.spec import Spec, check_spec


def partial_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spec: Spec,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    **parameters: Any,
) -> Partial:
    """Attend to a subset of the keys; `merge` combines the states of all subsets, `result()` returns the output.

    Args:
        query: floating, (batch, heads, queries, channels).
        key: a subset of the keys, (batch, heads, keys, channels).
        value: their values, (batch, heads, keys, value channels).
        spec: the method.
        attn_mask: boolean, True where attended, broadcasts to (batch, heads, queries, keys).
        scale: factor of the scores; 1/sqrt(channels) if None.
        enable_gqa: keys and values may have fewer heads, each shared by consecutive query heads.
        parameters: the method's real parameters (ConSmax's may be one per head); for EXAQ also `maximum`, see
            `Exaq.partial`.

    Returns:
        The state of (batch, heads, queries) rows, with weighted values.

    Raises:
        ValueError: shapes do not fit, or the method cannot compute rows in parts.
        TypeError: the mask is not boolean, or an argument is not a tensor.
    """
    check_spec(spec)
    spec.check_parameters(parameters, (*spec.parameters, "maximum"), partial_attention)
    check_tensors(query=query, key=key, value=value)
    check_optional_tensors(attn_mask=attn_mask)
    check_truth_values(enable_gqa=enable_gqa)
    check_shapes(query, key, value)
    if query.shape[1] != key.shape[1] and not enable_gqa:
        raise ValueError(f"{query.shape[1]} query heads and {key.shape[1]} key heads require enable_gqa=True")
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        raise TypeError(f"attn_mask must be boolean, True where attended, got {attn_mask.dtype}")
    check_mask_device("attn_mask", attn_mask, query.device)
    shape = (*query.shape[:3], key.shape[2])
    wide = torch.promote_types(query.dtype, torch.float32)
    with without_autocast(query.device):
        # Query heads that share a key head form one matrix, so that keys are not copied for each of them.
        together = (query.to(wide) * attention_scale(query, scale)).reshape(*key.shape[:2], -1, key.shape[3])
        scores = (together @ key.to(wide).mT).reshape(shape)
        mask = None if attn_mask is None else expand_mask(attn_mask, shape)
        return spec.partial(**parameters).update(scores, mask, value.to(wide))
