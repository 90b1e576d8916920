"""The trial that decides whether the AMX kernels run: what is wrong or slow is not taken, whatever torch is doing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch
from tile_builds import inputs, kernels_of
from torch._subclasses.fake_tensor import FakeTensorMode

import softmaxkit
from softmaxkit import Exact, Exaq
from softmaxkit.kernels import attention, backends, builds, trial

SLOWER, FASTER = 3.0, 1.0


class Build:
    """A build of the kernels in which some functions are replaced."""

    def __init__(self, kernels: ModuleType, **replaced: Any) -> None:
        self.kernels, self.replaced = kernels, replaced

    def __getattr__(self, name: str) -> Any:
        return self.replaced.get(name) or getattr(self.kernels, name)


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(trial, "SHAPE", (1, 2, 40, 64))
    return kernels_of("portable_tiles")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    backends.reset()


def clock(monkeypatch: pytest.MonkeyPatch, candidate: float, incumbent: float) -> None:
    """Let the runs of the two contenders take these times, in turn."""

    def times() -> Iterator[float]:
        now = 0.0
        while True:
            for duration in (candidate, incumbent):
                yield now
                now += duration
                yield now

    monkeypatch.setattr(trial, "perf_counter", times().__next__)


def vectors() -> Any:
    return import_module("softmaxkit.kernels._avx512")


def test_only_what_is_faster_is_taken(tiles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for objection in (
        lambda: trial.objection_to_tiles(tiles, vectors()),
        lambda: trial.objection_to_softmax(tiles, torch.bfloat16),
    ):
        clock(monkeypatch, FASTER, SLOWER)
        assert objection() == ""
        clock(monkeypatch, SLOWER, FASTER)
        assert objection() == "in a trial on this processor it took 3e+03 ms, and without it 1e+03 ms"
        clock(monkeypatch, FASTER, FASTER)
        assert "and without it" in objection()


@pytest.mark.parametrize("wrong", ["results", "an error"])
def test_what_is_wrong_is_not_taken(wrong: str, tiles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, FASTER, SLOWER)

    def with_another_scale(shape: Any, weights: Any, scale: float, *rest: Any) -> Any:
        return tiles.Attention_float32(shape, weights, scale * 1.01, *rest)

    def softmax_with_another_scale(shape: Any, scale: float, *rest: Any) -> Any:
        return tiles.SoftmaxAttention_bfloat16(shape, scale * 1.1, *rest)

    def that_fails(*arguments: Any) -> Any:
        raise FloatingPointError("overflow")

    first = with_another_scale if wrong == "results" else that_fails
    second = softmax_with_another_scale if wrong == "results" else that_fails
    broken: Any = Build(tiles, Attention_float32=first, SoftmaxAttention_bfloat16=second)
    expected = "results were wrong" if wrong == "results" else "failed"
    assert expected in trial.objection_to_tiles(broken, vectors())
    assert expected in trial.objection_to_softmax(broken, torch.bfloat16)


@pytest.mark.parametrize(
    "mode",
    [nullcontext, torch.inference_mode, FakeTensorMode, lambda: torch.device("meta"), lambda: torch.autocast("cpu")],
    ids=["none", "inference", "fake", "meta", "autocast"],
)
def test_torchs_modes_do_not_reach_it(
    mode: Callable[[], AbstractContextManager[Any]], tiles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.get_rng_state()
    clock(monkeypatch, FASTER, SLOWER)
    with mode():
        assert trial.objection_to_tiles(tiles, vectors()) == ""
        assert trial.objection_to_softmax(tiles, torch.bfloat16) == ""
    assert torch.equal(torch.get_rng_state(), state)


def test_within_vmap(tiles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, FASTER, SLOWER)
    objections = []

    def one(row: torch.Tensor) -> torch.Tensor:
        objections.append(trial.objection_to_tiles(tiles, vectors()))
        return row

    torch.vmap(one)(torch.ones(2, 3))
    assert objections == [""]


def choices(query: torch.Tensor) -> tuple[backends.Choice, backends.Choice]:
    backends.reset()
    return softmaxkit.explain(Exaq(), query, query, query, clip=-4.0), softmaxkit.explain(Exact(), query, query, query)


@pytest.mark.skipif("avx512" not in builds.supported(), reason="this processor does not have AVX-512")
def test_the_trials_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here without a run: a processor with AMX is pretended."""
    plain, query = import_module("softmaxkit.kernels._plain"), inputs(60, 60, 16, 16)[0].bfloat16()
    monkeypatch.setattr(attention, "LEAST_MULTIPLIED", {})
    monkeypatch.setattr(plain, "supported", lambda: ["plain", "avx2", "avx512", "amx"])
    monkeypatch.setattr(builds, "find_spec", lambda name: name)
    for module in (builds, backends):
        monkeypatch.setattr(module, "import_module", lambda name: plain if "plain" in name else vectors())
    for tiles, softmax in (("", ""), ("", "slow"), ("wrong", ""), ("wrong", "slow")):
        monkeypatch.setattr(trial, "objection_to_tiles", lambda *_, tiles=tiles: tiles)
        monkeypatch.setattr(trial, "objection_to_softmax", lambda *_, softmax=softmax: softmax)
        levels, exact = choices(query)
        build = "avx512" if tiles else "amx"
        assert levels.backend == build
        assert levels.refusals.get("amx", []) == ([tiles] if tiles else [])
        assert exact.backend == ("torch" if softmax else build)
        monkeypatch.setenv(builds.VARIABLE, "amx")
        assert [choice.backend for choice in choices(query)] == ["amx", "amx"]
        assert "selects another" in backends.unavailable("avx512")
        monkeypatch.setenv(builds.VARIABLE, "avx512")
        assert [choice.backend for choice in choices(query)] == ["avx512", "avx512"]
        monkeypatch.delenv(builds.VARIABLE)


def test_without_amx_there_is_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "supported", lambda: ["avx512", "plain"])
    monkeypatch.setattr(trial, "objection_to_softmax", lambda *_: "slow")
    backends.reset()
    assert builds.objection_to_softmax("avx512", torch.bfloat16) == ""
