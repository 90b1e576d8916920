"""Fused attention: equal on every instruction set, compared with float64, with PyTorch's meaning of the arguments."""

from __future__ import annotations

import dataclasses
import math
from importlib import import_module
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import softmaxkit
from softmaxkit import ConSmax, Exact, Exaq, Softermax
from softmaxkit.fused_attention.cache import KeyValueCache
from softmaxkit.fused_attention.call import module_for
from softmaxkit.kernels import attention, backends, launch, weights
from softmaxkit.kernels import native_attention as fused
from softmaxkit.kernels.attention import FEW, AttentionCall

BUILT = backends.native() is not None
needs_kernels = pytest.mark.skipif(not BUILT, reason="the native kernels are not built")
CLIP = -5.0
LEVELS = tuple(Exaq(bits=2).exponentials(CLIP))


def inputs(*shape: int, keys: int = 0, key_heads: int = 0, values: int = 0, spread: float = 2.0) -> list[Tensor]:
    """Return random queries, keys and values; `spread` scales the scores, and keys and values have non-zero means."""
    batch, heads, queries, channels = shape
    random = torch.Generator().manual_seed(sum(shape) + keys)
    size = (batch, key_heads or heads, keys or queries, channels)
    query = torch.randn(*shape, generator=random) * spread
    key = torch.randn(size, generator=random) + torch.randn(*size[:2], 1, channels, generator=random)
    value = torch.randn(*size[:3], values or channels, generator=random)
    return [query, key, value + torch.randn(*size[:2], 1, values or channels, generator=random) / 2]


def random_mask(*shape: int) -> Tensor:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[..., :1, :] = False  # a fully masked query
    return mask


def truth(
    spec: Any, operands: list[Tensor], mask: Tensor | None = None, scale: float | None = None, **parameters: Any
) -> Tensor:
    """Return attention in float64 with the whole matrix of scores."""
    query, key, value = (x.double() for x in operands)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    result: Tensor = spec.module(heads=query.shape[1], **parameters)(scores, mask) @ value
    return result.detach()


def rms(values: Tensor) -> float:
    return values.double().pow(2).mean().sqrt().item()


def methods(operands: list[Tensor]) -> list[tuple[Any, dict[str, Any]]]:
    """Return EXAQ, and ConSmax with offsets that make rows sum to about 1, as training does."""
    query, key, _ = operands
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    total = (query.double() @ key.double().mT / math.sqrt(query.shape[-1])).logsumexp(-1).mean((0, 2))
    return [(Exaq(), {"clip": CLIP}), (ConSmax(), {"beta": total.float(), "gamma": 1.0})]


def call_of(spec: Any, parameters: dict[str, Any]) -> AttentionCall:
    if isinstance(spec, Exaq):
        return AttentionCall.by_levels(CLIP, LEVELS)
    return AttentionCall.by_exponential(parameters["beta"], 1.0)


def parameters_of(spec: Any) -> dict[str, Any]:
    return {"clip": CLIP} if isinstance(spec, Exaq) else spec.start(30)


def modules() -> list[Any]:
    return [import_module(f"softmaxkit.kernels._{name}") for name in backends._supported()]


CASES = [
    ((1, 1, 1, 64), {"keys": 100}, {}),
    ((2, 3, 65, 64), {}, {}),
    ((2, 3, 65, 64), {}, {"is_causal": True}),
    ((1, 2, 50, 64), {"keys": 130}, {"is_causal": True}),
    ((1, 2, 70, 64), {"keys": 40}, {"is_causal": True}),
    ((1, 4, 33, 32), {"key_heads": 2, "keys": 200}, {"mask": (33, 200)}),
    ((2, 2, 25, 80), {"values": 48}, {"mask": (2, 1, 25, 25)}),
    ((1, 2, 40, 13), {"values": 7}, {"mask": (1, 1, 40, 1)}),
    ((1, 1, 30, 128), {"keys": 300, "values": 144}, {"scale": 0.05}),
    ((1, 1, 30, 64), {"keys": 300}, {"scale": -0.2}),
    ((1, 2, 20, 1), {"keys": 3, "values": 1}, {}),
]


