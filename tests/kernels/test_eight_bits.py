"""Error of 8-bit products against float64: keys that no query attends to, outliers, and the number of queries."""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import softmaxkit
from expected_errors import FEW_ROWS, error, methods, truth
from softmaxkit import ConSmax, KeyValueCache, Sigmoid
from softmaxkit.kernels import backends, builds
from softmaxkit.kernels import native_attention as fused
from softmaxkit.kernels.attention import FEW

BUILDS = [*builds.NATIVE, "none"]
METHODS = methods()


@pytest.fixture(params=BUILDS)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "none" and request.param not in builds.supported():
        pytest.skip(f"no {request.param} kernels here")
    monkeypatch.setenv(builds.VARIABLE, request.param)
    backends.reset()
    return request.param


def inputs(queries: int, keys: int, batch: int = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(queries + keys)
    query, key, value = (torch.randn(batch, 2, n, 64, generator=random) for n in (queries, keys, keys))
    return [query * 2, key + 1, value]


UNSEEN = ["keys", "heads", "batch", "rows", "causal"]


@pytest.mark.parametrize("kind", UNSEEN)
def test_keys_that_no_query_attends_to_have_no_effect(kind: str, build: str) -> None:
    operands = inputs(40, 100, batch=2)
    mask = torch.ones(2, 2, 40, 100, dtype=torch.bool)
    mask[..., 70:] = False
    causal = kind == "causal"
    if kind == "keys":
        mask = mask[:1, :1, :1]
    if kind == "heads":
        mask[:, 1, :, :9] = False
    if kind == "batch":
        mask = mask[:, :1]
        mask[1, :, :, :30] = False
    if kind == "rows":
        mask = mask & torch.ones(40, 100, dtype=torch.bool).tril(30)
    if causal:
        mask = torch.ones(40, 100, dtype=torch.bool).tril()
    unseen = ~mask.expand(2, 2, 40, 100).any(2)
    for spec, parameters, expected in METHODS:

        def run(tensors: list[Tensor], spec: Any = spec, parameters: Any = parameters) -> Tensor:
            return softmaxkit.attention(*tensors, spec, None if causal else mask, is_causal=causal, **parameters)

        results = [
            run([operands[0], *(torch.where(unseen[..., None], x * factor, x) for x in operands[1:])])
            for factor in (1.0, 100.0, 1000.0, 1e30)
        ]
        assert all(torch.equal(results[0], other) for other in results[1:])
        assert error(results[0], truth(spec, parameters, operands, mask)) <= FEW_ROWS * expected


def outlier(kind: str, operands: list[Tensor]) -> list[Tensor]:
    query, key, value = (x.clone() for x in operands)
    if kind == "balanced channel":  # as in trained models: queries are small where keys are large
        key[..., 3] *= 50
        query[..., 3] /= 50
    if kind == "channel":
        key[..., 3] *= 50
    if kind == "key":
        key[:, :, 5] *= 100
    if kind == "value":
        value[:, :, 5] *= 100
    return [query, key, value]


@pytest.mark.parametrize("kind", ["balanced channel", "channel", "key", "value"])
def test_outliers_run_in_float32_or_stay_within_the_error(kind: str, build: str) -> None:
    operands = outlier(kind, inputs(40, 300))
    for spec, parameters, expected in METHODS:
        result = softmaxkit.attention(*operands, spec, **parameters)
        choice = softmaxkit.explain(spec, *operands, **parameters)
        assert error(result, truth(spec, parameters, operands)) <= (expected if choice.native else 1e-5)
        assert choice.native == (build != "none" and kind == "balanced channel")
        if not choice.native and build != "none":
            assert "8 bits would change these" in str(choice)


@pytest.mark.skipif(backends.native() is None, reason="the native kernels are not built")
def test_outliers_in_8_bits_exceed_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "too_coarse", lambda *_: "")
    for kind, (spec, parameters, expected) in product(("channel", "key", "value"), METHODS):
        operands = outlier(kind, inputs(40, 300))
        assert error(softmaxkit.attention(*operands, spec, **parameters), truth(spec, parameters, operands)) > expected


def in_8_bits(query: Tensor, key: Tensor) -> Tensor:
    """Return the scores of queries and keys in 8 bits, in float64, as native/packed_operands.hpp describes them."""
    query, key = query.double() / 8, key.double()
    low, high = key.amin(2, keepdim=True), key.amax(2, keepdim=True)
    centre, step = (low + high) / 2, (high - low) / 254
    mean = ((key.mean(2, keepdim=True) - centre) / step).round()
    wide = query * step
    query_step = wide.abs().amax(3, keepdim=True) / 127
    of_codes = (wide / query_step).round() @ (((key - centre) / step).round() - mean).mT
    return query_step * of_codes + query @ (centre + step * mean).mT


EXPECTED = [
    "normal",
    "channel",
    "heavy tails",
    "large queries",
    "a large query",
    "large queries but each tenth",
    "many far from 0",
]


def operands_of(kind: str) -> list[Tensor]:
    query, key, value = inputs(*((20, 1 << 18) if kind == "many far from 0" else (320, 600)))
    if kind == "many far from 0":  # a float32 sum of these keys would be off by many of their standard deviations
        key += 1003
    if kind == "channel":
        key[..., 3] *= 16
    if kind == "heavy tails":
        key = key**3
    if kind == "large queries":
        query *= 7
    if kind == "a large query":
        query[:, :, 0] *= 40
    if kind == "large queries but each tenth":
        query[:, :, torch.arange(320) % 10 > 0] *= 20
    return [query, key, value]


