"""8-bit attention by AMX tiles, the processor's and those emulated in C++: equal to that by AVX-512."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from tile_builds import BUILDS, inputs, kernels_of
from torch import Tensor

import softmaxkit
from softmaxkit import ConSmax, Exaq
from softmaxkit.kernels import attention, backends, builds
from softmaxkit.kernels import native_attention as fused
from softmaxkit.kernels.attention import AttentionCall

if "avx512" not in builds.supported():
    pytest.skip("the AVX-512 kernels, which these are compared with, do not run here", allow_module_level=True)

ONE_BYTE, TWO_BYTES = (AttentionCall.by_levels(clip, Exaq(bits=2).exponentials(clip)) for clip in (-5.0, -9.0))
CALLS = {
    "levels": ONE_BYTE,
    "levels of two bytes": TWO_BYTES,
    "exponentials": AttentionCall.by_exponential(torch.tensor(4.0), 1.0),
    "logistic functions": AttentionCall.by_logistic(torch.tensor(4.0)),
}


@pytest.fixture(params=BUILDS)
def tiles(request: pytest.FixtureRequest) -> Any:
    """The kernels with AMX tiles, and with tiles emulated in C++."""
    return kernels_of(request.param)


@pytest.fixture
def avx512() -> Any:
    return import_module("softmaxkit.kernels._avx512")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    backends.reset()


def attend(kernels: Any, operands: list[Tensor], call: AttentionCall, **options: Any) -> Tensor:
    return fused.attend(*operands, call, **options, kernels=kernels)


SIZES = [  # queries, keys, channels, value channels: on either side of tiles, panels of 64 and blocks of 512 keys
    (13, 1, 1, 1),
    (16, 64, 64, 16),
    (17, 63, 65, 17),
    (31, 65, 32, 33),
    (32, 512, 64, 64),
    (33, 513, 80, 48),
    (65, 600, 128, 65),
    (20, 1100, 192, 144),
]


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_size(sizes: tuple[int, int, int, int], kind: str, tiles: Any, avx512: Any) -> None:
    operands = inputs(*sizes)
    result = attend(tiles, operands, CALLS[kind])
    assert torch.equal(result, attend(avx512, operands, CALLS[kind]))
    assert result.abs().max() > 0


def masks(queries: int, keys: int) -> dict[str, dict[str, Any]]:
    random = torch.rand(2, 4, queries, keys, generator=torch.Generator().manual_seed(1)) < 0.6
    random[:, :, -1] = False  # a fully masked query
    padding = torch.ones(2, 1, 1, keys, dtype=torch.bool)
    padding[1, ..., keys // 2 :] = False
    return {
        "causal": {"is_causal": True},
        "every score": {"mask": random},
        "queries": {"mask": random[:, :, :, :1]},
        "heads": {"mask": random[:1, :, :1]},
        "padding": {"mask": padding},
        "nothing": {"mask": torch.zeros(1, 1, 1, 1, dtype=torch.bool)},
    }


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("mask", masks(1, 1))
@pytest.mark.parametrize(("queries", "keys"), [(40, 700), (150, 70)])
def test_masks_and_grouped_keys(queries: int, keys: int, mask: str, kind: str, tiles: Any, avx512: Any) -> None:
    operands, options = inputs(queries, keys, 64, 64, heads=4), masks(queries, keys)[mask]
    result = attend(tiles, operands, CALLS[kind], **options)
    assert torch.equal(result, attend(avx512, operands, CALLS[kind], **options))
    assert (result == 0).all() == (mask == "nothing")


def test_bfloat16_strides_and_threads(tiles: Any, avx512: Any) -> None:
    operands = [x.bfloat16().transpose(1, 2).contiguous().transpose(1, 2) for x in inputs(200, 300, 64, 80)]
    before = torch.get_num_threads()
    try:
        for call in CALLS.values():
            torch.set_num_threads(1)
            exact = attend(avx512, operands, call)
            for threads in (1, 3):
                torch.set_num_threads(threads)
                assert torch.equal(attend(tiles, operands, call), exact)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("wrong", [math.nan, math.inf, 3e38])
def test_nan_infinity_and_overflow(place: int, wrong: float, tiles: Any, avx512: Any) -> None:
    operands = inputs(40, 70, 64, 64)
    operands[place][0, 0, 1, :5] = wrong
    for call in CALLS.values():
        results: list[Any] = []
        for kernels in (tiles, avx512):
            try:
                results.append(attend(kernels, operands, call))
            except ArithmeticError as error:
                results.append(error)
        if isinstance(results[1], Tensor):
            assert torch.equal(*results)
        else:
            assert type(results[0]) is type(results[1])
            assert str(results[0]) == str(results[1])


def test_a_wrong_weight_is_detected(tiles: Any, avx512: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    operands, right = inputs(40, 70, 64, 64), ONE_BYTE.weights
    exact = attend(avx512, operands, ONE_BYTE)
    assert torch.equal(attend(tiles, operands, ONE_BYTE), exact)
    tables = right.tables.copy()
    tables[0, 0, 0, 0, 0] -= 1
    monkeypatch.setattr(attention, "level_weights", lambda *_: dataclasses.replace(right, tables=tables))
    assert not torch.equal(attend(tiles, operands, ONE_BYTE), exact)


def test_why_amx_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, query = import_module("softmaxkit.kernels._plain"), inputs(20, 20, 16, 16)[0]
    monkeypatch.delenv(builds.VARIABLE, raising=False)
    reason = "the system denies this process AMX tiles: a thread's alternate signal stack is too small for them"
    for supported, refused, built, expected in (
        (["plain", "avx512"], {}, True, "this processor does not have AMX"),
        (["plain", "avx512"], {"amx": reason}, True, reason),
        (["plain", "avx512", "amx"], {}, False, "the compiler that built softmaxkit does not support AMX"),
    ):
        monkeypatch.setattr(plain, "supported", lambda names=supported: names)
        monkeypatch.setattr(plain, "refused", lambda reasons=refused: reasons)
        monkeypatch.setattr(builds, "find_spec", lambda name, built=built: built or not name.endswith("_amx"))
        backends.reset()
        choice = softmaxkit.explain(ConSmax(), query, query, query, beta=4.0, gamma=1.0)
        assert choice.backend == "avx512"
        assert expected in choice.refusals["amx"][0]
        with monkeypatch.context() as selected:
            selected.setenv(builds.VARIABLE, "amx")
            backends.reset()
            with pytest.raises(ValueError, match=f"=amx, but {expected}.*; here it can be avx512, plain"):
                softmaxkit.explain(ConSmax(), query, query, query, beta=4.0, gamma=1.0)
