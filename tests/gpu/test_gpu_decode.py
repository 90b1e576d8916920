"""A few queries, as in generation, against float64: keys split among programs, parts merged, and 8-bit caches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from attention_cases import FORMS, FROM_ZERO, LOGISTIC, OF_HEADS, WEIGHTS, Case, float64_attention
from torch import Tensor

import softmaxkit
from softmaxkit import Exact, KeyValueCache, Softermax, Spec

pytest.importorskip("triton")

CASES = [
    Case(queries=1, keys=300),
    Case(batch=2, heads=6, key_heads=2, queries=2, keys=130, channels=24, values=40),
    Case(heads=4, key_heads=1, queries=3, keys=65, is_causal=True),
    Case(batch=2, queries=2, keys=200, mask=(2, 1, 2, 200), scale=-0.3),
    Case(queries=1, keys=1, channels=1, values=3),
    Case(queries=1, keys=70, values=136),  # merged in two blocks of channels
]
ALL = [*WEIGHTS[:3], (Exact(), {}), (Softermax(), {}), LOGISTIC, FROM_ZERO, OF_HEADS]


def truth(case: Case, tensors: list[Tensor], spec: Spec, numbers: dict[str, Any], mask: Tensor | None) -> Tensor:
    return float64_attention([x.detach().double() for x in tensors], spec, numbers, mask, case).detach()


@pytest.fixture
def splits(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> list[int]:
    """Return into how many parts keys were split."""
    from softmaxkit.kernels.triton import decode

    counts: list[int] = []
    before = decode.split

    def watch(*arguments: Any) -> tuple[int, int]:
        counts.append(before(*arguments)[0])
        return before(*arguments)

    monkeypatch.setattr(decode, "split", watch)
    return counts


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("spec", "numbers"), FORMS, ids=str)
def test_a_few_queries(
    case: Case, spec: Spec, numbers: dict[str, Any], device: torch.device, splits: list[int]
) -> None:
    tensors, mask = [x.detach() for x in case.tensors(device)], case.seen(device)
    result = softmaxkit.attention(
        *tensors, spec, attn_mask=mask, is_causal=case.is_causal, scale=case.scale, enable_gqa=True, **numbers
    )
    assert splits
    assert (splits[0] > 1) == (case.keys > 64)
    exact = truth(case, tensors, spec, numbers, mask)
    torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=2e-6)
    if mask is not None:
        assert (result[..., 0, :] == 0).all()


def every_method_in_every_dtype() -> Iterator[Any]:
    """Yield them; the fast tests have both dtypes for exponentials and for levels, and float32 for the others."""
    for (spec, numbers), dtype in itertools.product(ALL, (torch.float32, torch.bfloat16)):
        marks = [] if dtype == torch.float32 or spec in (ALL[0][0], ALL[1][0]) else pytest.mark.slow
        yield pytest.param(spec, numbers, dtype, id=f"{spec.name}-{dtype}", marks=marks)


@pytest.mark.parametrize(("spec", "numbers", "dtype"), every_method_in_every_dtype())
def test_an_8_bit_cache_is_what_its_codes_stand_for(
    spec: Spec, numbers: dict[str, Any], dtype: torch.dtype, device: torch.device, splits: list[int]
) -> None:
    case = Case(batch=2, heads=4, key_heads=2, queries=2, keys=150, channels=32, values=48)
    query, key, value = (x.detach() for x in case.tensors(device, dtype))
    cache = KeyValueCache(key[:, :, :90], value[:, :, :90])
    cache.append(key[:, :, 90:], value[:, :, 90:])
    mask = torch.rand(2, 1, 2, 150, generator=torch.Generator().manual_seed(3)).to(device) < 0.7
    result = cache.attention(query, spec, mask, **numbers)
    assert len(splits) == 1
    assert result.dtype == dtype
    keys, values = (x.decoded(torch.float64) for x in cache.codes)
    exact = truth(case, [query, keys, values], spec, numbers, mask)
    # Codes are exact in bfloat16; weights and the result are rounded to 8 bits.
    error = (result.double() - exact).norm() / exact.norm()
    assert error < (1e-6 if dtype == torch.float32 else 0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_factors_of_outlier_channels_go_into_the_queries(
    dtype: torch.dtype, device: torch.device, splits: list[int]
) -> None:
    case = Case(batch=2, heads=4, key_heads=2, queries=2, keys=150, channels=32, values=48)
    query, key, value = (x.detach() for x in case.tensors(device, dtype))
    key[..., 3] *= 50.0
    query[..., 3] /= 50.0
    query[0, 0, 0, 3] = 1e4 if dtype == torch.float16 else 1e-2  # times 16 it is beyond float16
    cache = KeyValueCache(key, value)
    assert cache.codes[0].factor is not None
    for spec, numbers in ALL[:3]:
        keys, values = (x.decoded(torch.float64) for x in cache.codes)
        exact = truth(case, [query, keys, values], spec, numbers, None)
        error = (cache.attention(query, spec, **numbers).double() - exact).norm() / exact.norm()
        assert error < (1e-5 if dtype == torch.float32 else 2e-3)
    assert len(splits) == 3


def test_many_queries_of_a_cache_read_what_the_codes_stand_for(device: torch.device, splits: list[int]) -> None:
    case = Case(queries=20, keys=40)
    query, key, value = (x.detach() for x in case.tensors(device))
    cache = KeyValueCache(key, value)
    result = cache.attention(query, *WEIGHTS[0][:1], **WEIGHTS[0][1])
    assert not splits
    exact = truth(case, [query, cache.keys, cache.values], *WEIGHTS[0], None)
    torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=2e-6)


def test_parts_without_anything_to_attend_to_change_nothing(device: torch.device) -> None:
    case = Case(queries=1, keys=100)  # in four parts
    query, key, value = (x.detach() for x in case.tensors(device))
    mask = torch.zeros(1, 1, 1, 100, dtype=torch.bool, device=device)
    mask[..., 70:75] = True
    cache = KeyValueCache(key, value)
    for spec, numbers in (ALL[0], ALL[1], ALL[3], ALL[5], ALL[6]):  # of every form
        exact = truth(case, [query, cache.keys, cache.values], spec, numbers, mask)
        result = cache.attention(query, spec, mask, **numbers)
        torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=2e-6)
        assert (cache.attention(query, spec, mask & False, **numbers) == 0).all()


def test_nan_reaches_its_own_row(device: torch.device) -> None:
    query, key, value = (x.detach() for x in Case(queries=2, keys=100).tensors(device))
    query[0, 0, 1, 0] = math.nan
    for spec, numbers in FORMS:
        result = softmaxkit.attention(query, key, value, spec, **numbers)
        assert result[0, 0, 1].isnan().all()
        assert not result[0, 0, 0].isnan().any()
        assert not result[0, 1].isnan().any()


@pytest.mark.parametrize("keys", [1, 64, 65, 1000, 1 << 20])
@pytest.mark.parametrize("rows", [1, 7, 5000])
def test_every_key_is_in_one_part(keys: int, rows: int, device: torch.device) -> None:
    from softmaxkit.kernels.triton import decode

    for how in (decode.AS_THEY_COME, decode.CACHED):
        parts, share = decode.split(keys, rows, how, device)
        assert (parts - 1) * share < keys <= parts * share
        assert 1 <= parts <= decode.MOST_SPLITS
        assert share % how.columns == 0
