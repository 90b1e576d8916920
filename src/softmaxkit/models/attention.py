"""The attention function registered with transformers, which runs each layer's own softmax."""

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
except ImportError:  # transformers before 5.1 passes output_attentions to every layer
    output_capturing = None  # type: ignore[assignment]

from softmaxkit.fused_attention.call import IS_TORCHS_OWN, MASKED, after_a_look, choose, fused, scaled_dot_product
from softmaxkit.kernels.backends import Choice, only_torch, runs_on_gpu
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import attended_keys, masked_softmax
from softmaxkit.models.cache import read_by
from softmaxkit.models.running import warn_once

NAME = "softmaxkit"
"""Name of the attention function, of the mask function, and of the submodule added to attention layers."""

REFUSED = {
    "s_aux": "attention sinks",
    "sinks": "attention sinks",
    "indices": "sparse attention",
    "block_indices": "sparse attention",
    "cache": "a paged cache",
}
"""Arguments of an attention function that would change its result and that no method here supports."""

Watcher = Callable[[nn.Module, Tensor, Tensor, Tensor | None], None]
"""Called with an attention layer, its queries (batch, heads, queries, channels), its scores and its mask."""

ChoiceWatcher = Callable[[nn.Module, Choice], None]
"""Called with an attention layer and the back end chosen for its fused attention, or the reasons against each."""

_watcher: Watcher | None = None
_exact = False
_choice_watcher: ChoiceWatcher | None = None


class UnsupportedError(ValueError):
    """A method cannot be applied to this model."""


@contextmanager
def watching(watcher: Watcher, exact: bool = False) -> Iterator[None]:
    """Call a watcher at every call of an attention layer; with `exact`, every layer runs exact softmax meanwhile."""
    global _watcher, _exact
    _watcher, _exact = watcher, exact
    try:
        yield
    finally:
        _watcher, _exact = None, False


@contextmanager
def watching_choices(watcher: ChoiceWatcher) -> Iterator[None]:
    """Call a watcher with the back end chosen for fused attention, at every call of a layer that has a method."""
    global _choice_watcher
    _choice_watcher = watcher
    try:
        yield
    finally:
        _choice_watcher = None


def method_of(attention: nn.Module) -> SoftmaxModule | None:
    """Return an attention layer's softmax module, unwrapped from e.g. PEFT's wrappers; None if it has none."""
    module = attention._modules.get(NAME)
    while module is not None and not isinstance(module, SoftmaxModule):
        parts = module._modules
        adapters = parts.get("modules_to_save")  # PEFT's copies; only the active one trains and runs
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
    """Compute attention with the layer's own softmax, with the signature of a transformers attention function.

    Args:
        module: the attention layer; its `softmaxkit` submodule normalises the scores, or exact softmax if it has none.
        query: (batch, heads, queries, channels).
        key: (batch, key heads, keys, channels); each key head serves heads / key heads query heads. From a
            `QuantisedCache` this is a `CachedTensor`, whose codes fused attention reads directly for a few queries.
        value: (batch, key heads, keys, channels), like `key`.
        attention_mask: boolean (True attends) or additive, broadcastable to (batch, heads, queries, keys); or None.
        scaling: factor applied to the scores; 1/sqrt(channels) if None.
        dropout: dropout probability, applied only while the layer trains.
        softcap: if set, scores become `softcap * tanh(scores / softcap)`.
        position_bias: added to the scores.
        is_causal: without a mask, attend to no later key; if None, the layer's own `is_causal` decides.
        kwargs: the model's further arguments; those named in `REFUSED` raise an error unless they are None.

    Returns:
        The output, (batch, queries, heads, channels), and the probabilities, (batch, heads, queries, keys), or None
        if a fused kernel ran, which does not compute them.

    Raises:
        UnsupportedError: the model uses attention sinks, sparse attention or a paged cache.
    """
    for name, what in REFUSED.items():
        if kwargs.get(name) is not None:
            raise UnsupportedError(f"{type(module).__name__} uses {what}, which no method of softmaxkit supports")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    is_causal = bool(is_causal) and attention_mask is None and query.shape[2] > 1
    softmax: Any = None if _exact else module._modules.get(NAME)
    method = None if softmax is None else method_of(module)
    # A watcher, such as calibration, needs the scores, which a fused kernel never materialises.
    if method is not None and _watcher is None and _prefers_kernel(method, query):
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
        # The hardware's probabilities have up to 16 bits, which float32 represents exactly and half precision does not.
        probabilities = softmax(scores.float(), mask)
    else:
        probabilities = softmax(scores, mask).to(value.dtype)
    probabilities = nn.functional.dropout(probabilities, dropout, training=module.training)
    output = torch.matmul(probabilities, value.to(probabilities.dtype)).to(value.dtype)
    return output.transpose(1, 2).contiguous(), probabilities


