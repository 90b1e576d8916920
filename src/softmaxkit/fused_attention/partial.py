"""Attention over a part of the keys, whose states merge: for keys in chunks, on threads, or on other machines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softmaxkit.kernels.attention import check_shapes, default_scale
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
    """Attend to some of the keys; `merge` joins the states of all of them, `result()` gives the output.

    Args:
        query: floating, (batch, heads, queries, channels).
        key: some of the keys, (batch, heads, keys, channels).
        value: theirs, (batch, heads, keys, value channels).
        spec: the method.
        attn_mask: boolean, True where attended, broadcasts to (batch, heads, queries, keys).
        scale: factor of the scores; 1/sqrt(channels) if None.
        enable_gqa: keys and values may have fewer heads, each for as many consecutive heads of queries.
        parameters: the method's real numbers; for EXAQ `maximum` too, see `Exaq.partial`.

    Returns:
        The state of (batch, heads, queries) rows, of values.

    Raises:
        ValueError: shapes that do not go together, or a method whose rows do not come in parts.
        TypeError: a mask that is not boolean.
    """
    check_spec(spec)
    check_shapes(query, key, value)
    if query.shape[1] != key.shape[1] and not enable_gqa:
        raise ValueError(f"{query.shape[1]} heads of queries and {key.shape[1]} of keys go with enable_gqa=True")
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        raise TypeError(f"a mask is boolean, True where attended, not {attn_mask.dtype}")
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (key, value))
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = (query.to(wide) * (default_scale(query) if scale is None else scale)) @ key.to(wide).mT
    mask = None if attn_mask is None else expand_mask(attn_mask, tuple(scores.shape))
    return spec.partial(**parameters).update(scores, mask, value.to(wide))
