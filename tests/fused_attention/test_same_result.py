"""A result depends on how queries come, on padding and on a cache by no more than the errors of both ways."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import pytest
import torch
from torch import Tensor

import softmaxkit
from expected_errors import FEW_ROWS, Method, error, methods, truth
from softmaxkit import (
    ConSmax,
    Exact,
    Exaq,
    KeyValueCache,
    PagedKeyValueCache,
    Softermax,
    Spec,
    attention,
    partial_attention,
)
from softmaxkit.fused_attention import over_codes
from softmaxkit.kernels import backends, builds
from softmaxkit.kernels import native_attention as fused

KEYS, PADDING, ROWS = 400, 80, 16
FLOAT = 1e-5
"""What float32 takes."""
FOUR_BITS = (0.19, 0.09, 0.0)
"""What codes of 4 bits take of scores of spread 2, of values and of distances, root mean square: steps are an 8th of
the largest of 32 normal numbers, 2.4 standard deviations, and err by 1/sqrt(12), which is 9% of a number's size."""
PATHS: dict[str, list[Method]] = {
    "one query": [(spec, numbers, FLOAT) for spec, numbers, _ in methods()],
    "few": [(spec, numbers, FLOAT) for spec, numbers, _ in methods()],
    "many": methods(),
    "very many": methods(),
    "8-bit cache": methods(distances=0.0),
    "8-bit pages": methods(distances=0.0),
    "4-bit cache": methods(*FOUR_BITS),
    "4-bit pages": methods(*FOUR_BITS),
}
"""Ways to the same result, and what each errs by."""


def inputs(outlier: bool) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, n, 64, generator=random) for n in (1000, KEYS, KEYS))
    query = query * 2
    if outlier:
        key[..., 3] *= 50
        query[..., 3] /= 50
    return [query, key, value]


def padded(given: list[Tensor], where: str) -> tuple[list[Tensor], Tensor | None]:
    """Return keys and values with others before or after them, and the mask that hides those."""
    if where == "none":
        return given, None
    random = torch.Generator().manual_seed(1)
    junk = [x[:, :, torch.randperm(KEYS, generator=random)[:PADDING]].flip(1) for x in given[1:]]
    parts = [(other, own) if where == "left" else (own, other) for own, other in zip(given[1:], junk, strict=True)]
    mask = torch.ones(1, 1, 1, KEYS + PADDING, dtype=torch.bool)
    mask[..., :PADDING] &= where != "left"
    mask[..., KEYS:] &= where != "right"
    return [given[0], *(torch.cat(part, 2) for part in parts)], mask