@cache
def error_made(kind: str) -> float:
    query, key, _ = operands_of(kind)
    exact = query.double() @ key.double().mT / 8
    return (in_8_bits(query, key) - exact).square().mean((0, 2, 3)).sqrt().max().item()


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_expected_error_of_scores_is_the_one_that_8_bits_make(
    kind: str, build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if build == "none":
        pytest.skip("torch needs no 8 bits")
    expected = []
    decide = fused.too_coarse
    monkeypatch.setattr(fused, "too_coarse", lambda *of: expected.append(of[0]) or decide(*of))
    operands = operands_of(kind)
    choice = softmaxkit.explain(METHODS[0][0], *operands, **METHODS[0][1])
    made = error_made(kind)
    assert expected == [pytest.approx(made, rel=0.05)]
    assert choice.native == (made <= fused.EIGHT_BITS.scores)
    assert choice.native == (kind not in ("heavy tails", "large queries", "large queries but each tenth"))
    softmaxkit.attention(*operands, METHODS[0][0], **METHODS[0][1])  # knows it once it has run, if not before
    assert expected[-1] == pytest.approx(made, rel=0.05)
    assert bool(decide(expected[-1], 0)) != choice.native


@pytest.mark.parametrize(("times", "is_native"), [(1, True), (10, True), (20, False), (50, False)])
def test_the_expected_error_of_values_is_the_one_that_8_bits_make(
    times: float, is_native: bool, build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if build == "none":
        pytest.skip("torch needs no 8 bits")
    query, key, value = inputs(40, 300)
    value[:, :, 5] *= times
    expected = []
    decide = fused.too_coarse
    monkeypatch.setattr(fused, "too_coarse", lambda *of: expected.append(of[1]) or decide(*of))
    choice = softmaxkit.explain(METHODS[0][0], query, key, value, **METHODS[0][1])
    largest = value.double().abs().amax(2, keepdim=True)
    step = largest / 127
    rounding = ((value / step).round() * step - value).square().mean((2, 3)).sqrt()
    sizes = (value.double().abs().sum(2, keepdim=True) - largest) / 299
    made = (rounding / sizes.square().mean((2, 3)).sqrt()).max().item()
    assert expected == [pytest.approx(made, rel=0.05)]
    assert choice.native == (made <= fused.EIGHT_BITS.values) == is_native


@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_a_query_does_not_depend_on_the_other_queries(padding: str, build: str) -> None:
    operands = inputs(1000, 500)
    mask = None
    if padding != "none":
        where = slice(0, 60) if padding == "left" else slice(440, 500)
        operands[1][:, :, where] *= 30
        operands[2][:, :, where] *= 30
        mask = torch.ones(1, 1, 1, 500, dtype=torch.bool)
        mask[..., where] = False
    cache = KeyValueCache(operands[1], operands[2])
    for spec, parameters, expected in METHODS:
        exact = truth(spec, parameters, [operands[0][:, :, :16], *operands[1:]], mask)
        for count in (1, 2, 16, 64, 1000):
            query = operands[0][:, :, :count]
            result = softmaxkit.attention(query, *operands[1:], spec, mask, **parameters)[:, :, :16]
            assert error(result, exact[:, :, :count]) <= (FEW_ROWS * expected if count > FEW else 1e-5)
        cached_operands = [operands[0][:, :, :16], cache.keys, cache.values]
        exact_cached = truth(spec, parameters, cached_operands, mask)
        assert error(cache.attention(cached_operands[0], spec, mask, **parameters), exact_cached) <= FEW_ROWS * expected


def test_consmax_drops_keys_beyond_its_table() -> None:
    """Keys 12 nats below the maximum have weights of 6e-6; the table's last exponential, e^-7.9, is 60 times that."""
    query = torch.zeros(1, 1, 16, 8)
    query[..., 0] = math.sqrt(8)
    key, value = torch.zeros(1, 1, 1000, 8), torch.ones(1, 1, 1000, 1)
    key[..., 0] = -12.0
    key[:, :, 0] = 0.0
    result = softmaxkit.attention(query, key, value, ConSmax(), beta=0.0, gamma=1.0)
    assert (result - (1 + 999 * math.exp(-12))).abs().max() <= 0.01


@pytest.mark.parametrize("spread", [0.05, 0.1, 0.2, 0.35, 0.45, 0.6, 3.0, 12.0])
@pytest.mark.parametrize("bias", [-3.0, -0.7, -0.2, 0.3, 0.8, 4.0])
def test_sums_of_rows_whose_scores_fill_the_range_of_16_bits(spread: float, bias: float, build: str) -> None:
    """Queries and keys are parallel, so that no anchor above the largest score may be in range."""
    places = torch.linspace(-1, 1, 1024)[torch.randperm(1024, generator=torch.Generator().manual_seed(0))]
    query, key = torch.ones(1, 1, 64, 64), (places * spread / 2 / 8)[None, None, :, None].expand(1, 1, 1024, 64)
    scores = query.double() @ key.double().mT / 8
    for spec, numbers, weights in (
        (Sigmoid(), {"bias": bias}, torch.sigmoid(scores + bias)),
        (ConSmax(ceiling=100.0), {"beta": -bias, "gamma": 1.0}, torch.exp(scores + bias).clamp(max=100.0)),
    ):
        result = softmaxkit.attention(query, key, torch.ones(1, 1, 1024, 1), spec, **numbers)
        assert (result / weights.sum(-1, keepdim=True) - 1).abs().max() < 0.025
