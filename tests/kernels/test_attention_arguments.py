"""Attention and its cache with PyTorch's meaning of the arguments: dtypes, masks, axes, gradients, NaN, and errors."""

from __future__ import annotations

import math
import re
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from attention_inputs import CLIP, inputs, methods, random_mask, rms, truth
from torch.nn.functional import scaled_dot_product_attention

import softmaxkit
from softmaxkit import ConSmax, Exact, Exaq, Softermax
from softmaxkit.fused_attention.cache import KeyValueCache
from softmaxkit.kernels import backends, launch
from softmaxkit.methods.base.numbers import module_for

FLAGS = ("is_causal", "enable_gqa")


def parameters_of(spec: Any) -> dict[str, Any]:
    return {"clip": CLIP} if isinstance(spec, Exaq) else spec.start(30)


@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_cache(dtype: torch.dtype) -> None:
    query, key, value = (x.to(dtype) for x in inputs(2, 4, 1, 64, keys=600, key_heads=2))
    cache = KeyValueCache(key[:, :, :100], value[:, :, :100])
    for first in range(100, 600, 125):
        cache.append(key[:, :, first : first + 125], value[:, :, first : first + 125])
    assert len(cache) == 600
    largest = key.float().abs().amax(-1, keepdim=True)
    assert ((cache.keys - key).float().abs() <= largest * (0.51 / 127 + 2.0**-8 * (dtype != torch.float32))).all()
    dequantised = [query, cache.keys, cache.values]
    # Queries have 16 bits relative to their largest channel: scores with a spread of 2 err by 1e-4 at most.
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    for spec, parameters in [*methods([query.float(), key.float(), value.float()]), (Softermax(), {}), (Exact(), {})]:
        result = cache.attention(query, spec, **parameters)
        plain = softmaxkit.attention(*dequantised, spec, enable_gqa=True, **parameters)
        assert result.dtype == dtype
        assert rms(result - plain) <= tolerance * rms(plain)
    mask = random_mask(1, 600).logical_not()
    assert (cache.attention(query, Exaq(), ~mask, clip=CLIP) == 0).all()
    with pytest.raises(ValueError, match="neither NaN nor infinity"):
        cache.append(key[:, :, :1] * math.nan, value[:, :, :1])
    with pytest.raises(ValueError, match=r"this cache holds \(2, 2, tokens, 64\)"):
        cache.append(key[:, :1], value[:, :1])
    with pytest.raises(TypeError, match="this cache holds"):
        cache.append(key.double(), value.double())


@pytest.mark.parametrize("queries", [2, 20])
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_nan_and_infinity_propagate_as_in_torch(queries: int, place: int, wrong: float) -> None:
    operands = inputs(1, 2, queries, 64, keys=70)
    operands[place][0, 0, 1, 5] = wrong
    for spec, parameters in methods(inputs(1, 2, queries, 64, keys=70)):
        result = softmaxkit.attention(*operands, spec, **parameters)
        exact = truth(spec, operands, **parameters).float()
        assert torch.equal(result.isfinite(), exact.isfinite())
        assert torch.equal(result.isnan(), exact.isnan())


