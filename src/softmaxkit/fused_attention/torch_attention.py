"""Attention by torch: its own for softmax, and for any other normalisation one stripe of queries at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from softmaxkit.fused_attention.autocast import without_autocast
from softmaxkit.fused_attention.recomputed import attend_again
from softmaxkit.fused_attention.stripes import Normalise, Stripes
from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.backends import is_in_graph, pick
from softmaxkit.kernels.codes import Cached
from softmaxkit.kernels.row_call import RowCall
from softmaxkit.masks import expand_mask, unexpanded_mask
from softmaxkit.methods.base.stripes import is_eager

STRIPE = 1 << 22
"""Maximum number of scores in memory at once, apart from those kept for gradients."""

KEPT = 1 << 24
"""Number of scores up to which gradients keep all of them on the CPU; to compute more of them again takes about as long
as to write them to new memory."""
KEPT_ON_CARDS = 1 << 27
"""The same on other devices, where it takes longer."""


def attend_by_stripes(
    normalise: Normalise | RowCall,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
    learned: Sequence[Tensor] = (),
    kept: int | None = None,
) -> Tensor:
    """Compute attention with any function that normalises (scores, mask), or a kernel; arguments as in `attention`.

    Scores and weights are at least float32, under autocast too. `learned` are tensors that a function uses and that may
    require gradients. Up to `kept` scores, gradients keep all of them, by default `KEPT` or `KEPT_ON_CARDS`.

    Raises:
        ValueError: the mask or the bias does not broadcast to the scores.
    """
    batch, heads, queries = query.shape[:3]
    shape, dtype = (batch, heads, queries, key.shape[2]), query.dtype
    mask, bias = (None if x is None else unexpanded_mask(x, shape) for x in (mask, bias))
    wide = torch.promote_types(dtype, torch.float32)
    operands = query.to(wide) * scale, key.to(wide), value.to(wide), bias
    rows = max(1, STRIPE // max(1, batch * heads * key.shape[2]))
    stripes = Stripes(normalise, learned, rows, mask, is_causal, dropout_p)
    if kept is None:
        kept = KEPT if query.device.type == "cpu" else KEPT_ON_CARDS
    is_again = has_gradients(*operands, *stripes.trained) and math.prod(shape) > kept
    with without_autocast(query.device):
        output = (attend_again if is_again else Stripes.output)(stripes, *operands)
    return zero_fully_masked(output, mask).to(dtype)


def row_kernel(call: AttentionCall | None, query: Tensor) -> RowCall | None:
    """Return the kernel that computes an attention's weights from whole scores; None if none runs on such tensors."""
    if call is None or call.form == "softmax":
        return None
    rows = RowCall.of_attention(call)
    return rows if pick(rows, query[:0].to(torch.promote_types(query.dtype, torch.float32))).kernel else None


def has_gradients(*operands: Tensor | None) -> bool:
    """Return whether a result of these tensors will have gradients, computed at once and not in a graph."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in operands) and is_eager()


def scaled_dot_product(
    base: float,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
) -> Tensor:
    """Run torch's own attention to a base; zeros for fully masked queries."""
    rate = math.log(base)
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and mask is not None and query.is_cuda:  # no fused kernel of torch takes both
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    shape = (*query.shape[:3], key.shape[2])
    of_shape = expand_mask if query.is_cuda else unexpanded_mask  # torch's kernels for GPUs align rows of masks
    mask, bias = (None if x is None else of_shape(x, shape) for x in (mask, bias))
    allowed = mask
    if bias is not None and mask is not None:
        allowed = torch.where(mask, bias, -torch.inf).mul_(rate).to(query.dtype)
    if scale <= 0 and (is_causal or query.is_cuda):  # torch's kernels mask and pad scores before they scale them
        query, scale = query * (-1.0 if scale else 0.0), -scale or 1.0
    grouped = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}  # Dynamo's symbols are no bool
    result = functional.scaled_dot_product_attention(
        query, key, value, allowed, dropout_p, is_causal, scale=scale * rate, **grouped
    )
    return zero_fully_masked(result, mask)


def without_repetition(mask: Tensor) -> Tensor:
    """Return a mask with axes of 1 where an expanded one repeats itself, except in graphs, which serve others too."""
    if is_in_graph() or all(mask.stride()):
        return mask
    return mask[tuple(slice(1 if step == 0 else None) for step in mask.stride())]


def is_bias(bias: Tensor) -> bool:
    """Return whether a bias changes any score, being other than 0 somewhere."""
    if bias.numel() == 0:
        return False
    low, high = torch.aminmax(bias)  # a fifth of the time of `any`; NaN is neither
    return not bool((low == 0) & (high == 0))


def zero_fully_masked(output: Tensor, mask: Tensor | None) -> Tensor:
    """Return an attention's output with zeros for fully masked queries, where 0 times an infinite value gives NaN."""
    return output if mask is None else torch.where(mask.any(-1, keepdim=True), output, 0.0)


def within_lengths(lengths: Tensor | None, key: Tensor | Cached, mask: Tensor | None) -> Tensor | None:
    """Return a mask, boolean or additive, that also hides the tokens of each sequence beyond its length, if any."""
    if lengths is None:
        return mask
    places = torch.arange(key.shape[2], device=key.device)
    seen = (places < lengths.to(key.device)[:, None])[:, None, None]
    if mask is None:
        return seen
    return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, -torch.inf)
