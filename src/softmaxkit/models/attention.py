"""The attention function registered with transformers, which runs each layer's own softmax."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from softmaxkit.fused_attention.autocast import without_autocast
from softmaxkit.masks import attended_by
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import attended_keys, masked_softmax
from softmaxkit.methods.base.stripes import is_eager
from softmaxkit.models.fused_path import fused_output, needs_probabilities, prefers_kernel, reasons_against_fused
from softmaxkit.models.running import OfThread, warn_once
from softmaxkit.models.trained_path import trained_output

NAME = "softmaxkit"
"""Name of the attention function, of the mask function, and of the submodule added to attention layers."""

REFUSED = {
    "s_aux": "attention sinks",
    "sinks": "attention sinks",
    "indices": "sparse attention",
    "block_indices": "sparse attention",
    "block_table": "a paged cache",  # `cache` alone is no sign of one: Kosmos-2 hands its decoder's to its vision tower
    "write_index": "a paged cache",
}
"""Arguments of an attention function that would change its result and that no method here supports."""

Watcher = Callable[[nn.Module, Tensor, Tensor, Tensor | None], None]
"""Called with an attention layer, its queries (batch, heads, queries, channels), its scores and its mask."""

_watching: OfThread[tuple[Watcher, bool]] = OfThread()
"""The watcher of every call of an attention layer, and whether exact softmax runs meanwhile."""

_on_sdpa: dict[type[PreTrainedConfig], bool] = {}
"""Results of `_runs_on_sdpa`."""


class UnsupportedError(ValueError):
    """A method cannot be applied to this model."""


def watching(watcher: Watcher, exact: bool = False) -> AbstractContextManager[None]:
    """Call a watcher at every call of an attention layer; with `exact`, every layer runs exact softmax meanwhile.

    This concerns the models that run in this thread.
    """
    return _watching.set((watcher, exact))


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
        is_causal: without a mask, query i attends to keys 0 to i, or the last query to all where a model drops the
            first ones; if None, the layer's own `is_causal` decides.
        kwargs: the model's further arguments; those named in `REFUSED` raise an error unless they are None.

    Returns:
        The output, (batch, queries, heads, channels), and the probabilities, (batch, heads, queries, keys), or None
        if a fused kernel ran, which does not compute them, or if gradients were not to keep them.

    Raises:
        UnsupportedError: the model uses attention sinks, sparse attention or a paged cache.
    """
    for name, what in REFUSED.items():
        if kwargs.get(name) is not None:
            raise UnsupportedError(f"{type(module).__name__} uses {what}, which no method of softmaxkit supports")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    is_causal = bool(is_causal) and attention_mask is None and query.shape[2] > 1
    free = 0
    if is_causal and query.shape[2] < key.shape[2]:
        if _drops_queries(getattr(module, "config", None)):
            attention_mask, is_causal = _causal_mask(query, key), False
        else:  # as in torch's own; transformers makes no mask for a prompt in a static cache, whose free room these are
            free = key.shape[2] - query.shape[2]
            key, value = key[:, :, :-free], value[:, :, :-free]
            if position_bias is not None and position_bias.shape[-1] > 1:
                position_bias = position_bias[..., :-free]
    watcher, exact = _watching.get() or (None, False)
    softmax: Any = None if exact else module._modules.get(NAME)
    method = None if softmax is None else method_of(module)
    # A watcher, such as calibration, needs the scores, which a fused kernel never materialises.
    if method is not None and watcher is None and prefers_kernel(method, query):
        output = fused_output(
            module,
            method,
            (query, key, value),
            attention_mask,
            scaling,
            is_causal,
            dropout if module.training else 0.0,
            reasons_against_fused(softcap, position_bias, attention_mask, needs_probabilities(kwargs)),
        )
        if output is not None:
            return output.transpose(1, 2).contiguous(), None
    if method is not None and module.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        _warn_if_frozen(method)
    if method is not None and watcher is None and softcap is None and is_eager() and not needs_probabilities(kwargs):
        output = trained_output(
            method,
            (query, key, value),
            attention_mask,
            position_bias,
            scaling,
            is_causal,
            dropout if module.training else 0.0,
        )
        if output is not None:
            return output.transpose(1, 2).contiguous(), None
    if softmax is None and not exact and quantisation_of(module) == NAME:
        _warn_of_no_method(module)
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
        scores, mask = scores + mask, attended_by(mask)
    if is_causal:
        mask = _causal_mask(query, key)
    if watcher is not None:
        watcher(module, query, scores, mask)
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
    # Autocast would round the integers of the hardware to half precision.
    is_integer = method is not None and method.mode == "integer"
    with without_autocast(query.device) if is_integer else nullcontext():
        output = torch.matmul(probabilities, value.to(probabilities.dtype)).to(value.dtype)
    return output.transpose(1, 2).contiguous(), nn.functional.pad(probabilities, (0, free)) if free else probabilities


