"""Attention on the Triton kernels as PyTorch operators, with fake tensors, autograd and torch.compile."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from softmaxkit.kernels.attention import AttentionCall, are_few, attention_scale, check_shapes
from softmaxkit.kernels.builds import VARIABLE
from softmaxkit.kernels.codes import Cached
from softmaxkit.kernels.launch import side_by_side
from softmaxkit.kernels.operator import operator
from softmaxkit.kernels.triton.attention_backward import keys_backward, queries_backward
from softmaxkit.kernels.triton.attention_forward import attention_forward
from softmaxkit.kernels.triton.blocks import Blocks, blocks_for, forward_table, plan_for
from softmaxkit.kernels.triton.decode import attend as attend_few
from softmaxkit.kernels.triton.launch import (
    FUSED,
    LOG2_E,
    in_binary_logarithms,
    levels_of,
    limit_of,
    mask_bytes,
    numbers_of_heads,
    on_device_of,
    precision,
    tiles_of,
    width,
)


def attend(
    query: Tensor,
    key: Tensor | Cached,
    value: Tensor | Cached,
    call: AttentionCall,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    lengths: Tensor | None = None,
) -> Tensor:
    """Compute attention with the weights that `call` defines; differentiable, with respect to its offset too.

    Args:
        query: float32, bfloat16 or float16 on CUDA, (batch, heads, queries, channels), up to 256 channels.
        key: same dtype, (batch, key heads, keys, channels); every key head serves equally many consecutive query heads.
        value: same dtype, (batch, key heads, keys, value channels), up to 256 channels. With few queries, no dropout
            and no gradients, key and value may be caches of codes, contiguous or paged.
        call: how scores become weights.
        mask: boolean, True where attended, broadcastable to (batch, heads, queries, keys).
        is_causal: whether a query attends only to keys up to its own index.
        scale: multiplies the query-key products; 1/sqrt(channels) if None.
        dropout: probability of zeroing a weight; the other weights are divided by 1 - dropout.
        lengths: with few queries only, as in `softmaxkit.kernels.triton.decode.attend`.

    Returns:
        (batch, heads, queries, value channels); zeros for a query that attends to no key, NaN where NaN is attended.

    Raises:
        TypeError, ValueError: a dtype or device is not supported, or shapes do not match.
    """
    check_shapes(query, key, value)
    if are_few(query, key) and not dropout and not _asks_for_gradients(query, key, value, call.offset):
        return attend_few(query, key, value, call, mask, is_causal, scale, lengths)
    assert lengths is None
    assert isinstance(key, Tensor)
    assert isinstance(value, Tensor)
    factor = attention_scale(query, scale)
    seed = torch.randint(1 << 31, (1,), device=query.device) if dropout else None
    how = (call.form, *levels_of(call), call.log_limit, is_causal, factor, dropout)
    output, _, _ = attention(query, key, value, numbers_of_heads(call, query), mask, seed, *how)
    result: Tensor = output
    return result


@operator("cpu", "cuda")
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    of_heads: Tensor | None,
    mask: Tensor | None,
    seed: Tensor | None,
    form: str,
    levels: int,
    from_zero: bool,
    log_limit: float,
    is_causal: bool,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `attend`; also return each row's highest score, in levels, and sum of weights; empty without levels."""
    if form == "levels" and scale < 0:
        query, scale = -query, -scale  # so that the highest product gives the highest score
    query, key, value = (side_by_side(x) for x in (query, key, value))
    output, highest, total = _results(query, value, form)
    if output.numel() == 0 or key.shape[2] == 0:
        return output.zero_(), highest.zero_(), total.zero_()
    table = forward_table(query.device, form, is_plain=mask is None and seed is None)
    blocks = blocks_for(table, query.dtype, max(query.shape[3], value.shape[3]))
    count = triton.cdiv(query.shape[2], blocks.rows)
    logarithms = in_binary_logarithms(of_heads, query)
    bits, strides = mask_bytes(mask, (*query.shape[:3], key.shape[2]), query)
    described, tiles, distances = tiles_of((key, value), blocks.columns)
    with on_device_of(query):
        attention_forward[(count * query.shape[0] * query.shape[1],)](
            *(query, key, value, *tiles, logarithms, bits, query if seed is None else seed, output, highest, total),
            *(stride for x in (query, key, value, output) for stride in x.stride()[:3]),
            *distances,
            *strides,
            int(logarithms.numel() > 1),
            *(query.shape[1], query.shape[1] // key.shape[1], query.shape[2], key.shape[2], count),
            *(scale * LOG2_E, limit_of(levels, log_limit), dropout),
            DESCRIBED=described,
            **_constants(query, value, form, from_zero, is_causal, mask, seed, blocks),
        )
    return output, highest, total


@operator("cpu", "cuda")
def attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    highest: Tensor,
    total: Tensor,
    of_heads: Tensor | None,
    mask: Tensor | None,
    seed: Tensor | None,
    form: str,
    levels: int,
    from_zero: bool,
    log_limit: float,
    is_causal: bool,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values, and the row sums of the score gradients, float32."""
    query, key, value, gradient = (side_by_side(x) for x in (query, key, value, gradient.to(query.dtype)))
    batch, heads, queries, channels = query.shape
    key_heads, keys = key.shape[1:3]
    sums = query.new_zeros((batch, heads, queries), dtype=torch.float32)
    if not (gradient.numel() and keys and channels):
        return query.new_zeros(query.shape), key.new_zeros(key.shape), value.new_zeros(value.shape), sums
    of_query, of_key, of_value = (x.new_empty(x.shape) for x in (query, key, value))
    limit, logarithms = limit_of(levels, log_limit), in_binary_logarithms(of_heads, query)
    if form == "levels":
        inverse = torch.where(total > 0, 1 / total, 0.0)
        shift, mean = highest - limit, (gradient.float() * output.float()).sum(-1).contiguous()
    else:
        inverse = mean = sums  # neither is read
        shift = logarithms[:, None].expand(batch, heads, queries).contiguous()
    bits, strides = mask_bytes(mask, (batch, heads, queries, keys), query)
    operands = (query, key, value, gradient)
    of_rows = (logarithms, shift, inverse, mean, bits, query if seed is None else seed)
    places = tuple(stride for x in operands for stride in x.stride()[:3])
    groups, plan, widest = heads // key_heads, plan_for(query.device), max(channels, value.shape[3])

    def launch(kernel: Any, blocks: Blocks, taken: tuple[Tensor, ...], rows: int, results: Any, sizes: Any) -> None:
        described, tiles, distances = tiles_of(taken, rows)
        kernel[(batch * math.prod(sizes[:2]),)](
            *(*operands, *tiles, *of_rows, *results, *places, *distances, *strides, int(logarithms.numel() > 1)),
            *(sizes[1], groups, queries, keys, sizes[0], scale * LOG2_E, limit, scale, dropout),
            DESCRIBED=described,
            **_constants(query, value, form, from_zero, is_causal, mask, seed, blocks),
        )

    with on_device_of(query):
        blocks = blocks_for(plan.queries, query.dtype, widest)
        sizes = (triton.cdiv(queries, blocks.rows), heads)
        launch(queries_backward, blocks, (key, value), blocks.columns, (of_query, sums), sizes)
        blocks = blocks_for(plan.keys, query.dtype, widest)
        sizes = (triton.cdiv(keys, blocks.columns), key_heads)
        launch(keys_backward, blocks, (query, gradient), blocks.rows, (of_key, of_value), sizes)
    return of_query, of_key, of_value, sums


def _asks_for_gradients(*operands: Tensor | Cached | None) -> bool:
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in operands)


def _results(query: Tensor, value: Tensor, form: str) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate the output, with heads adjacent as models concatenate them, and the row statistics of levels."""
    batch, heads, queries, _ = query.shape
    output = query.new_empty((batch, queries, heads, value.shape[3])).transpose(1, 2)
    rows = (batch, heads, queries) if form == "levels" else (0,)
    highest, total = (query.new_empty(rows, dtype=torch.float32) for _ in range(2))
    return output, highest, total


def _constants(
    query: Tensor,
    value: Tensor,
    form: str,
    from_zero: bool,
    is_causal: bool,
    mask: Tensor | None,
    seed: Tensor | None,
    blocks: Blocks,
) -> dict[str, Any]:
    return {
        "FORM": form,
        "FROM_ZERO": from_zero,
        "DROPOUT": seed is not None,
        "CAUSAL": is_causal,
        "MASKED": mask is not None,
        "PRECISION": precision(),
        "CHANNELS": query.shape[3],
        "WIDTH": width(query.shape[3]),
        "VALUE_CHANNELS": value.shape[3],
        "VALUE_WIDTH": width(value.shape[3]),
        "ROWS": blocks.rows,
        "COLUMNS": blocks.columns,
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
        **FUSED,
    }


@attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, of_heads: Any, mask: Any, seed: Any, form: str, *rest: Any) -> Any:
    return _results(query, value, form)


@attention_backward.register_fake
def _(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> Any:
    results = (x.new_empty(x.shape) for x in (query, key, value))
    return (*results, query.new_empty(query.shape[:3], dtype=torch.float32))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, value, of_heads, mask, seed, *ctx.rest = inputs
    ctx.save_for_backward(query, key, value, *output, of_heads, mask, seed)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Any, ...]:
    nothing = (None,) * 9
    if gradient is None:
        return (None,) * 4 + nothing
    if torch.is_grad_enabled():  # create_graph: the result would silently have no gradient
        raise RuntimeError(
            "softmaxkit's attention kernels have no second derivative, which create_graph=True asks for; run with "
            f"{VARIABLE}=none in the environment, and torch computes attention"
        )
    of_heads, form = ctx.saved_tensors[6], ctx.rest[0]
    *of_tensors, sums = attention_backward(gradient, *ctx.saved_tensors, *ctx.rest)
    of_offset = None
    if form != "levels" and of_heads is not None:
        of_every_head = -sums.sum((0, 2))
        of_offset = (of_every_head if of_heads.ndim else of_every_head.sum()).to(of_heads.device, of_heads.dtype)
    return (*of_tensors, of_offset, *nothing)


attention.register_autograd(_gradients, setup_context=_keep)
