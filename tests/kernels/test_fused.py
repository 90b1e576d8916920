"""Fused attention: equal on every instruction set, float64 beside it, and PyTorch's own meaning of arguments."""

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
    """Return queries, keys and values whose scores have some spread; keys and values have means that are not 0."""
    batch, heads, queries, channels = shape
    random = torch.Generator().manual_seed(sum(shape) + keys)
    size = (batch, key_heads or heads, keys or queries, channels)
    query = torch.randn(*shape, generator=random) * spread
    key = torch.randn(size, generator=random) + torch.randn(*size[:2], 1, channels, generator=random)
    value = torch.randn(*size[:3], values or channels, generator=random)
    return [query, key, value + torch.randn(*size[:2], 1, values or channels, generator=random) / 2]


def some_of(*shape: int) -> Tensor:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[..., :1, :] = False  # a query that attends to nothing
    return mask


def truth(
    spec: Any, given: list[Tensor], mask: Tensor | None = None, scale: float | None = None, **real: Any
) -> Tensor:
    """Return attention in float64 with the whole matrix of scores."""
    query, key, value = (x.double() for x in given)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    found: Tensor = spec.module(heads=query.shape[1], **real)(scores, mask) @ value
    return found.detach()


def rms(values: Tensor) -> float:
    return values.double().pow(2).mean().sqrt().item()


def methods(given: list[Tensor]) -> list[tuple[Any, dict[str, Any]]]:
    """Return EXAQ and ConSmax, whose offsets bring rows near a sum of 1, as training does."""
    query, key, _ = given
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    total = (query.double() @ key.double().mT / math.sqrt(query.shape[-1])).logsumexp(-1).mean((0, 2))
    return [(Exaq(), {"clip": CLIP}), (ConSmax(), {"beta": total.float(), "gamma": 1.0})]


def call_of(spec: Any, real: dict[str, Any]) -> AttentionCall:
    if isinstance(spec, Exaq):
        return AttentionCall.by_levels(CLIP, LEVELS)
    return AttentionCall.by_exponential(real["beta"], 1.0)


