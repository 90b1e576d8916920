"""Fused attention by native kernels: equal on every instruction set, and close to float64."""

from __future__ import annotations

import dataclasses
import math
from importlib import import_module
from typing import Any

import pytest
import torch
from attention_inputs import CLIP, inputs, methods, random_mask, rms, truth

import softmaxkit
from softmaxkit import Exact, Exaq, Index, Sigmoid
from softmaxkit.kernels import attention, backends, builds, launch, weights
from softmaxkit.kernels import native_attention as fused
from softmaxkit.kernels.attention import FEW, AttentionCall

BUILT = backends.native() is not None
needs_kernels = pytest.mark.skipif(not BUILT, reason="the native kernels are not built")
LEVELS = tuple(Exaq(bits=2).exponentials(CLIP))
TWO_BYTES = {"clip": -9.0}
"""The clip of 2-bit levels whose weights need two bytes."""


def call_of(spec: Any, parameters: dict[str, Any]) -> AttentionCall:
    heads = next((len(x) for x in parameters.values() if not isinstance(x, float)), None)
    call: AttentionCall = spec.module(heads=heads, **parameters).attention_call()
    return call


def modules() -> list[Any]:
    return [import_module(f"softmaxkit.kernels._{name}") for name in builds.supported()]


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
    saturated = {"bias": torch.linspace(-9.0, 9.0, shape[1])}
    clips = {"clip": torch.linspace(-3.0, -9.0, shape[1]).tolist()}
    more = [(Exaq(), TWO_BYTES), (Sigmoid(), saturated), (Exaq(bits=4, share="head"), clips)]
    for spec, parameters in [*methods(operands), *more]:
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
    for table, step in ((weights.level_weights((CLIP,), (LEVELS,)), -CLIP / 3), (weights.exponential_weights(), None)):
        mean = table.tables[0, 0].astype(float).mean(axis=1)
        distances = table.steps[0] * torch.arange(weights.CODES).double().numpy()
        levels = distances if step is None else ((distances + table.steps[0] / 2) / step).round().clip(max=3) * step
        exact = table.tables.max() * torch.tensor(-levels).exp().numpy()
        assert table.tables.shape[2] == 1
        if step is None:
            assert mean[0, -1] == 0  # stands for every larger distance
            mean, exact = mean[:, :-1], exact[:-1]
        assert abs(mean[0] - exact).max() <= 1 / weights.VARIANTS
    # A byte is too coarse for exp(-9).
    wide = tuple(Exaq(bits=2).exponentials(-9.0))
    assert weights.level_weights((-9.0,), (wide,)).tables.shape[2] == 2
    assert weights.level_weights((-6.6,), (Index().powers,)).tables.shape[2] == 2
    # All heads have as many bytes.
    both = weights.level_weights((CLIP, -9.0), (LEVELS, wide)).tables
    assert both.shape[:3] == (2, weights.RESOLUTIONS, 2)
    assert (both[1] == weights.level_weights((-9.0,), (wide,)).tables[0]).all()


@needs_kernels
def test_weights_of_the_logistic_function_are_right_on_average() -> None:
    table = weights.logistic_weights()
    assert table.tables.shape == (len(table.anchors), weights.RESOLUTIONS, 1, weights.VARIANTS, weights.CODES)
    for place, anchor in enumerate(table.anchors):
        mean = torch.from_numpy(table.tables[place, 0, 0].astype(float)).mean(0)
        distances = table.steps[place] * torch.arange(weights.CODES).double()
        exact = table.one * torch.sigmoid(anchor - distances) / torch.sigmoid(torch.tensor(anchor))
        assert mean[0] == table.one
        assert mean[-1] == 0
        # The mean over a step of h differs from the middle's by h**2/24 of the second derivative, at most itself.
        bound = 1 / weights.VARIANTS + exact * table.steps[place] ** 2 / 24
        assert ((mean - exact).abs() <= bound)[1:-1].all()
        assert exact[-1] <= table.one * 1e-3


@needs_kernels
@pytest.mark.parametrize("spread", [1e-4, 0.01, 1.0])
@pytest.mark.parametrize("bias", [-12.0, -7.0, -0.3, 4.0, 12.0])
def test_logistic_attention_wherever_scores_are(bias: float, spread: float) -> None:
    """Below the first anchor, between anchors, above the last one, and where 16 bits reach no anchor."""
    operands = inputs(1, 2, 200, 64, spread=spread)
    result = softmaxkit.attention(*operands, Sigmoid(), bias=bias)
    exact = truth(Sigmoid(), operands, bias=bias)
    # Scores within half a step of 1/16 of their anchor weigh alike; with a spread of 1 they err by 1% of it, too.
    assert 0 < rms(result - exact) <= (0.02 if spread == 1 else 0.01) * rms(exact)


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
    with pytest.raises(ValueError, match="entries must be 2 to 64 numbers, finite and not negative"):
        AttentionCall.by_levels(-1.0, [1.0])
    with pytest.raises(ValueError, match="positive and finite"):
        AttentionCall.by_exponential(torch.tensor(0.0), math.inf)
    with pytest.raises(ValueError, match="as many levels for each of 2 clips, got \\[4, 16\\]"):
        AttentionCall.by_levels_of_heads([-1.0, -2.0], [LEVELS, Index(bits=4).powers])
    for queries in (1, 40):
        with pytest.raises(ValueError, match="one clip, or one for each of 2 heads, got 3"):
            fused.attend(*inputs(1, 2, queries, 64), AttentionCall.by_levels_of_heads([-1.0] * 3, [LEVELS] * 3))
    with pytest.raises(ValueError, match=r"offset must be \(2,\) or a scalar, got \(3,\)"):
        fused.attend(*inputs(1, 2, 40, 64), AttentionCall.by_exponential(torch.zeros(3), 1.0))


@needs_kernels
def test_a_wrong_weight_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    operands, right = inputs(1, 2, 40, 64), weights.level_weights((CLIP,), (LEVELS,))
    call = AttentionCall.by_levels(CLIP, LEVELS)
    result = fused.attend(*operands, call)
    tables = right.tables.copy()
    tables[0, 0, 0, 0, 0] -= 1
    monkeypatch.setattr(attention, "level_weights", lambda *_: dataclasses.replace(right, tables=tables))
    assert not torch.equal(fused.attend(*operands, call), result)


@needs_kernels
@pytest.mark.parametrize("dtype", launch.DTYPES)
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
