"""Which back end runs an attention: the reasons that depend on its tensors and arguments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softmaxkit.kernels.attention import AttentionCall, has_softmax_kernel, reasons_against_softmax
from softmaxkit.kernels.backends import Choice, is_in_graph, memory_reasons, only_torch, pick, runs_on_gpu
from softmaxkit.kernels.codes import Cached
from softmaxkit.kernels.native_attention import reason_against_integers
from softmaxkit.methods.base.module import SoftmaxModule

IS_TORCHS_OWN = "torch's scaled_dot_product_attention is this method in float"
"""The reason why no kernel of this package runs a method that is softmax to some base."""

A_BIAS = "a bias is added to the scores"
"""The reason why no kernel runs attention with one."""

LARGEST_SCALE = 8.0
"""Largest score scale, times the square root of the channels, for which 8-bit products resolve the scores."""


def choose(
    module: SoftmaxModule,
    query: Tensor,
    key: Tensor | Cached,
    value: Tensor | Cached,
    bias: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float = 0.0,
    with_numbers: AttentionCall | None = None,
    native_reasons: Sequence[str] = (),
) -> tuple[AttentionCall | None, Choice]:
    """Return a method's fused attention, and the back end that would run it on these queries, keys and values.

    Args:
        module: the method's module.
        query: as in `attention`.
        key: as in `attention`, or cached codes.
        value: as in `attention`, or cached codes.
        bias: what is added to the scores, if anything. In a graph, where it may turn out to be 0, native attention
            takes it.
        dropout_p: as in `attention`.
        scale: as in `attention`.
        with_numbers: the module's attention call with the caller's numbers; by default with the module's own.
        native_reasons: further reasons against the native kernels.
    """
    if module.mode == "integer":
        return None, only_torch(
            query.device, "the integers of the hardware are computed row by row, not in a fused kernel"
        )
    call = with_numbers or module.attention_call()
    if call is None and module.softmax_base is not None:
        if not has_softmax_kernel(query, key):
            by_torch = runs_on_gpu(query.device) or not native_reasons
            return None, only_torch(query.device, *([IS_TORCHS_OWN] if by_torch else native_reasons))
        call = AttentionCall.by_softmax(module.softmax_base)
    if call is None:
        return None, only_torch(query.device, f"{module.spec.title} has no fused attention for this form")
    if bias is not None and not is_in_graph():
        return call, only_torch(query.device, A_BIAS)

    def more(kind: str) -> list[str]:
        against = call.reasons(kind, query, key, value)
        over_codes = isinstance(key, Cached)
        if dropout_p and (kind != "triton" or over_codes):
            against.append("dropout is applied to the probabilities")
        if bias is not None and kind != "native":
            against.append(A_BIAS)
        learned = (query, call.offset, bias)
        trained = any(x is not None and x.requires_grad for x in learned) and torch.is_grad_enabled()
        if over_codes and trained:
            against.append("its kernel over a cache of codes has no gradient, and a tensor requires one")
        if kind != "native":
            return against
        if over_codes:  # else the kernel is a PyTorch operator
            against += memory_reasons(query)
        elif trained and not native_reasons:
            against.append("its kernel has no gradient, and a tensor requires one")
        if call.form == "softmax" and isinstance(key, Tensor):
            return [*against, *(native_reasons or reasons_against_softmax(query, key))]
        if not abs(scale) * query.shape[-1] ** 0.5 <= LARGEST_SCALE:
            against.append(f"a scale of {scale:g} exceeds {LARGEST_SCALE:g} / sqrt(channels), too coarse in 8 bits")
        return [*against, *native_reasons]

    tensors = [x for x in (query, key, value) if isinstance(x, Tensor)]
    return call, pick(call, *tensors, more=more)


def choice_for_values(
    call: AttentionCall | None,
    choice: Choice,
    query: Tensor,
    key: Tensor | Cached,
    value: Tensor | Cached,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Choice:
    """Return the choice, or torch if these tensors are too coarse in integers; arguments as in `call.fused`."""
    if call is None or not choice.native:
        return choice
    if any(memory_reasons(x) for x in (query, key, value) if isinstance(x, Tensor)):
        return choice
    reason = reason_against_integers(query, key, value, call, mask, is_causal, scale)
    return only_torch(query.device, reason) if reason else choice
