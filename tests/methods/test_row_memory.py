"""Float forms by torch take little more memory than torch.softmax, and give the same: counted in bytes, not timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import DEFAULTS
from memory_use import memory_use
from method_cases import Case
from torch import Tensor

from softmaxkit.kernels import backends, builds
from softmaxkit.methods.base import rows, stripes

SHAPE = (4, 64, 128)
MASK = torch.ones(SHAPE[1:], dtype=torch.bool).tril(64)
ALL_IN_ONE = 1 << 30


@pytest.fixture(autouse=True)
def by_torch_in_small_stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripes, "STRIPE", 1000)
    monkeypatch.setenv(builds.VARIABLE, "torch")
    backends.reset()


def _scores(dtype: torch.dtype = torch.float32) -> Tensor:
    scores = 3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    scores[0, 1], scores[1, 2, 3], scores[2, 3, 4] = -torch.inf, torch.nan, torch.inf
    return scores.to(dtype)


def _memory(compute: Callable[[], Any]) -> list[float]:
    return [x / (4 * torch.Size(SHAPE).numel()) for x in memory_use(compute)]


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_without_gradients_only_the_result_is_as_large_as_the_scores(case: Case, mask: Tensor | None) -> None:
    module, scores = case.spec.module(**case.numbers), _scores()
    with torch.no_grad():
        most, kept = _memory(lambda: module(scores, mask))
    assert 1 <= kept <= 1.05
    assert most < 1.5


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_integers_take_the_mask_and_the_scores_without_what_it_masks_besides(case: Case) -> None:
    module, scores = case.spec.module(mode="integer", **case.numbers), _scores()
    with torch.no_grad():
        module(scores, MASK)  # makes the constants
        most, kept = _memory(lambda: module(scores, MASK))
        assert 1 <= kept <= 1.05
        assert most < 2 + 1 / 4 + 1.25  # a stripe of 1,000 scores: its codes, in 64 bits, and what golden makes of them
        in_stripes = module(scores, MASK)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(stripes, "STRIPE", ALL_IN_ONE)
            assert torch.equal(in_stripes.nan_to_num(7.0), module(scores, MASK).nan_to_num(7.0))


@pytest.mark.parametrize("case", [case for case in DEFAULTS if case.spec.dataflow != "element"], ids=str)
def test_gradients_keep_the_probabilities_once_and_masks(case: Case) -> None:
    module, scores = case.spec.module(**case.numbers), _scores().requires_grad_()
    most, kept = _memory(lambda: module(scores, MASK))
    # The probabilities; attended keys, and for levels those that are rounded and those that get a gradient, in bytes.
    assert kept <= 1 + 3 / 4 + 0.05
    # Meanwhile the scores without those that are masked, and those that are rounded.
    assert most <= 3 + 5 / 4 + 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_results_and_gradients_are_those_of_all_rows_at_once(
    case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = case.spec.module(**case.numbers)

    def results() -> list[Tensor]:
        scores = _scores(dtype)
        with torch.no_grad():
            plain = module(scores, MASK)
        probabilities = module(scores.requires_grad_(), MASK)
        weights = torch.linspace(-1.0, 1.0, SHAPE[-1], dtype=dtype)
        (gradient,) = torch.autograd.grad(probabilities, scores, weights.expand(SHAPE), create_graph=True)
        (second,) = torch.autograd.grad(gradient, scores, weights.flip(0).expand(SHAPE))
        (once,) = torch.autograd.grad(module(scores, MASK), scores, weights.expand(SHAPE))
        return [x.detach().nan_to_num(7.0) for x in (plain, probabilities, gradient, second, once)]

    in_stripes = results()
    monkeypatch.setattr(stripes, "STRIPE", ALL_IN_ONE)
    monkeypatch.setattr(rows, "is_eager", lambda: False)  # differentiated by torch, operation by operation
    for actual, expected in zip(in_stripes, results(), strict=True):
        assert torch.equal(actual, expected)
