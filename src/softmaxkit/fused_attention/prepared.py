"""An attention's arguments, checked and brought into one form, and the back end that they choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from softmaxkit.fused_attention.autocast import autocast
from softmaxkit.fused_attention.choice import choose
from softmaxkit.fused_attention.torch_attention import is_bias, without_repetition
from softmaxkit.kernels.attention import (
    AttentionCall,
    attention_scale,
    check_mask_device,
    check_optional_tensors,
    check_shapes,
    check_tensors,
    check_truth_values,
    is_number,
)
from softmaxkit.kernels.backends import Choice, is_in_graph
from softmaxkit.masks import attended_by, unexpanded_mask
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.numbers import attention_call_with, module_for
from softmaxkit.methods.base.spec import Spec


class Prepared(NamedTuple):
    """What `prepare` returns: arguments of `attention`, with four dimensions and in the dtype of autocast.

    Attributes:
        query: (batch, heads, queries, channels).
        key: (batch, key heads, keys, channels).
        value: (batch, key heads, keys, value channels).
        mask: boolean, with four axes that broadcast to (batch, heads, queries, keys); or None.
        bias: floating, likewise; None if it is known to be 0 everywhere, as no graph can.
        scale: factor of the scores.
        module: the method's module.
        call: its fused attention, with the caller's parameters if they require gradients; None if there is none.
        choice: the back end that runs it.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    bias: Tensor | None
    scale: float
    module: SoftmaxModule
    call: AttentionCall | None
    choice: Choice


def prepare(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spec: Spec,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    mode: str,
    parameters: Mapping[str, Any],
) -> Prepared:
    """Check the arguments of `attention`, apart from the method and its parameters, and choose the back end.

    Raises:
        ValueError, TypeError: as `attention`.
    """
    check_tensors(query=query, key=key, value=value)
    check_optional_tensors(attn_mask=attn_mask)
    check_truth_values(is_causal=is_causal, enable_gqa=enable_gqa)
    if mode == "float":
        query, key, value = autocast(query, key, value)
    _check(query, key, value, attn_mask, is_causal)
    if not (is_number(dropout_p) or isinstance(dropout_p, Tensor)):
        raise TypeError(f"dropout_p must be a number from 0 to 1, got {dropout_p!r}")
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"dropout_p must be a probability from 0 to 1, got {dropout_p}")
    if query.ndim < 4:
        more = (None,) * (4 - query.ndim)
        query, key, value = query[more], key[more], value[more]
    check_shapes(query, key, value)
    if query.shape[1] != key.shape[1] and not enable_gqa:
        raise ValueError(f"{query.shape[1]} query heads and {key.shape[1]} key heads require enable_gqa=True")
    mask, bias = mask_and_bias(attn_mask)
    mask, bias = (None if x is None else unexpanded_mask(x, (*query.shape[:3], key.shape[2])) for x in (mask, bias))
    factor = attention_scale(query, scale)
    module = module_for(spec, mode, key.shape[2], parameters, query.device, query.shape[1])
    with_numbers = attention_call_with(module, parameters) if mode == "float" else None
    call, choice = choose(module, query, key, value, bias, dropout_p, factor, with_numbers)
    return Prepared(query, key, value, mask, bias, factor, module, call, choice)


def _check(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool) -> None:
    if not (is_wide_floating(query) and query.dtype == key.dtype == value.dtype):
        raise TypeError(
            "query, key and value must share a floating dtype of 16 bits or more, got "
            f"{query.dtype}, {key.dtype}, {value.dtype}"
        )
    if not query.device == key.device == value.device:
        raise ValueError(
            f"query, key and value must be on one device, got {query.device}, {key.device}, {value.device}"
        )
    if not 2 <= query.ndim <= 4 or not query.ndim == key.ndim == value.ndim:
        shapes = ", ".join(str(tuple(x.shape)) for x in (query, key, value))
        raise ValueError(f"query, key and value must all have 2, 3 or 4 dimensions, got {shapes}")
    if is_causal and attn_mask is not None:
        raise ValueError("is_causal cannot be combined with attn_mask; make the mask causal instead")
    if attn_mask is not None and attn_mask.dtype != torch.bool and not is_wide_floating(attn_mask):
        raise TypeError(
            f"attn_mask must be boolean, True where attended, or floating of 16 bits or more, got {attn_mask.dtype}"
        )
    check_mask_device("attn_mask", attn_mask, query.device)


def is_wide_floating(x: Tensor) -> bool:
    """Return whether a tensor is floating-point, in 16 bits or more: torch does not compute in fewer."""
    return x.is_floating_point() and x.dtype.itemsize > 1


def mask_and_bias(mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Split a mask into a boolean one, if any, and a bias, which is None if it is known to be 0 everywhere."""
    if mask is None:
        return None, None
    if not mask.requires_grad:
        mask = without_repetition(mask)
    if mask.dtype == torch.bool:
        return mask, None
    attended = attended_by(mask)
    bias = torch.where(attended, mask, 0.0)
    return attended, bias if mask.requires_grad or is_in_graph() or is_bias(bias) else None