def numbers_of(spec: Any) -> dict[str, Any]:
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
@pytest.mark.parametrize(("shape", "sizes", "how"), CASES)
def test_instruction_sets_give_equal_numbers_near_float64(
    shape: tuple[int, ...], sizes: dict[str, int], how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(*shape, **sizes)
    how = {**how, "mask": some_of(*how["mask"])} if "mask" in how else how
    queries, keys = shape[2], given[1].shape[2]
    seen = torch.ones(queries, keys, dtype=torch.bool).tril() if how.get("is_causal") else how.get("mask")
    few = shape[1] // given[1].shape[1] * queries <= FEW
    for spec, real in methods(given):
        results = []
        for module in modules():
            monkeypatch.setattr(launch, "native", lambda module=module: module)
            results.append(fused.attend(*given, call_of(spec, real), **how))
        if not few:  # integers are equal; floats are summed in another order
            assert all(torch.equal(results[0], other) for other in results[1:])
        exact = truth(spec, given, seen, how.get("scale"), **real)
        error = max(rms(other - exact) for other in results)
        # A score errs by about 1% of the spread of all: so does a probability, and a few take EXAQ's next level.
        assert error <= (1e-5 if few else 0.1 if spec == Exaq() else 0.04) * rms(exact)
        if seen is not None:
            hidden = ~seen.expand(*shape[:3], keys).any(-1)
            assert (results[0][hidden] == 0).all()


@needs_kernels
@pytest.mark.parametrize(("bits", "clip"), [(2, -5.0), (2, -9.0), (3, -6.0), (4, -6.0)])
def test_exaq_errs_less_than_its_own_levels_do(bits: Any, clip: float) -> None:
    given = inputs(1, 2, 700, 64)
    ours = softmaxkit.attention(*given, Exaq(bits=bits), clip=clip)
    method, exact = truth(Exaq(bits=bits), given, clip=clip), truth(Exact(), given)
    assert rms(ours - method) <= 0.5 * rms(method - exact)
    assert rms(ours - exact) <= 1.05 * rms(method - exact)


@needs_kernels
@pytest.mark.parametrize("spread", [0.01, 1.0, 2.0])
def test_consmax_keeps_the_small_probabilities(spread: float) -> None:
    given = inputs(1, 2, 1000, 64, spread=spread)
    spec, real = methods(given)[1]
    one = torch.ones_like(given[2])  # every output is the sum of a row's probabilities
    ours = softmaxkit.attention(*given[:2], one, spec, **real)
    exact = truth(spec, [*given[:2], one], **real)
    assert abs(ours.double().sum() / exact.sum() - 1) <= 0.01


@needs_kernels
def test_weights_are_right_on_average() -> None:
    for given, step in ((weights.level_weights(CLIP, LEVELS), -CLIP / 3), (weights.exponential_weights(), None)):
        mean = given.tables[0].astype(float).mean(axis=1)
        distances = given.step * torch.arange(weights.CODES).double().numpy()
        levels = distances if step is None else ((distances + given.step / 2) / step).round().clip(max=3) * step
        exact = given.one * torch.tensor(-levels).exp().numpy()
        assert given.tables.shape[1] == 1
        if step is None:
            assert mean[0, -1] == 0  # of whatever is farther away
            mean, exact = mean[:, :-1], exact[:-1]
        assert abs(mean[0] - exact).max() <= 1 / weights.VARIANTS
    assert (
        weights.level_weights(-9.0, tuple(Exaq(bits=2).exponentials(-9.0))).tables.shape[1] == 2
    )  # a byte does not hold exp(-9)


@needs_kernels
@pytest.mark.parametrize("queries", [2, 40])
def test_a_mask_or_an_offset_on_another_device_is_not_read(queries: int) -> None:
    """Its address would be none of the CPU's."""
    given, elsewhere = inputs(1, 2, queries, 64), torch.device("meta")
    mask = torch.ones(queries, queries, dtype=torch.bool, device=elsewhere)
    with pytest.raises(TypeError, match=r"mask must be boolean, True where attended, on cpu, got torch.bool on meta"):
        fused.attend(*given, AttentionCall.by_levels(CLIP, LEVELS), mask)
    with pytest.raises(NotImplementedError, match="meta tensor"):
        fused.attend(*given, AttentionCall.by_exponential(torch.zeros(2, device=elsewhere), 1.0))


@needs_kernels
def test_invalid_calls_are_rejected() -> None:
    with pytest.raises(ValueError, match="4, 8 or 16 levels"):
        AttentionCall.by_levels(-1.0, [0.3, 1.0])
    with pytest.raises(ValueError, match="positive and finite"):
        AttentionCall.by_exponential(torch.tensor(0.0), math.inf)
    with pytest.raises(ValueError, match=r"offset must be \(2,\) or a scalar, got \(3,\)"):
        fused.attend(*inputs(1, 2, 40, 64), AttentionCall.by_exponential(torch.zeros(3), 1.0))


@needs_kernels
def test_one_wrong_weight_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    given, right = inputs(1, 2, 40, 64), weights.level_weights(CLIP, LEVELS)
    call = AttentionCall.by_levels(CLIP, LEVELS)
    result = fused.attend(*given, call)
    tables = right.tables.copy()
    tables[0, 0, 0, 0] -= 1
    monkeypatch.setattr(attention, "level_weights", lambda *_: dataclasses.replace(right, tables=tables))
    assert not torch.equal(fused.attend(*given, call), result)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides_and_dtypes(dtype: torch.dtype) -> None:
    given = [x.to(dtype) for x in inputs(2, 3, 40, 64)]
    for spec, real in methods([x.float() for x in given]):
        found = softmaxkit.attention(*given, spec, **real)
        assert found.dtype == dtype
        turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in given]
        assert torch.equal(softmaxkit.attention(*turned, spec, **real), found)
        spaced = [torch.stack([x, x], -1)[..., 0] for x in given]
        assert torch.equal(softmaxkit.attention(*spaced, spec, **real), found)
        wide = softmaxkit.attention(*(x.float() for x in given), spec, **real)
        assert torch.equal(wide.to(dtype), found)


@needs_kernels
@pytest.mark.parametrize("queries", [1, 3, 40])
def test_threads_change_nothing(queries: int) -> None:
    given = inputs(2, 4, queries, 64, keys=3000)
    before = torch.get_num_threads()
    try:
        for spec, real in methods(given):
            torch.set_num_threads(1)
            alone = softmaxkit.attention(*given, spec, **real)
            torch.set_num_threads(3)
            assert torch.equal(softmaxkit.attention(*given, spec, **real), alone)
    finally:
        torch.set_num_threads(before)