@needs_kernels
@pytest.mark.parametrize(("shape", "sizes", "options"), CASES)
def test_instruction_sets_give_equal_numbers_near_float64(
    shape: tuple[int, ...], sizes: dict[str, int], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    operands = inputs(*shape, **sizes)
    options = {**options, "mask": random_mask(*options["mask"])} if "mask" in options else options
    queries, keys = shape[2], operands[1].shape[2]
    attended = torch.ones(queries, keys, dtype=torch.bool).tril() if options.get("is_causal") else options.get("mask")
    few = shape[1] // operands[1].shape[1] * queries <= FEW
    for spec, parameters in methods(operands):
        results = []
        for module in modules():
            monkeypatch.setattr(launch, "native", lambda module=module: module)
            results.append(fused.attend(*operands, call_of(spec, parameters), **options))
        if not few:  # integer products are equal; float products are summed in another order
            assert all(torch.equal(results[0], other) for other in results[1:])
        exact = truth(spec, operands, attended, options.get("scale"), **parameters)
        error = max(rms(other - exact) for other in results)
        # Scores err by about 1% of their spread, and so do probabilities; with EXAQ a few move to the next level.
        assert error <= (1e-5 if few else 0.1 if spec == Exaq() else 0.04) * rms(exact)
        if attended is not None:
            hidden = ~attended.expand(*shape[:3], keys).any(-1)
            assert (results[0][hidden] == 0).all()


@needs_kernels
@pytest.mark.parametrize(("bits", "clip"), [(2, -5.0), (2, -9.0), (3, -6.0), (4, -6.0)])
def test_exaq_errs_less_than_its_own_levels_do(bits: Any, clip: float) -> None:
    operands = inputs(1, 2, 700, 64)
    ours = softmaxkit.attention(*operands, Exaq(bits=bits), clip=clip)
    method, exact = truth(Exaq(bits=bits), operands, clip=clip), truth(Exact(), operands)
    assert rms(ours - method) <= 0.5 * rms(method - exact)
    assert rms(ours - exact) <= 1.05 * rms(method - exact)


@needs_kernels
@pytest.mark.parametrize("spread", [0.01, 1.0, 2.0])
def test_consmax_keeps_the_small_probabilities(spread: float) -> None:
    operands = inputs(1, 2, 1000, 64, spread=spread)
    spec, parameters = methods(operands)[1]
    one = torch.ones_like(operands[2])  # every output is the sum of a row's probabilities
    ours = softmaxkit.attention(*operands[:2], one, spec, **parameters)
    exact = truth(spec, [*operands[:2], one], **parameters)
    assert abs(ours.double().sum() / exact.sum() - 1) <= 0.01


@needs_kernels
def test_weights_are_right_on_average() -> None:
    for table, step in ((weights.level_weights(CLIP, LEVELS), -CLIP / 3), (weights.exponential_weights(), None)):
        mean = table.tables[0].astype(float).mean(axis=1)
        distances = table.step * torch.arange(weights.CODES).double().numpy()
        levels = distances if step is None else ((distances + table.step / 2) / step).round().clip(max=3) * step
        exact = table.one * torch.tensor(-levels).exp().numpy()
        assert table.tables.shape[1] == 1
        if step is None:
            assert mean[0, -1] == 0  # stands for every larger distance
            mean, exact = mean[:, :-1], exact[:-1]
        assert abs(mean[0] - exact).max() <= 1 / weights.VARIANTS
    # A byte is too coarse for exp(-9).
    assert weights.level_weights(-9.0, tuple(Exaq(bits=2).exponentials(-9.0))).tables.shape[1] == 2


@needs_kernels
@pytest.mark.parametrize("queries", [2, 40])
def test_a_mask_or_an_offset_on_another_device_is_not_read(queries: int) -> None:
    """Its address is not valid on the CPU."""
    operands, elsewhere = inputs(1, 2, queries, 64), torch.device("meta")
    mask = torch.ones(queries, queries, dtype=torch.bool, device=elsewhere)
    with pytest.raises(TypeError, match=r"mask must be boolean, True where attended, on cpu, got torch.bool on meta"):
        fused.attend(*operands, AttentionCall.by_levels(CLIP, LEVELS), mask)
    with pytest.raises(NotImplementedError, match="meta tensor"):
        fused.attend(*operands, AttentionCall.by_exponential(torch.zeros(2, device=elsewhere), 1.0))


@needs_kernels
def test_invalid_calls_are_rejected() -> None:
    with pytest.raises(ValueError, match="4, 8 or 16 levels"):
        AttentionCall.by_levels(-1.0, [0.3, 1.0])
    with pytest.raises(ValueError, match="positive and finite"):
        AttentionCall.by_exponential(torch.tensor(0.0), math.inf)
    with pytest.raises(ValueError, match=r"offset must be \(2,\) or a scalar, got \(3,\)"):
        fused.attend(*inputs(1, 2, 40, 64), AttentionCall.by_exponential(torch.zeros(3), 1.0))


@needs_kernels
def test_a_wrong_weight_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    operands, right = inputs(1, 2, 40, 64), weights.level_weights(CLIP, LEVELS)
    call = AttentionCall.by_levels(CLIP, LEVELS)
    result = fused.attend(*operands, call)
    tables = right.tables.copy()
    tables[0, 0, 0, 0] -= 1
    monkeypatch.setattr(attention, "level_weights", lambda *_: dataclasses.replace(right, tables=tables))
    assert not torch.equal(fused.attend(*operands, call), result)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides_and_dtypes(dtype: torch.dtype) -> None:
    operands = [x.to(dtype) for x in inputs(2, 3, 40, 64)]
    for spec, parameters in methods([x.float() for x in operands]):
        result = softmaxkit.attention(*operands, spec, **parameters)
        assert result.dtype == dtype
        turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in operands]
        assert torch.equal(softmaxkit.attention(*turned, spec, **parameters), result)
        spaced = [torch.stack([x, x], -1)[..., 0] for x in operands]
        assert torch.equal(softmaxkit.attention(*spaced, spec, **parameters), result)
        wide = softmaxkit.attention(*(x.float() for x in operands), spec, **parameters)
        assert torch.equal(wide.to(dtype), result)


