"""Attention of exponentials without a sum through torch's FlexAttention (Dong et al. 2024, arXiv 2412.05496).

Softmax attention that returns its log-sum is such attention too: `softmax(s) @ v * exp(logsumexp(s) - offset)` is
`exp(s - offset) @ v`, and the largest weight is a limit of the scores themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention
from torch.utils.weak import WeakTensorKeyDictionary

from softmaxkit.kernels.attention import AttentionCall, check_shapes, default_scale
from softmaxkit.masks import expand_mask


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    call: AttentionCall,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return attention with weights as `call` says; differentiable on CUDA, by the call's offset too.

    Compiled at the first call on CUDA, a minute perhaps; on the CPU torch's unfused form runs. Arguments, result and
    errors as `softmaxkit.kernels.triton.attention.attend`; calls by levels are not for it.
    """
    check_shapes(query, key, value)
    assert call.offset is not None
    offset = call.offset.to(query.device, torch.float32)
    if offset.shape not in ((), (query.shape[1],)):
        raise ValueError(f"offsets are ({query.shape[1]},) or one number, not {tuple(offset.shape)}")
    offset = offset.expand(query.shape[1])
    ceiling = (offset.detach() + call.log_limit).contiguous()
    factor = default_scale(query) if scale is None else scale
    blocks = _blocks(query, key, mask, is_causal)
    run = _run if query.device.type == "cpu" or torch.compiler.is_compiling() else _compiled()
    output, log_sums = run(query, key, value, ceiling, False, blocks, factor)
    shares = torch.exp(log_sums - offset[:, None])[..., None]
    result = output * shares
    if offset.requires_grad and torch.is_grad_enabled():
        # What is at the limit does not change with the offset, though every weight above does.
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
    """Return softmax attention and its log-sums.

    Args:
        query: as `attend`.
        key: as `attend`.
        value: as `attend`.
        ceiling: (heads,), the largest score of a head.
        only_above: give every key above the ceiling the score 0, and no other any weight.
        blocks: which keys queries attend to; None for all.
        scale: factor of the scores.
    """

    def limit(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        highest = ceiling[head].to(score.dtype)
        return torch.where(score > highest, highest, score)  # as `minimum`, NaN and all, in half the instructions

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
    return compiled


_of_masks: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Blocks made for masks, with the version of the mask: the layers of a model share one."""


def _blocks(query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool) -> BlockMask | None:
    """Return which blocks of keys queries attend to; None for all."""
    queries, keys = query.shape[2], key.shape[2]
    if is_causal:
        make = _causal_blocks.__wrapped__ if torch.compiler.is_compiling() else _causal_blocks
        causal: BlockMask = make(queries, keys, query.device)
        return causal
    if mask is None:
        return None
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask is boolean, True where attended, not {mask.dtype}")
    shape = (*query.shape[:2], queries, keys)
    if torch.compiler.is_compiling():
        return _blocks_of(mask, shape)
    kept = _of_masks.get(mask)
    state = (mask._version, shape)
    if kept is None or kept[0] != state:
        _of_masks[mask] = kept = (state, _blocks_of(mask, shape))
    blocks: BlockMask = kept[1]
    return blocks


def _blocks_of(mask: Tensor, shape: tuple[int, ...]) -> BlockMask:
    wide = expand_mask(mask, shape)
    outer = mask[(None,) * (4 - mask.ndim)].shape[:2] if mask.ndim < 4 else mask.shape[:2]

    def is_seen(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        seen: Tensor = wide[batch, head, row, column]
        return seen

    return create_block_mask(is_seen, outer[0], outer[1], shape[2], shape[3], device=mask.device)


@lru_cache(maxsize=64)
def _causal_blocks(queries: int, keys: int, device: torch.device) -> Any:
    return create_block_mask(_is_causal, None, None, queries, keys, device=device)


def _is_causal(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return row >= column
