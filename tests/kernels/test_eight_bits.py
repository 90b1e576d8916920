"""How far products of 8 bits go from float64: keys that no query sees, outliers, and how many queries come at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import softmaxkit
from expected_errors import FEW_ROWS, error, methods, truth
from softmaxkit import ConSmax, KeyValueCache
from softmaxkit.kernels import backends
from softmaxkit.kernels import native_attention as fused
from softmaxkit.kernels.attention import FEW

BUILDS = [*backends.NATIVE, "none"]
METHODS = methods()


@pytest.fixture(params=BUILDS)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param != "none" and request.param not in backends._supported():
        pytest.skip(f"no {request.param} kernels here")
    monkeypatch.setenv(backends.VARIABLE, request.param)
    backends.reset()
    yield request.param
    monkeypatch.undo()
    backends.reset()


def inputs(queries: int, keys: int, batch: int = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(queries + keys)
    query, key, value = (torch.randn(batch, 2, n, 64, generator=random) for n in (queries, keys, keys))
    return [query * 2, key + 1, value]


UNSEEN = ["keys", "heads", "batch", "rows", "causal"]


@pytest.mark.parametrize("kind", UNSEEN)
def test_what_no_query_sees_counts_for_nothing(kind: str, build: str) -> None:
    given = inputs(40, 100, batch=2)
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
    for spec, numbers, expected in METHODS:

        def run(tensors: list[Tensor], spec: Any = spec, numbers: Any = numbers) -> Tensor:
            return softmaxkit.attention(*tensors, spec, None if causal else mask, is_causal=causal, **numbers)

        results = [
            run([given[0], *(torch.where(unseen[..., None], x * factor, x) for x in given[1:])])
            for factor in (1.0, 100.0, 1000.0, 1e30)
        ]
        assert all(torch.equal(results[0], other) for other in results[1:])
        assert error(results[0], truth(spec, numbers, given, mask)) <= FEW_ROWS * expected


def outlier(kind: str, given: list[Tensor]) -> list[Tensor]:
    query, key, value = (x.clone() for x in given)
    if kind == "balanced channel":  # as in models: where keys are large, queries are small
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
def test_outliers_take_a_finer_path_or_stay_within_the_error(kind: str, build: str) -> None:
    given = outlier(kind, inputs(40, 300))
    for spec, numbers, expected in METHODS:
        found = softmaxkit.attention(*given, spec, **numbers)
        choice = softmaxkit.explain(spec, *given, **numbers)
        assert error(found, truth(spec, numbers, given)) <= (expected if choice.native else 1e-5)
        assert choice.native == (build != "none" and kind == "balanced channel")
        if not choice.native and build != "none":
            assert "8 bits would change these" in str(choice)


@pytest.mark.skipif(backends.native() is None, reason="the native kernels are not built")
def test_without_the_finer_path_outliers_err_by_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "too_coarse", lambda scores, values: "")
    for kind, (spec, numbers, expected) in product(("channel", "key", "value"), METHODS):
        given = outlier(kind, inputs(40, 300))
        assert error(softmaxkit.attention(*given, spec, **numbers), truth(spec, numbers, given)) > expected


@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_a_query_is_the_same_whatever_comes_with_it(padding: str, build: str) -> None:
    given = inputs(1000, 500)
    mask = None
    if padding != "none":
        where = slice(0, 60) if padding == "left" else slice(440, 500)
        given[1][:, :, where] *= 30
        given[2][:, :, where] *= 30
        mask = torch.ones(1, 1, 1, 500, dtype=torch.bool)
        mask[..., where] = False
    cache = KeyValueCache(given[1], given[2])
    for spec, numbers, expected in METHODS:
        exact = truth(spec, numbers, given, mask)[:, :, :16]
        for count in (1, 2, 16, 64, 1000):
            query = given[0][:, :, :count]
            found = softmaxkit.attention(query, *given[1:], spec, mask, **numbers)[:, :, :16]
            assert error(found, exact[:, :, :count]) <= (FEW_ROWS * expected if count > FEW else 1e-5)
        held = [given[0][:, :, :16], cache.keys, cache.values]
        of_cache = truth(spec, numbers, held, mask)
        assert error(cache.attention(held[0], spec, mask, **numbers), of_cache) <= FEW_ROWS * expected


def test_consmax_leaves_out_what_its_table_does_not_reach() -> None:
    """Keys 12 nats below the largest weigh 6e-6 each; e^-7.9 for each would be 60 times that."""
    query = torch.zeros(1, 1, 16, 8)
    query[..., 0] = math.sqrt(8)
    key, value = torch.zeros(1, 1, 1000, 8), torch.ones(1, 1, 1000, 1)
    key[..., 0] = -12.0
    key[:, :, 0] = 0.0
    found = softmaxkit.attention(query, key, value, ConSmax(), beta=0.0, gamma=1.0)
    assert (found - (1 + 999 * math.exp(-12))).abs().max() <= 0.01
