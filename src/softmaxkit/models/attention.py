"""The attention function that transformers calls, which runs each layer's own softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

try:
    from transformers.utils import output_capturing
except ImportError:  # before 5.1, whose layers all hear of it
    output_capturing = None  # type: ignore[assignment]

from softmaxkit.fused_attention.call import IS_TORCHS_OWN, MASKED, after_a_look, choose, fused, scaled_dot_product
from softmaxkit.kernels.backends import Choice, only_torch, runs_on_gpu
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import attended_keys, masked_softmax
from softmaxkit.models.cache import read_by
from softmaxkit.models.running import warn_once

NAME = "softmaxkit"
"""Name of the attention function, of the mask function, and of the submodule that attention layers get."""

REFUSED = {
    "s_aux": "attention sinks",
    "sinks": "attention sinks",
    "indices": "sparse attention",
    "block_indices": "sparse attention",
    "cache": "a paged cache",
}
"""What a model may ask of its attention function that changes the result and that no method here has."""

Watcher = Callable[[nn.Module, Tensor, Tensor, Tensor | None], None]
"""Called with an attention layer, its queries (batch, heads, queries, channels) and scores, and its mask."""

ChoiceWatcher = Callable[[nn.Module, Choice], None]
"""Called with an attention layer and the back end that its fused attention would run on, or why it would not."""

_watcher: Watcher | None = None
_exact = False
_choice_watcher: ChoiceWatcher | None = None


class UnsupportedError(ValueError):
    """A model that a method cannot be put into."""


@contextmanager
def watching(watcher: Watcher, exact: bool = False) -> Iterator[None]:
    """Call a watcher at every call of an attention layer; with `exact`, all layers run exact softmax meanwhile."""
    global _watcher, _exact
    _watcher, _exact = watcher, exact
    try:
        yield
    finally:
        _watcher, _exact = None, False


@contextmanager
def watching_choices(watcher: ChoiceWatcher) -> Iterator[None]:
    """Call a watcher with the choice of a back end for fused attention, at every call of a layer with a method."""
    global _choice_watcher
    _choice_watcher = watcher
    try:
        yield
    finally:
        _choice_watcher = None


def method_of(attention: nn.Module) -> SoftmaxModule | None:
    """Return the softmax module of an attention layer, inside any wrapper, such as PEFT's; None where it has none."""
    module = attention._modules.get(NAME)
    while module is not None and not isinstance(module, SoftmaxModule):
        parts = module._modules
        adapters = parts.get("modules_to_save")  # PEFT's copies, of which one is trained and runs
        active = getattr(module, "active_adapters", None)
        if isinstance(adapters, nn.ModuleDict) and active and active[0] in adapters and not module.disable_adapters:
            module = adapters[active[0]]
        else:
            module = parts.get("original_module") or next(iter(parts.values()), None)
    return module


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
        key: (batch, key heads, keys, channels), expanded by `module.num_key_value_groups`; of an `QuantisedCache`, a
            `CachedTensor`, whose codes fused attention of a few queries reads.
        value: (batch, key heads, keys, channels), likewise.
        attention_mask: boolean (True attends) or additive, broadcasts to (batch, heads, queries, keys); or None.
        scaling: factor of the scores; 1/sqrt(channels) if None.
        dropout: probability, while the layer trains.
        softcap: scores become `softcap * tanh(scores / softcap)`.
        position_bias: added to the scores.
        is_causal: with no mask, attend to no later key; if None, as the layer says of itself in `is_causal`.
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
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    is_causal = bool(is_causal) and attention_mask is None and query.shape[2] > 1
    softmax: Any = None if _exact else module._modules.get(NAME)
    method = None if softmax is None else method_of(module)
    # Where scores are watched, as by calibration, they have to be there.
    if method is not None and _watcher is None and _asks_for_kernels(method, query):
        output = _fused_output(
            module,
            method,
            (query, key, value),
            attention_mask,
            scaling,
            is_causal,
            dropout if module.training else 0.0,
            _reasons_against_fused(
                softcap, position_bias, attention_mask, bool(kwargs.get("output_attentions")) or _are_captured()
            ),
        )
        if output is not None:
            return output.transpose(1, 2).contiguous(), None
    if method is not None and module.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        _warn_if_frozen(method)
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
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if _watcher is not None:
        _watcher(module, query, scores, mask)
    if softmax is None:
        probabilities = masked_softmax(scores.float(), attended_keys(scores, mask)).to(value.dtype)
    elif method is not None and method.observed:
        probabilities = method.observe(scores, mask, value).to(value.dtype)
    elif method is not None and method.mode == "integer":
        # The gates' numbers have up to 16 bits: float32 holds them, half precision would not.
        probabilities = softmax(scores.float(), mask)
    else:
        probabilities = softmax(scores, mask).to(value.dtype)
    probabilities = nn.functional.dropout(probabilities, dropout, training=module.training)
    output = torch.matmul(probabilities, value.to(probabilities.dtype)).to(value.dtype)
    return output.transpose(1, 2).contiguous(), probabilities


