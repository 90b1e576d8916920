"""The attention function that transformers calls, which runs each layer's own softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from softmaxkit.attention.call import MASKED, fused
from softmaxkit.methods.base.rows import attended_keys, masked_softmax

NAME = "softmaxkit"
"""Name of the attention function, of the mask function, and of the submodule hung on attention layers."""

REFUSED = {
    "s_aux": "attention sinks",
    "sinks": "attention sinks",
    "indices": "sparse attention",
    "block_indices": "sparse attention",
    "cache": "a paged cache",
}
"""What a model may ask of its attention function that changes the result and that no method here has."""

Watcher = Callable[[nn.Module, Tensor, Tensor, Tensor | None], None]
"""Called with an attention layer, its queries (batch, heads, queries, channels) and scores, and what is masked."""

_watcher: Watcher | None = None
_exact = False


class UnsupportedError(ValueError):
    """A model that a method cannot be put into."""


@contextmanager
def watching(watcher: Watcher, exact: bool = False) -> Iterator[None]:
    """Let something see every call of an attention layer; with `exact`, all of them run exact softmax meanwhile."""
    global _watcher, _exact
    _watcher, _exact = watcher, exact
    try:
        yield
    finally:
        _watcher, _exact = None, False


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention with the layer's own softmax; an attention function as transformers calls it.

    Args:
        module: the attention layer; its `softmaxkit` submodule normalises, or exact softmax where it has none.
        query: (batch, heads, queries, channels).
        key: (batch, key heads, keys, channels), expanded by `module.num_key_value_groups`.
        value: (batch, key heads, keys, channels), likewise.
        attention_mask: boolean (True attends) or additive, broadcasts to (batch, heads, queries, keys); or None.
        scaling: factor of the scores; 1/sqrt(channels) if None.
        dropout: probability, while the layer trains.
        softcap: scores become `softcap * tanh(scores / softcap)`.
        position_bias: added to the scores.
        is_causal: with no mask, attend to no later key.
        kwargs: what else a model passes along; what is in `REFUSED` is refused.

    Returns:
        The output, (batch, queries, heads, channels), and the probabilities, (batch, heads, queries, keys); None of a
        fused kernel, which has none.

    Raises:
        UnsupportedError: the model asks for attention sinks, sparse attention or a paged cache.
    """
    for name, what in REFUSED.items():
        if kwargs.get(name) is not None:
            raise UnsupportedError(f"{type(module).__name__} asks for {what}, which no method of softmaxkit has")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    softmax: Any = None if _exact else module._modules.get(NAME)
    plain = softcap is None and position_bias is None and (attention_mask is None or attention_mask.dtype == torch.bool)
    seen = _watcher is not None or bool(kwargs.get("output_attentions")) or torch.is_grad_enabled()
    if softmax is not None and softmax.mode == "fused" and plain and not seen and not (module.training and dropout):
        made = fused(softmax, query, key, value, attention_mask, bool(is_causal) and query.shape[2] > 1, scaling)
        if made is not None:
            return made.transpose(1, 2).contiguous(), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if position_bias is not None:
        scores = scores + position_bias
    mask = attention_mask
    if mask is not None and mask.dtype != torch.bool:
        scores, mask = scores + mask, mask > max(torch.finfo(mask.dtype).min / 2, MASKED)
    if mask is None and is_causal and query.shape[2] > 1:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if _watcher is not None:
        _watcher(module, query, scores, mask)
    if softmax is None:
        probabilities = masked_softmax(scores.float(), attended_keys(scores, mask)).to(value.dtype)
    elif softmax.mode == "integer":
        # The gates' numbers have up to 16 bits: float32 holds them, half precision would not.
        probabilities = softmax(scores.float(), mask)
    else:
        probabilities = softmax(scores, mask).to(value.dtype)
    probabilities = nn.functional.dropout(probabilities, dropout, training=module.training)
    output = torch.matmul(probabilities, value.to(probabilities.dtype)).to(value.dtype)
    return output.transpose(1, 2).contiguous(), probabilities


def boolean_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """Make the boolean mask of `sdpa_mask`, always whole: it may not leave causality to the attention function."""
    made: Tensor | None = sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})
    return made


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, boolean_mask)
