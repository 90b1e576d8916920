"""The result of a sequence does not depend on the other sequences of its batch, whatever numbers these have."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import softmaxkit
from softmaxkit import ConSmax, Exaq, Index, KeyValueCache, PagedKeyValueCache, Sigmoid, Spec
from softmaxkit.kernels import backends

if backends.native() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

METHODS: dict[str, tuple[Spec, dict[str, Any]]] = {
    "exaq": (Exaq(bits=3), {"clip": -5.0}),
    "consmax": (ConSmax(), {"beta": [0.5, 1.0, 0.0, 0.2], "gamma": 9.0}),
    "exaq of heads": (Exaq(bits=3, share="head"), {"clip": [-5.0, -9.0, -3.0, -4.0]}),
    "index": (Index(), {}),
    "sigmoid": (Sigmoid(), {"bias": [-3.0, -4.0, -5.0, -3.5]}),
}
SEQUENCES, HEADS, KEYS = 3, 4, 80
MANY, FEW = 40, 2
LENGTHS = torch.tensor([70, 50, 64])
MASK = (torch.arange(KEYS) < LENGTHS[:, None])[:, None, None]


def inputs(queries: int, other: Any) -> list[Tensor]:
    """Return queries, keys and values, of which those of the second sequence have bad numbers."""
    random = torch.Generator().manual_seed(0)
    shapes = (SEQUENCES, HEADS, queries, 32), *[(SEQUENCES, 2, KEYS, 32)] * 2
    query, key, value = (torch.randn(shape, generator=random) for shape in shapes)
    if other == "coarse":
        query[1], key[1, ..., 0] = query[1] * 30, key[1, ..., 0] * 1000
    elif other is not None:
        query[1, 0, 0, 0] = other
    return [query, key, value]


def tensors(query: Tensor, key: Tensor, value: Tensor, which: slice, spec: Spec, **numbers: Any) -> Tensor:
    mask = MASK[which]
    return softmaxkit.attention(query[which], key[which], value[which], spec, mask, enable_gqa=True, **numbers)


def cache(query: Tensor, key: Tensor, value: Tensor, which: slice, spec: Spec, **numbers: Any) -> Tensor:
    codes = KeyValueCache(key[which], value[which], bits=4)
    return codes.attention(query[which], spec, lengths=LENGTHS[which], **numbers)


def pages(query: Tensor, key: Tensor, value: Tensor, which: slice, spec: Spec, **numbers: Any) -> Tensor:
    pool = PagedKeyValueCache(
        SEQUENCES * KEYS // 16, 16, num_kv_heads=2, head_size=32, sample_keys=key[0].transpose(0, 1)
    )
    tables = torch.randperm(pool.num_blocks, generator=torch.Generator().manual_seed(1)).int().view(SEQUENCES, -1)
    slots = (tables[:, :, None] * 16 + torch.arange(16)).flatten()
    pool.reshape_and_cache(*(x.transpose(1, 2).flatten(0, 1) for x in (key, value)), slots)
    query = query[which].squeeze(2)
    return pool.attention(query, spec, tables[which], LENGTHS[which], **numbers)[:, :, None]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("attention", "queries"), [(tensors, MANY), (tensors, FEW), (cache, FEW), (pages, 1)])
@pytest.mark.parametrize("other", [None, math.nan, math.inf, "coarse"])
@torch.no_grad()
def test_a_sequence_alone_and_in_a_batch(
    method: str, attention: Callable[..., Tensor], queries: int, other: Any
) -> None:
    (spec, numbers), given = METHODS[method], inputs(queries, other)
    together = attention(*given, slice(None), spec, **numbers)
    for first in range(SEQUENCES):
        alone = attention(*given, slice(first, first + 1), spec, **numbers)
        if first == 1:  # by torch, over fewer keys if alone
            assert torch.allclose(together[first], alone[0], rtol=1e-5, atol=1e-6, equal_nan=True)
        else:
            assert torch.equal(together[first], alone[0])