def _asks_for_kernels(method: SoftmaxModule, query: Tensor) -> bool:
    """Is a layer's attention to run in a kernel? On GPUs always in float, since kernels there have its precision."""
    if method.observed or method._forward_hooks or method._forward_pre_hooks:
        return False  # somebody is to see scores and probabilities
    return method.mode == "fused" or _choice_watcher is not None or _is_float_on_gpu(method, query)


def _is_float_on_gpu(method: SoftmaxModule, query: Tensor) -> bool:
    return method.mode == "float" and runs_on_gpu(query.device)


def _fused_output(
    attention: nn.Module,
    method: SoftmaxModule,
    tensors: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    scaling: float,
    causal: bool,
    dropout: float,
    reasons: list[str],
) -> Tensor | None:
    """Run a layer as fused attention; None, with one warning, where that is not possible for some reasons."""
    query, key, value = tensors
    base = method.softmax_base
    if base is not None and method.mode != "integer" and runs_on_gpu(query.device) and not reasons:
        if _choice_watcher is not None:
            _choice_watcher(attention, only_torch(query.device, IS_TORCHS_OWN))
        return scaled_dot_product(base, query, key, value, mask, None, dropout, causal, scaling)
    operands = query, read_by(query, key), read_by(query, value)
    call, choice = choose(
        method, *operands, dropout_p=dropout, scale=scaling, native_reasons=_reasons_against_native(method.mode)
    )
    if call is not None and reasons:  # a method without any such kernel says so before all else
        choice = only_torch(query.device, *reasons)
    if _choice_watcher is not None:
        _choice_watcher(attention, after_a_look(call, choice, *operands, mask, causal, scaling))
    if call is not None and choice.kernel:
        return fused(call, choice, *operands, mask, causal, scaling, dropout)
    warns = method.mode == "fused" or _is_float_on_gpu(method, query)
    if warns and _choice_watcher is None and not torch.compiler.is_compiling():
        how = 'mode "fused" runs {} in float here' if method.mode == "fused" else "{} runs through plain torch here"
        warn_once(
            f"{how.format(method.spec.title)}: {'; '.join(choice.reasons(query.device))}. "
            "softmaxkit.models.fused_layers(model, inputs) says it layer by layer"
        )
    return None


def _reasons_against_fused(
    softcap: float | None, bias: Tensor | None, mask: Tensor | None, output_attentions: bool
) -> list[str]:
    """Return what keeps a call of a layer from fused attention, apart from its tensors."""
    reasons = []
    if softcap is not None:
        reasons.append("the model caps its scores")
    if bias is not None or (mask is not None and mask.dtype != torch.bool):
        reasons.append("a bias, or a mask of numbers, is added to the scores")
    if output_attentions:
        reasons.append("output_attentions asks for the probabilities, and a fused kernel has none")
    return reasons


def _are_captured() -> bool:
    """Does the model that runs collect its layers' probabilities? Not every layer hears of output_attentions."""
    collector = getattr(output_capturing, "_active_collector", None)
    collected = None if collector is None else collector.get()
    return collected is not None and any("attentions" in name for name in collected)


def _reasons_against_native(mode: str) -> list[str]:
    """Return what keeps a layer from the native kernels, which work in 8 bits and have no gradient."""
    reasons = [] if mode == "fused" else [f'its mode is "{mode}"']
    if torch.is_grad_enabled():
        reasons.append("gradients are on, and its kernel has none; run it under torch.no_grad()")
    return reasons


def _warn_if_frozen(method: SoftmaxModule) -> None:
    """Warn, once, where a method's learned parameters are frozen while its layer trains."""
    learned = dict(method.named_parameters())
    if learned and not any(parameter.requires_grad for parameter in learned.values()):
        warn_once(
            f"{' and '.join(learned)} of {method.spec.title} are frozen while the model trains, as PEFT's "
            f'get_peft_model freezes them; to train them, give its config modules_to_save=["{NAME}"]'
        )


def boolean_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **others: Any,
) -> Tensor | None:
    """Make the boolean mask of transformers' `sdpa_mask`; None where layers are causal and nothing else is masked.

    `sdpa_mask` gives that None too, but not while a model is compiled, where kernels lose by a mask what they win.
    """
    is_plain = attention_mask is None and local_size is None and q_length == kv_length
    if torch.compiler.is_compiling() and allow_is_causal_skip and is_plain and isinstance(q_offset, int):
        return None
    sizes = (batch_size, q_length, kv_length, q_offset)
    mask: Tensor | None = sdpa_mask(
        *sizes,  # type: ignore[arg-type, unused-ignore]
        attention_mask=attention_mask,
        local_size=local_size,
        allow_is_causal_skip=allow_is_causal_skip,
        **others,
    )
    return mask


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, boolean_mask)
