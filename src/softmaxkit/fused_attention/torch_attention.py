"""Attention by torch: its own for softmax, and for any other normalisation one stripe of queries at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from softmaxkit.kernels.backends import is_in_graph
from softmaxkit.kernels.codes import Cached
from softmaxkit.masks import expand_mask, unexpanded_mask
from softmaxkit.methods.base.stripes import is_eager

STRIPE = 1 << 22
"""Maximum number of scores in memory at once, apart from those kept for gradients."""

KEPT = 1 << 27
"""Number of scores up to which gradients keep all of them; more are computed again, 1.7 times as long."""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_autocast(kind: str) -> bool:
    """Return whether a type of device has autocast; Dynamo of torch 2.9 does not trace the question."""
    return torch.amp.is_autocast_available(kind)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which products keep the dtype of their operands, which autocast would narrow."""
    return torch.autocast(device.type, enabled=False) if has_autocast(device.type) else nullcontext()


def attend_by_stripes(
    normalise: Callable[[Tensor, Tensor | None], Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
) -> Tensor:
    """Compute attention with any function that normalises (scores, mask); arguments as in `attention`.

    Scores and weights are at least float32, under autocast too. Source: Rabe & Staats 2021, arXiv 2112.05682.

    Raises:
        ValueError: the mask or the bias does not broadcast to the scores.
    """
    batch, heads, queries = query.shape[:3]
    shape, key_heads, dtype = (batch, heads, queries, key.shape[2]), key.shape[1], query.dtype
    mask, bias = (None if x is None else unexpanded_mask(x, shape) for x in (mask, bias))
    wide = torch.promote_types(dtype, torch.float32)
    query, key, value = query.to(wide) * scale, key.to(wide).mT, value.to(wide)
    rows = max(1, STRIPE // max(1, batch * heads * key.shape[3]))

    def attend(first: int, stripe: Tensor, attended: Tensor | None, added: Tensor | None) -> Tensor:
        count = stripe.shape[2]
        keys = min(first + count, shape[3]) if is_causal else shape[3]  # that any of these queries attends to
        # Query heads that share a key head form one matrix, so that keys are not copied for each of them.
        together = heads // key_heads * count
        scores = (stripe.reshape(batch, key_heads, together, stripe.shape[3]) @ key[..., :keys]).reshape(
            *shape[:2], count, keys
        )
        if added is not None:
            scores = scores + added[..., :keys]
        if is_causal:
            attended = torch.ones(count, keys, dtype=torch.bool, device=scores.device).tril(first)
        probabilities = functional.dropout(normalise(scores, attended), dropout_p)
        output = probabilities.reshape(batch, key_heads, together, keys) @ value[:, :, :keys]
        return output.reshape(batch, heads, count, value.shape[3])

    run: Callable[..., Tensor] = attend
    is_large = math.prod(shape) > KEPT and queries > rows
    if torch.is_grad_enabled() and is_large and is_eager():
        run = partial(checkpoint, attend, use_reentrant=False, preserve_rng_state=bool(dropout_p))
    firsts = range(0, queries, rows)
    stripes = zip(firsts, *(_stripes(x, rows, len(firsts)) for x in (query, mask, bias)), strict=True)
    with without_autocast(query.device):
        if torch.is_grad_enabled() or not is_eager():
            output = torch.cat([query.new_zeros(batch, heads, 0, value.shape[3]), *(run(*x) for x in stripes)], dim=2)
        else:  # outputs that stay between the scores of stripes would keep the memory of all of these in use
            output = query.new_empty(batch, heads, queries, value.shape[3])
            for part, stripe in zip(output.split(rows, dim=2), stripes, strict=False):
                part.copy_(run(*stripe))
    return zero_fully_masked(output, mask).to(dtype)


def _stripes(tensor: Tensor | None, rows: int, count: int) -> Sequence[Tensor | None]:
    """Split the queries of a tensor, or of a mask that may have one row for all of them, into `count` stripes."""
    if tensor is None or count < 2 or tensor.shape[2] == 1:
        return [tensor] * count
    return list(tensor.split(rows, dim=2))  # unlike slices, whose gradients would be as large as the whole, each


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
