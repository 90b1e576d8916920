"""Attention in one call, as PyTorch's own, without the whole matrix of scores."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from softmaxkit.kernels import attention as kernels
from softmaxkit.kernels.launch import broadcast_mask
from softmaxkit.methods.consmax import ConSmax
from softmaxkit.methods.consmax.module import ConSmaxModule
from softmaxkit.methods.exact import Exact
from softmaxkit.methods.exaq import Exaq
from softmaxkit.methods.exaq.module import ExaqModule
from softmaxkit.methods.module import SoftmaxModule
from softmaxkit.spec import Spec, check_spec

MASKED = -5e3
"""An additive mask at or below this masks; above, it is a bias, as in ALiBi."""

EXACT = Exact()
"""Made once: it finds its tables anew each time."""

FUSED = (Exaq, ConSmax)
"""Methods that have a kernel."""

STRIPE = 1 << 22
"""Scores that the plain form holds at once."""


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spec: Spec,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    **parameters: Any,
) -> Tensor:
    """Compute attention by a method; the arguments are those of `torch.nn.functional.scaled_dot_product_attention`.

    `Exact()` is that function. EXAQ and ConSmax run in native kernels on the CPU in float32 and bfloat16: with 8-bit
    products for many queries, in float32 for a few, as in generation. Softermax, and `Exact` with other fields, compute
    their integers. Where there is no kernel (another device or dtype, a bias, dropout, gradients, NaN or infinity),
    torch does the same, a stripe of queries at a time.

    Args:
        query: floating, (batch, heads, queries, channels), or without batch, or without heads too.
        key: the same dtype, (batch, heads, keys, channels).
        value: the same dtype, (batch, heads, keys, value channels).
        spec: the method, e.g. `softmaxkit.Exaq(bits=2)`.
        attn_mask: boolean, True where attended, or floating, added to the scores (where it is -5000 or less, a key is
            masked); broadcasts to (batch, heads, queries, keys).
        dropout_p: probability with which a probability is set to 0.
        is_causal: a query attends to the keys up to its own index; not with a mask.
        scale: factor of the scores; 1/sqrt(channels) if None.
        enable_gqa: keys and values may have fewer heads, each for as many consecutive heads of queries.
        parameters: the method's real numbers, as `clip` for EXAQ, `beta` and `gamma` for ConSmax (one or one a head).

    Returns:
        (batch, heads, queries, value channels), in the dtype of the queries; zeros for a query that attends to nothing.

    Raises:
        ValueError: shapes or masks that do not fit, or EXAQ is given no clip.
        TypeError: dtypes that do not fit, or the method has no such parameter.

    Source: EXAQ, ConSmax and Softermax as in their specs; queries in stripes as in Rabe & Staats 2021, arXiv
    2112.05682; keys less their mean before they take 8 bits as in SageAttention, arXiv 2410.02367, section 4.2.
    """
    check_spec(spec)
    if not (query.is_floating_point() and query.dtype == key.dtype == value.dtype):
        raise TypeError(
            f"query, key and value are floating, of one dtype, not {query.dtype}, {key.dtype}, {value.dtype}"
        )
    if not 2 <= query.ndim <= 4 or not query.ndim == key.ndim == value.ndim:
        shapes = ", ".join(str(tuple(x.shape)) for x in (query, key, value))
        raise ValueError(f"query, key and value all have 2, 3 or 4 axes, not {shapes}")
    if query.ndim < 4:
        more = (None,) * (4 - query.ndim)
        query, key, value = query[more], key[more], value[more]
        found = attention(query, key, value, spec, attn_mask, dropout_p, is_causal, scale, enable_gqa, **parameters)
        return found[(0,) * len(more)]
    kernels.check_shapes(query, key, value)
    if query.shape[1] != key.shape[1] and not enable_gqa:
        raise ValueError(f"{query.shape[1]} heads of queries and {key.shape[1]} of keys go with enable_gqa=True")
    if is_causal and attn_mask is not None:
        raise ValueError("is_causal goes without attn_mask; put causality into the mask")
    if attn_mask is not None and attn_mask.dtype != torch.bool and not attn_mask.is_floating_point():
        raise TypeError(f"a mask is boolean, True where attended, or floating, not {attn_mask.dtype}")
    mask, bias = (attn_mask, None) if attn_mask is None or attn_mask.dtype == torch.bool else _parts(attn_mask)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if spec == EXACT:
        spec.refuse(parameters)
        allowed = mask if bias is None else attn_mask
        found = functional.scaled_dot_product_attention(
            query, key, value, allowed, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        return found if mask is None else torch.where(mask.any(-1, keepdim=True), found, 0.0)
    module = module_for(spec, query.shape[1], key.shape[2], parameters, query.device)
    differentiable = torch.is_grad_enabled() and any(
        x.requires_grad for x in (query, key, value, attn_mask) if x is not None
    )
    if bias is None and not dropout_p and not differentiable:
        made = fused(module, query, key, value, mask, is_causal, scale)
        if made is not None:
            return made
    return _by_stripes(module, query, key, value, mask, bias, dropout_p, is_causal, scale)


def module_for(spec: Spec, heads: int, keys: int, parameters: Mapping[str, Any], device: torch.device) -> SoftmaxModule:
    """Return a module with the method's real numbers, or what it starts with; kept where they are plain numbers."""
    numbers = {**spec.start(keys), **parameters}
    plain = all(isinstance(each, (int, float)) for each in numbers.values())
    return (_kept_module if plain else _module)(spec, heads, tuple(numbers.items()), device)