@needs_kernels
@pytest.mark.parametrize("queries", [1, 3, 40])
def test_results_do_not_depend_on_the_number_of_threads(queries: int) -> None:
    operands = inputs(2, 4, queries, 64, keys=3000)
    before = torch.get_num_threads()
    try:
        for spec, parameters in methods(operands):
            torch.set_num_threads(1)
            alone = softmaxkit.attention(*operands, spec, **parameters)
            torch.set_num_threads(3)
            assert torch.equal(softmaxkit.attention(*operands, spec, **parameters), alone)
    finally:
        torch.set_num_threads(before)


@needs_kernels
def test_a_few_queries_are_in_float32() -> None:
    operands = inputs(2, 4, 2, 64, keys=2500, key_heads=2)
    mask = random_mask(2, 4, 2, 2500)
    for spec, parameters in methods(operands):
        for attended in (None, mask):
            result = softmaxkit.attention(*operands, spec, attended, enable_gqa=True, **parameters)
            exact = truth(spec, operands, attended, **parameters)
            assert rms(result - exact) <= 1e-5 * rms(exact)
    assert (result[:, :, 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
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
    with pytest.raises(ValueError, match=r"this cache takes \(2, 2, tokens, 64\)"):
        cache.append(key[:, :1], value[:, :1])
    with pytest.raises(TypeError, match="this cache takes"):
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
    monkeypatch.setattr("softmaxkit.fused_attention.stripes.STRIPE", 1000)
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


def test_exact_runs_torchs_own_attention() -> None:
    operands = inputs(2, 3, 40, 64)
    for options in ({}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": torch.randn(40, 40)}):
        expected = scaled_dot_product_attention(*operands, **options)
        assert torch.equal(softmaxkit.attention(*operands, Exact(), **options), expected)


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
def test_gradients_and_dropout(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softmaxkit.fused_attention.stripes.STRIPE", 200)
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
    with pytest.raises(ValueError, match="4 heads of queries and 2 of keys go with enable_gqa=True"):
        softmaxkit.attention(query, key, value, Exaq(), clip=CLIP)
    with pytest.raises(ValueError, match="Exaq requires clip"):
        softmaxkit.attention(query, key, value, Exaq(), enable_gqa=True)
    with pytest.raises(ValueError, match="is_causal goes without attn_mask"):
        softmaxkit.attention(query, query, query, Exaq(), random_mask(20, 20), is_causal=True, clip=CLIP)
    with pytest.raises(ValueError, match="values the batch, heads and tokens of the keys"):
        softmaxkit.attention(query, key, value[:, :, :5], Exaq(), enable_gqa=True, clip=CLIP)
    with pytest.raises(ValueError, match="2, 3 or 4 axes"):
        softmaxkit.attention(query, key[0], value, Exaq(), clip=CLIP)
    with pytest.raises(ValueError, match="does not broadcast to scores"):
        softmaxkit.attention(query, query, query, Exaq(), random_mask(7, 20), clip=CLIP)
    with pytest.raises(TypeError, match="of one dtype"):
        softmaxkit.attention(query, key.double(), value, Exaq(), clip=CLIP)
    with pytest.raises(TypeError, match="a mask is boolean"):
        softmaxkit.attention(query, query, query, Exaq(), torch.ones(20, 20, dtype=torch.int), clip=CLIP)
    with pytest.raises(TypeError, match="expected a spec such as"):
        softmaxkit.attention(query, key, value, "exaq")  # type: ignore[arg-type]


def test_modules_are_cached_and_created_outside_inference_mode() -> None:
    arguments: Any = (ConSmax(), "float", 2, 5, {"beta": 3.0, "gamma": 1.5}, torch.device("cpu"))
    with torch.inference_mode():
        module = module_for(*arguments)
    assert not any(each.is_inference() or each.requires_grad for each in module.parameters())
    assert module_for(*arguments) is module
    per_head = {"beta": torch.tensor([3.0, 4.0]), "gamma": 1.5}
    assert module_for(ConSmax(), "float", 2, 5, per_head, torch.device("cpu")) is not module