def _causal_mask(query: Tensor, key: Tensor) -> Tensor:
    """Return the boolean mask, (queries, keys), with which the last query attends to all keys."""
    queries, keys = query.shape[2], key.shape[2]
    return torch.ones((queries, keys), dtype=torch.bool, device=query.device).tril(keys - queries)


def quantisation_of(module: nn.Module) -> str | None:
    """Return the `quant_method` in the config of a model or of one of its layers; None without one.

    It is `NAME` in a model that transformers built from the config of a checkpoint with methods, and thus without them.
    """
    named = getattr(getattr(module, "config", None), "quantization_config", None)
    return None if named is None else dict(named).get("quant_method", "unknown")


def _warn_of_no_method(module: nn.Module) -> None:
    warn_once(
        f"{type(module).__name__} runs exact softmax: the model was built from the config of a checkpoint with "
        "methods, from which transformers builds none. softmaxkit.load(folder) and from_pretrained(folder) load the "
        "methods, softmaxkit.apply(model, spec) puts new ones in"
    )


def _warn_if_frozen(method: SoftmaxModule) -> None:
    """Warn, once, if a method's learned parameters are frozen while its layer trains."""
    learned = dict(method.named_parameters())
    if learned and not any(parameter.requires_grad for parameter in learned.values()):
        warn_once(
            f"the model trains without {' and '.join(learned)} of {method.spec.title}, frozen as by PEFT's "
            f'get_peft_model; to train everything, set modules_to_save=["{NAME}"] in its config'
        )


def boolean_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    config: PreTrainedConfig | None = None,
    **others: Any,
) -> Tensor | None:
    """Return the boolean mask of transformers' `sdpa_mask`; None if a causal mask, or none, is all that is needed.

    `sdpa_mask` returns that None too, for the prompt in a static cache as well, but not always while a model is being
    compiled, where an explicit mask would cost the kernels their advantage. It is never None for a model that
    transformers runs with eager attention only: the layers of some of these, NLLB-MoE's for instance, do not know
    whether they are causal.
    """
    if config is not None and not _runs_on_sdpa(type(config)):
        allow_is_causal_skip = allow_is_bidirectional_skip = False
    if _drops_queries(config):  # a layer cannot tell its last queries from a prompt in a static cache
        allow_is_causal_skip = allow_is_causal_skip and (q_length == 1 or q_length == kv_length)
    is_plain = attention_mask is None and local_size is None and q_length == kv_length
    if torch.compiler.is_compiling() and allow_is_causal_skip and is_plain and isinstance(q_offset, int):
        return None
    sizes = (batch_size, q_length, kv_length, q_offset)
    mask: Tensor | None = sdpa_mask(
        *sizes,  # type: ignore[arg-type, unused-ignore]
        attention_mask=attention_mask,
        local_size=local_size,
        allow_is_causal_skip=allow_is_causal_skip,
        allow_is_bidirectional_skip=allow_is_bidirectional_skip,
        **others,
    )
    return mask


def _drops_queries(config: Any) -> bool:
    """Return whether layers may compute only the queries whose logits are kept, as Gemma 4's do that share keys."""
    of_text = config.get_text_config() if isinstance(config, PreTrainedConfig) else config
    return bool(getattr(of_text, "num_kv_shared_layers", 0))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _runs_on_sdpa(kind: type[PreTrainedConfig]) -> bool:
    """Return whether transformers runs models with such a config on torch's `scaled_dot_product_attention`."""
    if kind not in _on_sdpa:
        classes: list[type[PreTrainedModel]] = [PreTrainedModel]
        for model_class in classes:  # grows
            classes += model_class.__subclasses__()
        _on_sdpa[kind] = any(model.config_class is kind and model._supports_sdpa for model in classes)
    return _on_sdpa[kind]


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, boolean_mask)
