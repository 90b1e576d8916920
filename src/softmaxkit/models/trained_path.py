"""The path of an attention layer that trains on a CPU with long rows, whose gradients must not keep all scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from softmaxkit.fused_attention.prepared import mask_and_bias
from softmaxkit.fused_attention.torch_attention import (
    attend_by_stripes,
    has_gradients,
    row_kernel,
    scaled_dot_product,
)
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.numbers import is_sharded
from softmaxkit.models.fused_path import needs_scores

KEPT = 1 << 21
"""Number of scores of a layer up to which its gradients keep all of them, as the plain path of `attention_forward` does
in several tensors of that size: with more of them, to compute them again takes less time."""


def trained_output(
    method: SoftmaxModule,
    tensors: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    position_bias: Tensor | None,
    scaling: float,
    is_causal: bool,
    dropout: float,
) -> Tensor | None:
    """Compute a layer whose gradients compute scores again; None where they keep them, as on other devices.

    Only in float32 or wider, and without autocast: products of stripes are as wide.

    Args:
        method: the layer's softmax module.
        tensors: query, key and value, as for `attention_forward`.
        mask: boolean or additive, broadcastable to (batch, heads, queries, keys); or None.
        position_bias: added to the scores, likewise.
        scaling: factor applied to the scores.
        is_causal: attend to no later key.
        dropout: dropout probability.

    Returns:
        The output, (batch, heads, queries, channels), or None.
    """
    query, key, value = tensors
    if needs_scores(method):
        return None
    if any(type(x) not in (Tensor, nn.Parameter) or x.dtype not in (torch.float32, torch.float64) for x in tensors):
        return None
    if query.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return None
    learned = tuple(method.parameters())
    if any(is_sharded(x) for x in learned):
        return None
    if math.prod(query.shape[:3]) * key.shape[2] <= KEPT or not has_gradients(*tensors, position_bias, *learned):
        return None
    attended, bias = mask_and_bias(mask)
    if position_bias is not None:
        bias = position_bias if bias is None else position_bias + bias
    given = query, key, value, attended, bias, dropout, is_causal, scaling
    if method.mode != "integer" and method.softmax_base is not None:
        return scaled_dot_product(method.softmax_base, *given)
    rows = None if method.mode == "integer" else row_kernel(method.attention_call(), query)
    return attend_by_stripes(rows or method, *given, learned, KEPT)