@needs_kernels
def test_a_few_queries_are_in_float32() -> None:
    given = inputs(2, 4, 2, 64, keys=2500, key_heads=2)
    mask = some_of(2, 4, 2, 2500)
    for spec, real in methods(given):
        for seen in (None, mask):
            found = softmaxkit.attention(*given, spec, seen, enable_gqa=True, **real)
            exact = truth(spec, given, seen, **real)
            assert rms(found - exact) <= 1e-5 * rms(exact)
    assert (found[:, :, 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cache(dtype: torch.dtype) -> None:
    query, key, value = (x.to(dtype) for x in inputs(2, 4, 1, 64, keys=600, key_heads=2))
    cache = KeyValueCache(key[:, :, :100], value[:, :, :100])
    for first in range(100, 600, 125):
        cache.append(key[:, :, first : first + 125], value[:, :, first : first + 125])
    assert len(cache) == 600
    largest = key.float().abs().amax(-1, keepdim=True)
    assert ((cache.keys - key).float().abs() <= largest * (0.51 / 127 + 2.0**-8 * (dtype != torch.float32))).all()
    held = [query, cache.keys, cache.values]
    # Queries have 16 bits of their largest: scores of spread 2 err by 1e-4 at most.
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    for spec, real in [*methods([query.float(), key.float(), value.float()]), (Softermax(), {}), (Exact(), {})]:
        found = cache.attention(query, spec, **real)
        plain = softmaxkit.attention(*held, spec, enable_gqa=True, **real)
        assert found.dtype == dtype
        assert rms(found - plain) <= tolerance * rms(plain)
    mask = some_of(1, 600).logical_not()
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
def test_nan_and_infinity_go_where_torch_takes_them(queries: int, place: int, wrong: float) -> None:
    given = inputs(1, 2, queries, 64, keys=70)
    given[place][0, 0, 1, 5] = wrong
    for spec, real in methods(inputs(1, 2, queries, 64, keys=70)):
        found = softmaxkit.attention(*given, spec, **real)
        exact = truth(spec, given, **real).float()
        assert torch.equal(found.isfinite(), exact.isfinite())
        assert torch.equal(found.isnan(), exact.isnan())


@pytest.mark.parametrize("spec", [Exact(), Exact(schedule="online"), Softermax(), Exaq(), ConSmax()])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_plain_form(spec: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softmaxkit.fused_attention.stripes.STRIPE", 1000)
    monkeypatch.setattr(backends, "unavailable", lambda name: "this test asks for torch")
    given = [x.to(dtype) for x in inputs(2, 4, 30, 16, key_heads=2)]
    real = numbers_of(spec)
    tolerance = 1e-6 if dtype == torch.float64 else 0.02
    for mode, seen in product(("float", "integer"), (None, some_of(2, 4, 30, 30), some_of(30, 30))):
        found = softmaxkit.attention(*given, spec, seen, enable_gqa=True, mode=mode, **real)
        exact = truth(spec, given, seen, mode=mode, **real)
        assert found.dtype == dtype
        # In half precision a few scores are rounded into the next level.
        assert rms(found - exact) <= tolerance * rms(exact)
        if seen is not None:
            assert (found[:, :, 0] == 0).all()


def test_exact_is_pytorchs_own() -> None:
    given = inputs(2, 3, 40, 64)
    for how in ({}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": torch.randn(40, 40)}):
        assert torch.equal(softmaxkit.attention(*given, Exact(), **how), scaled_dot_product_attention(*given, **how))


@pytest.mark.parametrize("spec", [Exact(), Softermax(), Exaq(), ConSmax()])
def test_masks(spec: Any) -> None:
    given = inputs(2, 2, 30, 16)
    real = numbers_of(spec)
    seen = some_of(2, 1, 30, 30)
    plain = softmaxkit.attention(*given, spec, seen, **real)
    assert (plain[:, :, 0] == 0).all()
    for lowest in (-math.inf, torch.finfo(torch.float32).min, -1e4):
        added = torch.where(seen, 0.0, lowest)
        assert torch.allclose(softmaxkit.attention(*given, spec, added, **real), plain, atol=1e-6)
    causal = softmaxkit.attention(*given, spec, torch.ones(30, 30, dtype=torch.bool).tril(), **real)
    assert torch.allclose(softmaxkit.attention(*given, spec, is_causal=True, **real), causal, atol=1e-6)
    bias = torch.randn(2, 30, 30)
    by_hand = given[0].double() @ given[1].double().mT / 4 + bias.double()
    exact = spec.module(heads=2, **real)(by_hand) @ given[2].double()
    found = softmaxkit.attention(*given, spec, bias, **real)
    assert rms(found - exact.detach()) <= 1e-5 * rms(exact.detach())


@pytest.mark.parametrize("spec", [Exact(), Softermax(), Exaq(), ConSmax()])
def test_gradients_and_dropout(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softmaxkit.fused_attention.stripes.STRIPE", 200)
    given = [x.requires_grad_() for x in inputs(1, 2, 12, 16)]
    real = numbers_of(spec)
    softmaxkit.attention(*given, spec, is_causal=True, **real).square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() and x.grad.any() for x in given)
    torch.manual_seed(0)
    with torch.no_grad():
        kept = softmaxkit.attention(*given, spec, dropout_p=0.5, **real)
        assert not torch.equal(kept, softmaxkit.attention(*given, spec, **real))
        assert (softmaxkit.attention(*given, spec, dropout_p=1.0, **real) == 0).all()


@pytest.mark.parametrize("spec", [Exact(), Softermax(), Exaq(), ConSmax()])
def test_axes(spec: Any) -> None:
    given = inputs(1, 2, 20, 16)
    real = numbers_of(spec)
    found = softmaxkit.attention(*given, spec, **real)
    assert torch.allclose(softmaxkit.attention(*(x[0] for x in given), spec, **real), found[0], atol=1e-6)
    assert softmaxkit.attention(*(x[0, 0] for x in given), spec, **real).shape == (20, 16)
    assert softmaxkit.attention(given[0][:, :, :0], *given[1:], spec, **real).shape == (1, 2, 0, 16)
    assert (softmaxkit.attention(given[0], *(x[:, :, :0] for x in given[1:]), spec, **real) == 0).all()


def test_what_does_not_fit_is_refused() -> None:
    query, key, value = inputs(1, 4, 20, 16, key_heads=2)
    with pytest.raises(ValueError, match="4 heads of queries and 2 of keys go with enable_gqa=True"):
        softmaxkit.attention(query, key, value, Exaq(), clip=CLIP)
    with pytest.raises(ValueError, match="Exaq needs its clip"):
        softmaxkit.attention(query, key, value, Exaq(), enable_gqa=True)
    with pytest.raises(ValueError, match="is_causal goes without attn_mask"):
        softmaxkit.attention(query, query, query, Exaq(), some_of(20, 20), is_causal=True, clip=CLIP)
    with pytest.raises(ValueError, match="values the batch, heads and tokens of the keys"):
        softmaxkit.attention(query, key, value[:, :, :5], Exaq(), enable_gqa=True, clip=CLIP)
    with pytest.raises(ValueError, match="2, 3 or 4 axes"):
        softmaxkit.attention(query, key[0], value, Exaq(), clip=CLIP)
    with pytest.raises(ValueError, match="does not broadcast to scores"):
        softmaxkit.attention(query, query, query, Exaq(), some_of(7, 20), clip=CLIP)
    with pytest.raises(TypeError, match="of one dtype"):
        softmaxkit.attention(query, key.double(), value, Exaq(), clip=CLIP)
    with pytest.raises(TypeError, match="a mask is boolean"):
        softmaxkit.attention(query, query, query, Exaq(), torch.ones(20, 20, dtype=torch.int), clip=CLIP)
    with pytest.raises(TypeError, match="a spec is made as"):
        softmaxkit.attention(query, key, value, "exaq")  # type: ignore[arg-type]


def test_a_module_is_made_once_and_outside_of_inference_mode() -> None:
    given: Any = (ConSmax(), "float", 2, 5, {"beta": 3.0, "gamma": 1.5}, torch.device("cpu"))
    with torch.inference_mode():
        made = module_for(*given)
    assert not any(each.is_inference() or each.requires_grad for each in made.parameters())
    assert module_for(*given) is made
    told = {"beta": torch.tensor([3.0, 4.0]), "gamma": 1.5}
    assert module_for(ConSmax(), "float", 2, 5, told, torch.device("cpu")) is not made