def _module(spec: Spec, heads: int, numbers: tuple[tuple[str, Any], ...], device: torch.device) -> SoftmaxModule:
    mode = "float" if isinstance(spec, FUSED) else "integer"
    with torch.inference_mode(False):  # it may be kept for calls with gradients
        return spec.module(heads=heads, mode=mode, **dict(numbers)).requires_grad_(False).to(device)


_kept_module = lru_cache(maxsize=64)(_module)


def _parts(mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return what a floating mask attends to, and what it adds if that is not 0 everywhere."""
    attended = ~(mask <= max(torch.finfo(mask.dtype).min / 2, MASKED))
    bias = torch.where(attended, mask, 0.0)
    return attended, bias if mask.requires_grad or bool((bias != 0).any()) else None


def fused(
    module: SoftmaxModule,
    query: Tensor,
    key: Tensor | kernels.Cached,
    value: Tensor | kernels.Cached,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
) -> Tensor | None:
    """Run the kernel of a method's module, shapes as `attention`; None where there is none for what is given."""
    if not isinstance(module.spec, FUSED) or not kernels.can_run(query, key, value):
        return None
    try:
        return native_attention(module, query, key, value, mask, is_causal, scale)
    except FloatingPointError:
        return None  # torch carries NaN and infinity to where they belong


def native_attention(
    module: SoftmaxModule,
    query: Tensor,
    key: Tensor | kernels.Cached,
    value: Tensor | kernels.Cached,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
) -> Tensor:
    """Run the kernel of EXAQ's or ConSmax's module; arguments and errors are those of the kernels."""
    if isinstance(module, ConSmaxModule):
        offset = module.beta + module.log_gamma
        return kernels.consmax(query, key, value, offset, module.spec.ceiling, mask, is_causal, scale)
    assert isinstance(module, ExaqModule)
    return kernels.exaq(query, key, value, *module.native_arguments(), mask, is_causal, scale)


def _by_stripes(
    module: SoftmaxModule,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
) -> Tensor:
    batch, heads, queries = query.shape[:3]
    shape, key_heads, dtype = (batch, heads, queries, key.shape[2]), key.shape[1], query.dtype
    mask, bias = (None if x is None else broadcast_mask(x, shape) for x in (mask, bias))
    wide = torch.promote_types(dtype, torch.float32)
    query, key, value = query.to(wide) * scale, key.to(wide).mT, value.to(wide)
    rows = max(1, STRIPE // max(1, batch * heads * key.shape[3]))
    found = [query.new_zeros(batch, heads, 0, value.shape[3])]
    for first in range(0, queries, rows):
        some = query[:, :, first : first + rows]
        count = some.shape[2]
        # The heads that share keys go side by side: keys are not copied for each.
        together = heads // key_heads * count
        scores = (some.reshape(batch, key_heads, together, some.shape[3]) @ key).reshape(*shape[:2], count, shape[3])
        if bias is not None:
            scores = scores + bias[:, :, first : first + rows]
        seen = None if mask is None else mask[:, :, first : first + rows]
        if is_causal:
            seen = torch.ones(count, shape[3], dtype=torch.bool, device=scores.device).tril(first)
        probabilities = functional.dropout(module(scores, seen), dropout_p)
        outputs = probabilities.reshape(batch, key_heads, together, shape[3]) @ value
        found.append(outputs.reshape(batch, heads, count, value.shape[3]))
    return torch.cat(found, dim=2).to(dtype)