def _prefers_kernel(method: SoftmaxModule, query: Tensor) -> bool:
    """Return whether to try a fused kernel; on GPUs in mode "float" too, where kernels have the same precision."""
    if method.observed or method._forward_hooks or method._forward_pre_hooks:
        return False  # calibration or a hook needs the scores and probabilities
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
    """Run a layer as fused attention; return None, with one warning, if no kernel can run it."""
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
    if call is not None and reasons:  # if the method has no fused kernel at all, that reason comes first
        choice = only_torch(query.device, *reasons)
    if _choice_watcher is not None:
        _choice_watcher(attention, after_a_look(call, choice, *operands, mask, causal, scaling))
    if call is not None and choice.kernel:
        return fused(call, choice, *operands, mask, causal, scaling, dropout)
    warns = method.mode == "fused" or _is_float_on_gpu(method, query)
    if warns and _choice_watcher is None and not torch.compiler.is_compiling():
        fallback = 'mode "fused" runs {} in float here' if method.mode == "fused" else "{} runs in plain torch here"
        warn_once(
            f"{fallback.format(method.spec.title)}: {'; '.join(choice.reasons(query.device))}. "
            "softmaxkit.models.fused_layers(model, inputs) lists the back end of each layer"
        )
    return None


def _reasons_against_fused(
    softcap: float | None, bias: Tensor | None, mask: Tensor | None, output_attentions: bool
) -> list[str]:
    """Return the reasons why a layer's call cannot run as fused attention, apart from those due to its tensors."""
    reasons = []
    if softcap is not None:
        reasons.append("the model caps its scores")
    if bias is not None or (mask is not None and mask.dtype != torch.bool):
        reasons.append("a bias or an additive mask is added to the scores")
    if output_attentions:
        reasons.append("output_attentions needs the probabilities, which a fused kernel does not compute")
    return reasons


def _are_captured() -> bool:
    """Return whether the running model collects attention probabilities; not every layer receives the argument."""
    collector = getattr(output_capturing, "_active_collector", None)
    collected = None if collector is None else collector.get()
    return collected is not None and any("attentions" in name for name in collected)


def _reasons_against_native(mode: str) -> list[str]:
    """Return the reasons against the native kernels, which compute in 8 bits and have no gradient."""
    reasons = [] if mode == "fused" else [f'its mode is "{mode}"']
    if torch.is_grad_enabled():
        reasons.append("gradients are enabled, and the kernel has none; run the model under torch.no_grad()")
    return reasons


def _warn_if_frozen(method: SoftmaxModule) -> None:
    """Warn, once, if a method's learned parameters are frozen while its layer trains."""
    learned = dict(method.named_parameters())
    if learned and not any(parameter.requires_grad for parameter in learned.values()):
        warn_once(
            f"{' and '.join(learned)} of {method.spec.title} are frozen while the model trains, as PEFT's "
            f'get_peft_model freezes them; to train them, set modules_to_save=["{NAME}"] in its config'
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
    """Return the boolean mask of transformers' `sdpa_mask`; None if a causal mask is all that is needed.

    `sdpa_mask` returns that None too, but not while a model is being compiled, where an explicit mask would cost
    the kernels their advantage.
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
