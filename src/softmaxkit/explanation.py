"""Which back end runs a method on some tensors, and why the others do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from softmaxkit.methods.base.spec import Spec, check_spec

if TYPE_CHECKING:
    from torch import Tensor

    from softmaxkit.kernels.backends import Choice


def explain(spec: Spec, *tensors: Tensor, mode: str = "float", **parameters: Any) -> Choice:
    """Report which back end `softmax` or `attention` would run, and why the preferred ones before it cannot.

    Args:
        spec: the method.
        tensors: scores of shape (..., keys); or 4-D query, key and value as for `attention`. Their values matter too:
            a kernel may reject values that 8 bits cannot represent well enough.
        mode: "float" or "integer", as for `softmax` and `attention`.
        parameters: the method's real parameters, as for `softmax` and `attention`.

    Returns:
        A `Choice` with `backend`, and `refusals` keyed by back end; print it for a readable summary.

    Raises:
        TypeError: the number of tensors is neither 1 nor 3, or one is something else.
        ValueError: as for `softmax` and `attention`.

    Example:
        >>> print(softmaxkit.explain(softmaxkit.Softermax(), torch.zeros(2, 8)))
        torch
          not amx, avx512, avx512_vnni, avx512_bw, avx_vnni, avx2, plain: Softermax has no kernel for this form
    """
    import torch

    from softmaxkit.fused_attention.call import autocast, check_dimensions
    from softmaxkit.fused_attention.choice import IS_TORCHS_OWN, choice_for_values, choose, may_use_tiles
    from softmaxkit.kernels.attention import check_tensors
    from softmaxkit.kernels.backends import only_torch
    from softmaxkit.methods.base.numbers import module_for

    check_spec(spec)
    spec.check_known(parameters, function=explain)
    if len(tensors) not in (1, 3):
        raise TypeError(f"explain takes one tensor (scores) or three (query, key, value), got {len(tensors)}")
    for tensor in tensors:
        check_tensors(tensors=tensor)
    if len(tensors) == 1:
        scores = tensors[0]
        if scores.ndim < 1 or not scores.is_floating_point():
            raise TypeError(f"scores must be floating-point, (..., keys), got {tuple(scores.shape)} of {scores.dtype}")
        module = module_for(spec, mode, scores.shape[-1], parameters, scores.device)
        if mode == "integer":  # in which modules take at least float32
            return module.choose_integers(scores.to(torch.promote_types(scores.dtype, torch.float32)))[1]
        return module.choose(scores)[1]
    check_dimensions(*tensors)
    tensors = tuple(x if x.ndim == 4 else x[(None,) * (4 - x.ndim)] for x in tensors)
    query, key, value = autocast(*tensors) if mode == "float" else tensors
    module = module_for(spec, mode, key.shape[2], parameters, query.device, query.shape[1])
    if mode == "float" and module.softmax_base is not None and not may_use_tiles(query):
        return only_torch(query.device, IS_TORCHS_OWN)
    return choice_for_values(*choose(module, query, key, value), query, key, value)
