"""Which back end runs a method on some tensors, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from softmaxkit.methods.base.spec import Spec, check_spec

if TYPE_CHECKING:
    from torch import Tensor

    from softmaxkit.kernels.backends import Choice


def explain(
    spec: Spec,
    *tensors: Tensor,
    mode: str = "float",
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    **parameters: Any,
) -> Choice:
    """Report which back end `softmax` or `attention` would run, and why the preferred ones before it cannot.

    Args:
        spec: the method.
        tensors: scores of shape (..., keys); or query, key and value as for `attention`. Their values matter too: a
            kernel may reject values that 8 bits cannot represent well enough.
        mode: "float" or "integer", as for `softmax` and `attention`.
        attn_mask: as in `attention`.
        dropout_p: as in `attention`.
        is_causal: as in `attention`.
        scale: as in `attention`.
        enable_gqa: as in `attention`.
        parameters: the method's real parameters, as for `softmax` and `attention`.

    Returns:
        A `Choice` with `backend`, and `refusals` keyed by back end; print it for a readable summary.

    Raises:
        TypeError: the number of tensors is neither 1 nor 3, or one is something else; and as for `softmax` and
            `attention`.
        ValueError: as for `softmax` and `attention`.

    Example:
        >>> print(softmaxkit.explain(softmaxkit.Exact(), torch.zeros(2, 8)))
        avx512
          not amx: this processor does not have AMX with int8 and bfloat16
    """
    from softmaxkit.fused_attention.choice import choice_for_values
    from softmaxkit.fused_attention.prepared import prepare

    check_spec(spec)
    spec.require(parameters, explain)
    if len(tensors) == 1:
        if attn_mask is not None or dropout_p or is_causal or scale is not None or enable_gqa:
            raise TypeError(
                "attn_mask, dropout_p, is_causal, scale and enable_gqa are those of attention: pass query, key, value"
            )
        return _choice_of_rows(spec, tensors[0], mode, parameters)
    if len(tensors) != 3:
        raise TypeError(f"explain takes one tensor (scores) or three (query, key, value), got {len(tensors)}")
    prepared = prepare(*tensors, spec, attn_mask, dropout_p, is_causal, scale, enable_gqa, mode, parameters)
    query, key, value, mask, _, factor, _, call, choice = prepared
    return choice_for_values(call, choice, query, key, value, mask, is_causal, factor)


def _choice_of_rows(spec: Spec, scores: Tensor, mode: str, parameters: Mapping[str, Any]) -> Choice:
    from softmaxkit.kernels.attention import check_tensors
    from softmaxkit.methods.base.module import at_least_float32
    from softmaxkit.methods.base.numbers import module_for

    check_tensors(tensors=scores)
    if scores.ndim < 1 or not scores.is_floating_point():
        raise TypeError(f"scores must be floating-point, (..., keys), got {tuple(scores.shape)} of {scores.dtype}")
    module = module_for(spec, mode, scores.shape[-1], parameters, scores.device)
    if mode == "integer":
        return module.choose_integers(at_least_float32(scores))[1]
    return module.choose(scores)[1]