@pytest.mark.parametrize("spec", [Exact(), Exact(schedule="online"), Softermax(), Exaq(), ConSmax()])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_torch_fallback(spec: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softmaxkit.fused_attention.torch_attention.STRIPE", 1000)
    monkeypatch.setattr(backends, "unavailable", lambda name: "this test selects torch")
    operands = [x.to(dtype) for x in inputs(2, 4, 30, 16, key_heads=2)]
    parameters = parameters_of(spec)
    tolerance = 1e-6 if dtype == torch.float64 else 0.02
    for mode, attended in product(("float", "integer"), (None, random_mask(2, 4, 30, 30), random_mask(30, 30))):
        result = softmaxkit.attention(*operands, spec, attended, enable_gqa=True, mode=mode, **parameters)
        exact = truth(spec, operands, attended, mode=mode, **parameters)
        assert result.dtype == dtype
        # In half precision a few scores are rounded to the next level.
        assert rms(result - exact) <= tolerance * rms(exact)
        if attended is not None:
            assert (result[:, :, 0] == 0).all()
    lower = torch.ones(30, 30, dtype=torch.bool).tril()
    causal, masked = (
        softmaxkit.attention(*operands, spec, enable_gqa=True, **which, **parameters)
        for which in ({"is_causal": True}, {"attn_mask": lower})
    )
    assert torch.allclose(causal, masked, atol=tolerance)


def test_exact_runs_torchs_own_attention() -> None:
    operands = inputs(2, 3, 40, 64)
    for options in ({}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": torch.randn(40, 40)}):
        expected = scaled_dot_product_attention(*operands, **options)
        assert torch.equal(softmaxkit.attention(*operands, Exact(), **options), expected)


@pytest.mark.parametrize("spec", [Exact(), Softermax(), Exaq(), ConSmax()])
@pytest.mark.parametrize("queries", [2, 30])
def test_a_negative_scale_is_that_of_negated_queries(spec: Any, queries: int) -> None:
    query, key, value = inputs(1, 2, 30, 16)
    query, parameters = query[:, :, :queries], parameters_of(spec)
    cache = KeyValueCache(key, value)
    for mode, is_causal in product(("float", "integer"), (False, True)):
        options = {"is_causal": is_causal, "mode": mode, **parameters}
        minus, plus = (
            softmaxkit.attention(sign * query, key, value, spec, scale=sign * 0.3, **options) for sign in (-1, 1)
        )
        assert torch.equal(minus, plus)
        flat, none = (
            softmaxkit.attention(times * query, key, value, spec, scale=scale, **options)
            for times, scale in ((1, 0.0), (0, 0.3))
        )
        assert torch.equal(flat, none)
    over_codes = [cache.attention(sign * query, spec, scale=sign * 0.3, **parameters) for sign in (-1, 1)]
    assert torch.equal(*over_codes)


@pytest.mark.parametrize("spec", [Exact(), Softermax(), Exaq(), ConSmax()])
def test_masks(spec: Any) -> None:
    operands = inputs(2, 2, 30, 16)
    parameters = parameters_of(spec)
    attended = random_mask(2, 1, 30, 30)
    plain = softmaxkit.attention(*operands, spec, attended, **parameters)
    assert (plain[:, :, 0] == 0).all()
    for lowest in (-math.inf, torch.finfo(torch.float32).min, -1e4):
        added = torch.where(attended, 0.0, lowest)
        assert torch.allclose(softmaxkit.attention(*operands, spec, added, **parameters), plain, atol=1e-6)
    causal = softmaxkit.attention(*operands, spec, torch.ones(30, 30, dtype=torch.bool).tril(), **parameters)
    assert torch.allclose(softmaxkit.attention(*operands, spec, is_causal=True, **parameters), causal, atol=1e-6)
    bias = torch.randn(2, 30, 30)
    by_hand = operands[0].double() @ operands[1].double().mT / 4 + bias.double()
    exact = spec.module(heads=2, **parameters)(by_hand) @ operands[2].double()
    result = softmaxkit.attention(*operands, spec, bias, **parameters)
    assert rms(result - exact.detach()) <= 1e-5 * rms(exact.detach())


@pytest.mark.parametrize("spec", [Exact(), Softermax(), Exaq(), ConSmax()])
@pytest.mark.parametrize("mode", ["float", "integer"])
def test_nan_in_an_additive_mask_reaches_the_result(spec: Any, mode: str) -> None:
    query, mask = inputs(1, 2, 20, 16)[0], torch.zeros(20, 20)
    mask[3, 5] = math.nan
    result = softmaxkit.attention(query, query, query, spec, mask, mode=mode, **parameters_of(spec))
    assert result[:, :, 3].isnan().all()
    assert result[:, :, :3].isfinite().all()


@pytest.mark.parametrize("scale", [torch.tensor(0.5), "a", [1.0]])
def test_the_scale_is_a_number(scale: Any) -> None:
    query = inputs(1, 2, 20, 16)[0]
    cache = KeyValueCache(query, query)
    for call in (
        partial(softmaxkit.attention, query, query, query),
        partial(softmaxkit.partial_attention, query, query, query),
        partial(cache.attention, query[:, :, :1]),
    ):
        with pytest.raises(
            TypeError, match=f"scale must be a number, got {type(scale).__name__}; multiply the queries"
        ):
            call(Exact(), scale=scale)


@pytest.mark.parametrize("spec", [Exact(), Softermax(), Exaq(), ConSmax()])
def test_gradients_and_dropout(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softmaxkit.fused_attention.torch_attention.STRIPE", 200)
    operands = [x.requires_grad_() for x in inputs(1, 2, 12, 16)]
    parameters = parameters_of(spec)
    softmaxkit.attention(*operands, spec, is_causal=True, **parameters).square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() and x.grad.any() for x in operands)
    torch.manual_seed(0)
    with torch.no_grad():
        kept = softmaxkit.attention(*operands, spec, dropout_p=0.5, **parameters)
        assert not torch.equal(kept, softmaxkit.attention(*operands, spec, **parameters))
        assert (softmaxkit.attention(*operands, spec, dropout_p=1.0, **parameters) == 0).all()


@pytest.mark.parametrize("spec", [Exact(), Softermax(), Exaq(), ConSmax()])
def test_axes(spec: Any) -> None:
    operands = inputs(1, 2, 20, 16)
    parameters = parameters_of(spec)
    result = softmaxkit.attention(*operands, spec, **parameters)
    assert torch.allclose(softmaxkit.attention(*(x[0] for x in operands), spec, **parameters), result[0], atol=1e-6)
    assert softmaxkit.attention(*(x[0, 0] for x in operands), spec, **parameters).shape == (20, 16)
    assert softmaxkit.attention(operands[0][:, :, :0], *operands[1:], spec, **parameters).shape == (1, 2, 0, 16)
    assert (softmaxkit.attention(operands[0], *(x[:, :, :0] for x in operands[1:]), spec, **parameters) == 0).all()


def test_invalid_arguments_are_rejected() -> None:
    query, key, value = inputs(1, 4, 20, 16, key_heads=2)
    with pytest.raises(ValueError, match="4 query heads and 2 key heads require enable_gqa=True"):
        softmaxkit.attention(query, key, value, Exaq(), clip=CLIP)
    with pytest.raises(ValueError, match="Exaq requires clip"):
        softmaxkit.attention(query, key, value, Exaq(), enable_gqa=True)
    with pytest.raises(ValueError, match="is_causal cannot be combined with attn_mask"):
        softmaxkit.attention(query, query, query, Exaq(), random_mask(20, 20), is_causal=True, clip=CLIP)
    with pytest.raises(ValueError, match="values the batch, heads and tokens of the keys"):
        softmaxkit.attention(query, key, value[:, :, :5], Exaq(), enable_gqa=True, clip=CLIP)
    with pytest.raises(ValueError, match="2, 3 or 4 dimensions"):
        softmaxkit.attention(query, key[0], value, Exaq(), clip=CLIP)
    with pytest.raises(ValueError, match="does not broadcast to scores"):
        softmaxkit.attention(query, query, query, Exaq(), random_mask(7, 20), clip=CLIP)
    with pytest.raises(TypeError, match="share a floating dtype"):
        softmaxkit.attention(query, key.double(), value, Exaq(), clip=CLIP)
    with pytest.raises(ValueError, match="must be on one device, got cpu, meta, cpu"):
        softmaxkit.attention(query, key.to("meta"), value, Exaq(), enable_gqa=True, clip=CLIP)
    with pytest.raises(TypeError, match="value must be a torch tensor, got ndarray; pass"):
        softmaxkit.attention(query, key, value.numpy(), Exaq(), clip=CLIP)
    with pytest.raises(TypeError, match="attn_mask must be boolean"):
        softmaxkit.attention(query, query, query, Exaq(), torch.ones(20, 20, dtype=torch.int), clip=CLIP)
    for spec, mode, wrong in product((Exact(), Exaq()), ("float", "integer"), (-0.5, 1.5, math.nan)):
        with pytest.raises(ValueError, match=f"dropout_p must be a probability from 0 to 1, got {wrong}"):
            softmaxkit.attention(query, query, query, spec, dropout_p=wrong, mode=mode, **parameters_of(spec))
    for spec, mode, wrong in product((Exact(), Exaq()), ("float", "integer"), ("a", None, [0.1], 1j)):
        with pytest.raises(TypeError, match=f"dropout_p must be a number from 0 to 1, got {re.escape(repr(wrong))}"):
            softmaxkit.attention(query, query, query, spec, dropout_p=wrong, mode=mode, **parameters_of(spec))  # type: ignore[arg-type]
    for spec, mode, name, other in product((Exact(), Exaq()), ("float", "integer"), FLAGS, (None, 1, "yes")):
        with pytest.raises(TypeError, match=f"{name} must be True or False, got {other!r}"):
            softmaxkit.attention(query, query, query, spec, mode=mode, **{name: other}, **parameters_of(spec))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="enable_gqa must be True or False, got 1"):
        softmaxkit.partial_attention(query, query, query, Exact(), enable_gqa=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="query must be a torch tensor, got None"):
        softmaxkit.attention(None, key, value, Exact())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="key must be a torch tensor, got list"):
        softmaxkit.partial_attention(query, [0], value, Exact())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tensors must be a torch tensor, got list"):
        softmaxkit.explain(Exact(), [0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a spec such as"):
        softmaxkit.attention(query, key, value, "exaq")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["float", "integer"])
@pytest.mark.parametrize("spec", [Exact(), Softermax(), Exaq(), ConSmax()])
def test_operands_that_torch_cannot_compute_with_are_refused(spec: Any, mode: str) -> None:
    query, mask = inputs(1, 2, 20, 16)[0], random_mask(20, 20)
    attend = partial(softmaxkit.attention, spec=spec, mode=mode, **parameters_of(spec))
    narrow = query.to(torch.float8_e4m3fn)
    with pytest.raises(TypeError, match="share a floating dtype of 16 bits or more, got torch"):
        attend(narrow, narrow, narrow)
    with pytest.raises(TypeError, match="floating of 16 bits or more, got torch"):
        attend(query, query, query, attn_mask=torch.zeros(20, 20).to(torch.float8_e4m3fn))
    for elsewhere in (mask.to("meta"), mask.float().to("meta")):
        with pytest.raises(ValueError, match=r'attn_mask must be on .*, cpu, got meta; pass attn_mask\.to\("cpu"\)'):
            attend(query, query, query, attn_mask=elsewhere)
    cache = KeyValueCache(query, query)
    with pytest.raises(ValueError, match="attn_mask must be on the device of what it masks, cpu, got meta"):
        cache.attention(query[:, :, :1], spec, mask[:1].to("meta"), mode=mode, **parameters_of(spec))


@pytest.mark.parametrize("spec", [Exact(), Exaq()], ids=["exact", "exaq"])
@pytest.mark.parametrize("queries", [2, 40])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ((2, 2, 9, 24), (2, 2, 9, 16), "keys must have the batch and channels of the queries"),
        ((1, 2, 9, 16), (1, 2, 9, 16), "keys must have the batch and channels of the queries"),
        ((2, 2, 9, 16), (2, 2, 8, 16), "values the batch, heads and tokens of the keys"),
        ((2, 2, 9, 16), (2, 4, 9, 16), "values the batch, heads and tokens of the keys"),
        ((2, 3, 9, 16), (2, 3, 9, 16), "query heads must be a multiple of key heads"),
    ],
)
def test_shapes_that_do_not_fit_reach_no_kernel(
    key: tuple[int, ...], value: tuple[int, ...], message: str, queries: int, spec: Any
) -> None:
    query, numbers = torch.ones(2, 4, queries, 16), parameters_of(spec)
    keys, values = torch.ones(key), torch.ones(value)
    with pytest.raises(ValueError, match=message):
        softmaxkit.attention(query, keys, values, spec, enable_gqa=True, **numbers)
    with pytest.raises(ValueError, match=message):
        softmaxkit.partial_attention(query, keys, values, spec, enable_gqa=True, **numbers)
    if key[:3] == value[:3]:  # a cache refuses the others itself
        with pytest.raises(ValueError, match=message):
            KeyValueCache(keys, values).attention(query, spec, **numbers)


def test_modules_are_cached_and_created_outside_inference_mode_and_default_devices() -> None:
    arguments: Any = (ConSmax(), "float", 5, {"beta": 3.0, "gamma": 1.5}, torch.device("cpu"), 2)
    with torch.inference_mode(), torch.device("meta"):
        module = module_for(*arguments)
    assert {parameter.device.type for parameter in module.parameters()} == {"cpu"}
    assert not any(parameter.is_inference() or parameter.requires_grad for parameter in module.parameters())
    assert module_for(*arguments) is module
    per_head = {"beta": torch.tensor([3.0, 4.0]), "gamma": 1.5}
    assert module_for(ConSmax(), "float", 5, per_head, torch.device("cpu"), 2) is not module
