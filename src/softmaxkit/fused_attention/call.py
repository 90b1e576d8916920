"""Fused attention with the signature of PyTorch's own, without materialising the score matrix."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from softmaxkit.fused_attention.native import attend_natively
from softmaxkit.fused_attention.prepared import prepare
from softmaxkit.fused_attention.torch_attention import attend_by_stripes, row_kernel, scaled_dot_product
from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.backends import Choice
from softmaxkit.kernels.codes import Cached
from softmaxkit.methods.base.numbers import learned_tensors, normalise_by
from softmaxkit.methods.base.spec import Spec, check_spec


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
    mode: str = "float",
    **parameters: Any,
) -> Tensor:
    """Compute attention with a method; the arguments are those of `torch.nn.functional.scaled_dot_product_attention`.

    Methods whose float form is softmax to some base (`Exact`, `Softermax`) run as that torch function. On the CPU, a
    few queries over many keys run in a kernel instead, with products and sums in float32. With AVX2 or later so do many
    queries, if the problem is large enough: tensors of 16 bits, and in float32 if
    `torch.set_float32_matmul_precision("medium")` permits it. That kernel multiplies 16-bit integers, or bfloat16 where
    AMX is selected or faster and tensors are not float16 (`softmaxkit.kernels.trial`); sequences for which 16 bits are
    too coarse run in torch.

    All others run in kernels: on CUDA in the precision of the tensors and with gradients; on the CPU without gradients,
    with 8-bit products for many queries and in float32 for a few, as in generation. Where no kernel applies (another
    device or dtype, a bias, dropout, and on the CPU a sequence with NaN or infinity), torch computes the float form,
    one stripe of queries at a time. `softmaxkit.explain` returns the choice and its reasons.

    Args:
        query: floating, (batch, heads, queries, channels); the leading one or two dimensions may be omitted.
        key: the same dtype, (batch, heads, keys, channels).
        value: the same dtype, (batch, heads, keys, value channels).
        spec: the method, e.g. `softmaxkit.Exaq(bits=2)`.
        attn_mask: boolean, True where attended, or floating, added to the scores (a key with -5000 or less is masked);
            broadcasts to (batch, heads, queries, keys).
        dropout_p: probability of setting an attention probability to 0.
        is_causal: query i attends to keys 0 to i; not combined with a mask.
        scale: factor of the scores; 1/sqrt(channels) if None.
        enable_gqa: keys and values may have fewer heads, each shared by consecutive query heads.
        mode: "float", or "integer" for the hardware's integer softmax between float products. Under autocast, the
            former casts queries, keys and values, as torch's attention does.
        parameters: the method's real parameters, e.g. `clip` for EXAQ, `beta` and `gamma` for ConSmax (one number, or
            one per head).

    Returns:
        (batch, heads, queries, value channels), in the dtype of the queries; zeros for a fully masked query.

    Raises:
        ValueError: shapes, devices or masks do not fit, `dropout_p` is not a probability, or a required parameter, such
            as EXAQ's clip, is missing.
        TypeError: dtypes do not fit, an argument is of another type, or the method has no such parameter.

    Source: EXAQ, ConSmax and Softermax as in their specs; the mean of the keys is subtracted before they are quantised
    to 8 bits, as in SageAttention, arXiv 2410.02367, section 4.2.
    """
    check_spec(spec)
    spec.require(parameters, attention)
    prepared = prepare(query, key, value, spec, attn_mask, dropout_p, is_causal, scale, enable_gqa, mode, parameters)
    dimensions = query.ndim
    query, key, value, mask, bias, factor, module, call, choice = prepared
    if call is not None and choice.kernel:
        result = fused(call, choice, query, key, value, mask, is_causal, factor, dropout_p, bias=bias)
    elif mode == "float" and module.softmax_base is not None:
        result = scaled_dot_product(module.softmax_base, query, key, value, mask, bias, dropout_p, is_causal, factor)
    else:
        learned = learned_tensors(module, parameters)
        normalise = row_kernel(call, query) or normalise_by(module, learned)
        given = query, key, value, mask, bias, dropout_p, is_causal, factor
        result = attend_by_stripes(normalise, *given, tuple(learned.values()))
    return result if dimensions == 4 else result[(0,) * (4 - dimensions)]


def fused(
    call: AttentionCall,
    choice: Choice,
    query: Tensor,
    key: Tensor | Cached,
    value: Tensor | Cached,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
    dropout_p: float = 0.0,
    lengths: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Run a fused attention on the chosen back end, shapes as in `attention`.

    `lengths` are as in `softmaxkit.kernels.native_attention.attend`, and on a GPU as in
    `softmaxkit.kernels.triton.decode.attend`. Only native attention takes a bias, see `choose`.
    """
    if choice.backend == "triton":
        from softmaxkit.kernels.triton.attention import attend as attend_by_triton

        return attend_by_triton(query, key, value, call, mask, is_causal, scale, dropout_p, lengths)
    if choice.backend == "flex":
        from softmaxkit.kernels.flex import attend as attend_by_flex

        assert isinstance(key, Tensor)
        assert isinstance(value, Tensor)
        return attend_by_flex(query, key, value, call, mask, is_causal, scale)
    return attend_natively(query, key, value, call, mask, is_causal, scale, lengths, bias)
