"""The fused path of an attention layer: whether a kernel runs its attention, or why none can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

try:
    from transformers.utils import output_capturing
except ImportError:  # transformers before 5.1 passes output_attentions to every layer
    output_capturing = None  # type: ignore[assignment]

from softmaxkit.fused_attention.autocast import autocast
from softmaxkit.fused_attention.call import fused
from softmaxkit.fused_attention.choice import choice_for_values, choose
from softmaxkit.fused_attention.torch_attention import scaled_dot_product
from softmaxkit.kernels.backends import Choice, only_torch, runs_on_gpu
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.models.cache import codes_or_tensor
from softmaxkit.models.running import OfThread, warn_once

ChoiceWatcher = Callable[[nn.Module, Choice], None]
"""Called with an attention layer and the back end chosen for its fused attention, or the reasons against each."""

_choice_watcher: OfThread[ChoiceWatcher] = OfThread()


def watching_choices(watcher: ChoiceWatcher) -> AbstractContextManager[None]:
    """Call a watcher with the back end chosen for fused attention, at every call of a layer that has a method."""
    return _choice_watcher.set(watcher)


def prefers_kernel(method: SoftmaxModule, query: Tensor) -> bool:
    """Return whether to try a fused kernel; on GPUs in mode "float" too, where kernels have the same precision."""
    if needs_scores(method):
        return False
    return method.mode == "fused" or _choice_watcher.get() is not None or _is_float_on_gpu(method, query)


def needs_scores(method: SoftmaxModule) -> bool:
    """Return whether calibration or a hook needs the scores and probabilities of a method."""
    return bool(method.observed or method._forward_hooks or method._forward_pre_hooks)


def _is_float_on_gpu(method: SoftmaxModule, query: Tensor) -> bool:
    return method.mode == "float" and runs_on_gpu(query.device)


def fused_output(
    attention: nn.Module,
    method: SoftmaxModule,
    tensors: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    scaling: float,
    causal: bool,
    dropout: float,
    reasons: list[str],
) -> Tensor | None:
    """Run a layer as fused attention; return None, with one warning, if no kernel can run it.

    Args:
        attention: the attention layer.
        method: its softmax module.
        tensors: query, key and value, as for `attention_forward`.
        mask: boolean, broadcastable to (batch, heads, queries, keys); or None.
        scaling: factor applied to the scores.
        causal: attend to no later key.
        dropout: dropout probability.
        reasons: reasons against any kernel, see `reasons_against_fused`.

    Returns:
        The output, (batch, heads, queries, channels), or None.
    """
    query, key, value = tensors
    operands = query, codes_or_tensor(query, key), codes_or_tensor(query, value)
    if method.mode != "integer":
        operands = autocast(*operands)
    watcher = _choice_watcher.get()
    against_native = _reasons_against_native(attention, method.mode)
    call, choice = choose(method, *operands, dropout_p=dropout, scale=scaling, native_reasons=against_native)
    if reasons and (call is not None or method.softmax_base is not None):
        choice = only_torch(query.device, *reasons)  # if the method has no fused attention at all, that comes first
    if watcher is not None:
        watcher(attention, choice_for_values(call, choice, *operands, mask, causal, scaling))
    if call is not None and choice.kernel:
        return fused(call, choice, *operands, mask, causal, scaling, dropout)
    on_gpu = runs_on_gpu(query.device) and method.mode != "integer"
    if method.softmax_base is not None and not reasons and (on_gpu or not against_native):
        given, keys, values = operands
        if isinstance(keys, Tensor) and isinstance(values, Tensor):  # torch's own attention reads no codes
            return scaled_dot_product(method.softmax_base, given, keys, values, mask, None, dropout, causal, scaling)
    warns = method.mode == "fused" or _is_float_on_gpu(method, query)
    if warns and watcher is None and not torch.compiler.is_compiling():
        fallback = 'mode "fused" runs {} in float here' if method.mode == "fused" else "{} runs in plain torch here"
        warn_once(
            f"{fallback.format(method.spec.title)}: {'; '.join(choice.reasons(query.device))}. "
            "softmaxkit.models.fused_layers(model, inputs) lists the back end of each layer"
        )
    return None


def reasons_against_fused(
    softcap: float | None, bias: Tensor | None, mask: Tensor | None, with_probabilities: bool
) -> list[str]:
    """Return the reasons why a layer's call cannot run as fused attention, apart from those due to its tensors."""
    reasons = []
    if softcap is not None:
        reasons.append("the model caps its scores")
    if bias is not None or (mask is not None and mask.dtype != torch.bool):
        reasons.append("a bias or an additive mask is added to the scores")
    if with_probabilities:
        reasons.append("output_attentions needs the probabilities, which a fused kernel does not compute")
    return reasons


def needs_probabilities(arguments: Mapping[str, Any]) -> bool:
    """Return whether the running model collects attention probabilities; not every layer receives the argument."""
    return bool(arguments.get("output_attentions")) or _are_captured()


def _are_captured() -> bool:
    collector = getattr(output_capturing, "_active_collector", None)
    if torch.compiler.is_dynamo_compiling() and not getattr(collector, "compiling", True):
        return bool(_are_captured_outside())
    return _has_attentions(collector)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _are_captured_outside() -> bool:
    """Return whether a model that is not compiled, unlike this layer, collects them; Dynamo traces no ContextVar."""
    return _has_attentions(getattr(output_capturing, "_active_collector", None))


def _has_attentions(collector: Any) -> bool:
    collected = None if collector is None else collector.get()
    return collected is not None and any("attentions" in name for name in collected)


def _reasons_against_native(attention: nn.Module, mode: str) -> list[str]:
    """Return the reasons against the native kernels, which compute in integers and have no gradient."""
    reasons = [] if mode == "fused" else [f'its mode is "{mode}"']
    if attention.training:  # gradient checkpointing runs it without gradients first, and later with them
        reasons.append("the layer is in training mode; call model.eval()")
    if torch.is_grad_enabled():
        reasons.append("gradients are enabled, and the kernel has none; run the model under torch.no_grad()")
    return reasons
