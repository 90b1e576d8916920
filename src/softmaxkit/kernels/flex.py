"""Attention with unnormalised exponential weights, through torch's FlexAttention (Dong et al. 2024, arXiv 2412.05496).

FlexAttention returns softmax attention and its log-sum-exp, from which it follows that
`exp(s - offset) @ v = softmax(s) @ v * exp(logsumexp(s) - offset)`. Limiting the weights means limiting the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._dynamo import config as dynamo_config
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention
from torch.utils.weak import WeakTensorKeyDictionary

from softmaxkit.kernels.attention import AttentionCall, attention_scale, check_shapes
from softmaxkit.kernels.cards import is_captured
from softmaxkit.kernels.rows import check_offset
from softmaxkit.masks import expand_mask, unexpanded_mask

FORMS = 1024
"""How many kinds of calls (masks, dtypes, groups of heads, lengths) may be compiled; torch gives up after 8."""


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    call: AttentionCall,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return attention whose weights are defined by `call`; on CUDA differentiable, also with respect to the offset.

    The first call on CUDA compiles, which may take a minute; on the CPU torch's unfused reference runs. Arguments,
    result and errors are those of `softmaxkit.kernels.triton.attention.attend`, except that the call must be
    `by_exponential`, and a mask excludes `is_causal`.
    """
    check_shapes(query, key, value)
    assert call.offset is not None
    offset = call.offset.to(query.device, torch.float32)
    check_offset(offset, query.shape[1])
    if mask is not None and is_causal:
        raise ValueError("pass either a mask or is_causal=True, not both")
    offset = offset.expand(query.shape[1])
    ceiling = (offset.detach() + call.log_limit).contiguous()
    factor = attention_scale(query, scale)
    blocks = _blocks(query, key, mask, is_causal)
    run = _run if query.device.type == "cpu" or torch.compiler.is_compiling() else _compiled()
    output, log_sums = run(query, key, value, ceiling, False, blocks, factor)
    if mask is not None:  # for a fully masked query: 0 times an infinite value is NaN
        output = output.masked_fill(log_sums[..., None] == -torch.inf, 0.0)
    sums = torch.exp(log_sums - offset[:, None])[..., None]
    result = output * sums
    if offset.requires_grad and torch.is_grad_enabled():
        # Differentiating `sums` lets every weight depend on the offset, but weights at the limit do not: add them back.
        with torch.no_grad():
            limited, log_counts = run(query, key, value, ceiling, True, blocks, factor)
            limited = limited * torch.exp(log_counts + call.log_limit)[..., None]
        result = result + (offset - offset.detach())[:, None, None] * limited
    return result.to(query.dtype)


def _run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ceiling: Tensor,
    only_above: bool,
    blocks: BlockMask | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Return softmax attention and the log-sum-exp of its rows, (batch, heads, queries).

    Args:
        query: as `attend`.
        key: as `attend`.
        value: as `attend`.
        ceiling: (heads,), the limit of each head's scores.
        only_above: replace scores above the ceiling by 0 and all others by -inf, instead of limiting the scores.
        blocks: which keys each query attends to; None for all.
        scale: factor of the scores.
    """

    def limit(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        highest = ceiling[head].to(score.dtype)
        return torch.where(score > highest, highest, score)  # equals `minimum`, NaN too, in half the instructions

    def above(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return torch.where(score > ceiling[head], 0.0, -torch.inf).to(score.dtype)

    output, auxiliary = flex_attention(
        query,
        key,
        value,
        score_mod=above if only_above else limit,
        block_mask=blocks,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
        return_aux=AuxRequest(lse=True),
    )
    assert auxiliary.lse is not None
    return output, auxiliary.lse


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., tuple[Tensor, Tensor]]:
    compiled: Callable[..., tuple[Tensor, Tensor]] = torch.compile(_run, fullgraph=True)

    def run(*arguments: Any) -> tuple[Tensor, Tensor]:
        with dynamo_config.patch(recompile_limit=FORMS, accumulated_recompile_limit=FORMS):
            return compiled(*arguments)

    return run


_of_masks: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Cached block masks by mask tensor, each with the tensor's version and shape: a model's layers share one mask."""


def _blocks(query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool) -> BlockMask | None:
    """Return the block mask of a mask or of causality; None if queries attend to all keys."""
    queries, keys = query.shape[2], key.shape[2]
    is_traced = torch.compiler.is_compiling() or is_captured(query.device)  # tensors of a graph stay in it
    if is_causal:
        return (_causal_blocks if is_traced else _kept_causal_blocks)(queries, keys, query.device)
    if mask is None:
        return None
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be boolean, True where attended, got {mask.dtype}")
    shape = (*query.shape[:2], queries, keys)
    if is_traced or mask.is_inference():  # tensors of inference mode have no version
        return _blocks_of(mask, shape)
    cached = _of_masks.get(mask)
    state = (mask._version, shape)
    if cached is None or cached[0] != state:
        with torch.inference_mode(False):  # they may later be used with gradients
            _of_masks[mask] = cached = (state, _blocks_of(mask.data, shape))  # a view would keep its mask alive
    blocks: BlockMask = cached[1]
    return blocks


def _blocks_of(mask: Tensor, shape: tuple[int, ...]) -> BlockMask:
    expanded = expand_mask(mask, shape)
    outer = unexpanded_mask(mask, shape).shape[:2]

    def is_attended(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        attended: Tensor = expanded[batch, head, row, column]
        return attended

    return create_block_mask(is_attended, outer[0], outer[1], shape[2], shape[3], device=mask.device)


@lru_cache(maxsize=64)
def _kept_causal_blocks(queries: int, keys: int, device: torch.device) -> BlockMask:
    with torch.inference_mode(False):  # they may later be used with gradients
        return _causal_blocks(queries, keys, device)


def _causal_blocks(queries: int, keys: int, device: torch.device) -> BlockMask:
    return create_block_mask(_is_causal, None, None, queries, keys, device=device)


def _is_causal(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return row >= column