def run(path: str, given: list[Tensor], mask: Tensor | None, spec: Any, numbers: dict[str, Any]) -> Tensor:
    """Return the results of the first queries, by a way."""
    query, key, value = given
    if path in ("many", "very many"):
        count = ROWS if path == "many" else query.shape[2]
        return softmaxkit.attention(query[:, :, :count], key, value, spec, mask, **numbers)[:, :, :ROWS]
    together = 1 if path == "one query" else 4
    bits = int(path[0]) if path[0].isdigit() else 0
    cache = KeyValueCache(key, value, bits) if "cache" in path else None
    tokens = key.shape[2]
    pool = PagedKeyValueCache(-(-tokens // 16), 16, 2, 64, bits=bits) if "pages" in path else None
    if pool is not None:
        pool.reshape_and_cache(*(x[0].transpose(0, 1) for x in (key, value)), torch.arange(tokens))
    tables = torch.arange(-(-tokens // 16))[None]

    def some(few: Tensor) -> Tensor:
        if pool is not None:
            return pool.attention(few, spec, tables, torch.tensor([tokens]), mask, **numbers)
        if cache is not None:
            return cache.attention(few, spec, mask, **numbers)
        return softmaxkit.attention(few, key, value, spec, mask, **numbers)

    return torch.cat([some(query[:, :, first : first + together]) for first in range(0, ROWS, together)], 2)


def check(outlier: bool) -> None:
    given = inputs(outlier)
    for index, (spec, numbers, _) in enumerate(methods()):
        exact = truth(spec, numbers, [given[0][:, :, :ROWS], *given[1:]])
        results = {
            (path, where): run(path, *padded(given, where), spec, numbers)
            for path in PATHS
            for where in ("none", "left", "right")
        }
        allowed = {path: FEW_ROWS * PATHS[path][index][2] for path in PATHS}
        for (path, where), result in results.items():
            assert error(result, exact) <= allowed[path], (path, where, spec)
        for (one, other), (result, another) in zip(
            combinations(results, 2), combinations(results.values(), 2), strict=True
        ):
            bound = math.fsum(allowed[path] for path, _ in (one, other))
            difference = (result.double() - another.double()).square().mean().sqrt() / exact.square().mean().sqrt()
            assert difference <= bound, (one, other, spec)


def every_build() -> Iterator[Any]:
    """Yield them with an outlier and without; the slowest ones have only the former in the fast tests."""
    for build, outlier in product((*builds.NATIVE, "none"), (False, True)):
        marks = pytest.mark.slow if build in ("plain", "none") and not outlier else []
        yield pytest.param(build, outlier, id=f"{build}-{outlier}", marks=marks)


@pytest.mark.parametrize(("build", "outlier"), every_build())
def test_ways_to_a_result_differ_by_no_more_than_both_err(
    build: str, outlier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if build != "none" and build not in builds.supported():
        pytest.skip(f"no {build} kernels here")
    monkeypatch.setenv(builds.VARIABLE, build)
    backends.reset()
    check(outlier)


@pytest.mark.skipif(backends.native() is None, reason="the native kernels are not built")
@pytest.mark.parametrize("fault", ["factors", "lengths", "coarse"])
def test_the_check_sees_what_goes_wrong(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "factors":  # outliers take the bits of all channels
        for module in ("stores", "pool_keys"):
            monkeypatch.setattr(f"softmaxkit.fused_attention.{module}.frame", lambda keys, bits: (None, None))
    elif fault == "lengths":  # a token of the sequence is not read
        inner = over_codes.fused
        monkeypatch.setattr(over_codes, "fused", lambda *given, lengths: inner(*given, lengths=lengths and lengths - 9))
    else:  # queries for many lose their last bits
        inner_attend = fused._Operands._multiply
        monkeypatch.setattr(
            fused._Operands,
            "_multiply",
            lambda self, *rest: self.query.copy_(self.query.round()) is not None and inner_attend(self, *rest),
        )
    with pytest.raises(AssertionError):
        check(outlier=fault == "factors")


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize(
    ("spec", "numbers"),
    [
        (Exact(), {}),
        (Softermax(), {}),
        (ConSmax(), {"beta": 1.0, "gamma": 10.0}),
        (ConSmax(), {"beta": [0.5, 1.0, 1.5, 2.0], "gamma": 10.0}),
        (Exaq(bits=3), {"clip": -4.0}),
    ],
    ids=lambda given: getattr(given, "method", ""),
)
def test_parts_of_the_keys_merge_to_attention_to_all(
    spec: Spec, numbers: dict[str, Any], key_heads: int, scale: float | None
) -> None:
    random = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, heads, n, channels, generator=random, dtype=torch.float64)
        for heads, n, channels in ((4, 5, 16), (key_heads, 30, 16), (key_heads, 30, 6))
    )
    mask = torch.rand(2, 1, 5, 30, generator=random) < 0.8
    whole = attention(query, key, value, spec, mask, scale=scale, enable_gqa=True, **numbers)
    if isinstance(spec, Exaq):
        scores = query @ key.repeat_interleave(4 // key_heads, 1).mT * (16**-0.5 if scale is None else scale)
        numbers = {**numbers, "maximum": scores.where(mask, -torch.inf).amax(-1, keepdim=True)}
    parts = [
        partial_attention(
            query, key[:, :, cut], value[:, :, cut], spec, mask[..., cut], scale, key_heads != 4, **numbers
        )
        for cut in (slice(0, 11), slice(11, 12), slice(12, 30))
    ]
    merged = parts[2].merge(parts[0]).merge(parts[1]).result()
    assert torch.allclose(merged, whole, rtol=0, atol=1e-6)  # beta and gamma are float32 in a module
    if key_heads != 4:
        with pytest.raises(ValueError, match=f"4 query heads and {key_heads} key heads require enable_gqa=True"):
            partial_attention(query, key, value, spec, mask, **numbers)
    with pytest.raises(TypeError, match="attn_mask must be boolean"):
        partial_attention(query, key, value, spec, mask.double(), enable_gqa=True, **numbers)
