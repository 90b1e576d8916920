"""Results under another default dtype or device of torch: both are global, and kernels read raw memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import softmaxkit
from softmaxkit import ConSmax, Exact, Exaq, KeyValueCache, PagedKeyValueCache, Softermax, Spec
from softmaxkit.kernels.backends import backend_name
from softmaxkit.kernels.packed import levels

GENERATOR = torch.Generator().manual_seed(0)
SCORES = torch.randn(2, 3, 5, 40, generator=GENERATOR)
QUERY, KEY, VALUE = (torch.randn(2, 4, 70, 32, generator=GENERATOR) for _ in range(3))
METHODS: list[tuple[Spec, dict[str, Any]]] = [
    (Exact(), {}),
    (ConSmax(), {"beta": 1.0, "gamma": 50.0}),
    (Softermax(), {}),
    (Exaq(bits=2), {"clip": -4.0}),
]


def rows(spec: Spec, numbers: dict[str, Any]) -> Iterator[Tensor]:
    for mode in ("float", "integer"):
        yield softmaxkit.softmax(SCORES, spec, mode=mode, **numbers)


def attentions(spec: Spec, numbers: dict[str, Any]) -> Iterator[Tensor]:
    for mode in ("float", "integer"):
        for query in (QUERY, QUERY[:, :, -1:]):
            yield softmaxkit.attention(query, KEY, VALUE, spec, mode=mode, is_causal=query is QUERY, **numbers)


def caches(spec: Spec, numbers: dict[str, Any]) -> Iterator[Tensor]:
    for bits in (8, 4):
        cache = KeyValueCache(KEY[:, :, :50], VALUE[:, :, :50], bits)
        cache.append(KEY[:, :, 50:], VALUE[:, :, 50:])
        yield from (cache.keys, cache.values)
        for queries in (1, 70):
            yield cache.attention(QUERY[:, :, -queries:], spec, **numbers)


def pages(spec: Spec, numbers: dict[str, Any]) -> Iterator[Tensor]:
    for bits in (8, 4):
        cache = PagedKeyValueCache(num_blocks=8, block_size=16, num_kv_heads=4, head_size=32, bits=bits)
        cache.reshape_and_cache(KEY[0].transpose(0, 1), VALUE[0].transpose(0, 1), torch.arange(70, device="cpu"))
        table = torch.arange(5, dtype=torch.int32, device="cpu")[None]
        lengths = torch.full((1,), 70, device="cpu")
        yield cache.attention(QUERY[:1, :, -1:], spec, table, lengths, **numbers)


def others(spec: Spec, numbers: dict[str, Any]) -> Iterator[Tensor]:
    yield from softmaxkit.softmax_topk(SCORES, 3)
    if isinstance(spec, Exaq) and backend_name() != "torch":
        yield from levels(SCORES, -4.0, [0.02, 0.1, 0.3, 1.0])[:2]


@contextmanager
def default(of: torch.dtype | torch.device) -> Iterator[None]:
    if isinstance(of, torch.device):
        with of:
            yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(of)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("of", [torch.bfloat16, torch.float64, torch.device("meta")], ids=str)
@pytest.mark.parametrize(("spec", "numbers"), METHODS, ids=lambda x: getattr(x, "method", ""))
@pytest.mark.parametrize("run", [rows, attentions, caches, pages, others])
def test_results_do_not_depend_on_it(
    run: Callable[[Spec, dict[str, Any]], Iterator[Tensor]],
    spec: Spec,
    numbers: dict[str, Any],
    of: torch.dtype | torch.device,
) -> None:
    expected = list(run(spec, numbers))
    if isinstance(of, torch.device) and isinstance(spec, ConSmax) and run in (rows, attentions):
        pytest.skip("modules are made on the default device, as torch's are")
    with default(of):
        results = list(run(spec, numbers))
    for result, usual in zip(results, expected, strict=True):
        assert (result.dtype, result.device) == (usual.dtype, usual.device)
        assert torch.equal(result, usual)
