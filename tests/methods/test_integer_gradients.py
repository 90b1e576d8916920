"""The integer mode computes its float form, for gradients, only where something requires them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import DEFAULTS
from method_cases import Case
from torch import Tensor

import softmaxkit


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_the_float_form_runs_for_gradients_only(case: Case, trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = case.spec.module(mode="integer", **case.numbers).requires_grad_(False)
    calls = []
    surrogate = module.surrogate

    def counted(scores: Tensor, *rest: Any) -> Tensor:
        calls.append(scores.shape)
        return surrogate(scores, *rest)

    monkeypatch.setattr(module, "surrogate", counted)
    scores = torch.linspace(-2.0, 2.0, 12).reshape(3, 4).requires_grad_(trained)
    result = module(scores)
    assert len(calls) == trained == result.requires_grad


KINDS = ["within the codes", "saturated", "minus infinity", "NaN", "per head"]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_gradients_by_kernels_are_those_by_torch(
    case: Case, kind: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels get masks and scores as they are, where neither -inf nor a clamp stands in the way."""
    spec, numbers, heads = case.spec, dict(case.numbers), None
    if kind == "per head":
        heads, spec = 3, replace(spec, share="head") if hasattr(spec, "share") else spec
        numbers = {name: [x, 0.9 * x, 1.1 * x] if hasattr(spec, "share") else x for name, x in numbers.items()}
    module = spec.module(heads=heads, mode="integer", **numbers)
    low, high = (float(torch.as_tensor(x).abs().min()) for x in spec.score_limits(module.constants))
    random = torch.Generator().manual_seed(0)
    scores = (torch.rand(2, 3, 6, 40, generator=random) * 2 - 1) * 0.99 * min(low, high)
    mask = torch.rand(6, 40, generator=random) < 0.8 if masked else None
    scores[0, 1, 2, :3] = {"saturated": 3 * high, "minus infinity": -torch.inf, "NaN": torch.nan}.get(kind, 0.0)
    weights = torch.randn(scores.shape, generator=random)

    def run() -> list[Tensor]:
        leaf = scores.clone().requires_grad_()
        module.zero_grad()
        result = module(leaf, mask)
        (result * weights).nan_to_num().sum().backward()
        learned = [x.grad for x in module.parameters() if x.grad is not None]
        return [result.detach(), *(x for x in (leaf.grad, *learned) if x is not None)]

    by_kernel = run()
    monkeypatch.setattr(module, "surrogate_call", lambda scores: None)
    by_torch = run()
    assert torch.equal(by_kernel[0].isnan(), by_torch[0].isnan())
    for ours, torchs in zip(by_kernel, by_torch, strict=True):
        finite = torchs.isfinite()  # from torch 2.15 on, gradients of NaN pass a clamp by a tensor
        torch.testing.assert_close(ours[finite], torchs[finite], rtol=2.0**-14, atol=2.0**-16)


def test_learned_numbers_get_gradients_of_scores_that_need_none() -> None:
    beta = torch.tensor(1.0, requires_grad=True)
    scores = torch.linspace(-2.0, 2.0, 12).reshape(3, 4)
    softmaxkit.softmax(scores, softmaxkit.ConSmax(), mode="integer", beta=beta, gamma=100.0).sum().backward()
    assert beta.grad is not None
    assert beta.grad != 0


@pytest.mark.parametrize("mode", ["float", "integer"])
def test_threads_with_the_same_numbers_have_their_own_gradients(mode: str) -> None:
    """Their tensors find the same module, which a call must not change."""
    scores = torch.linspace(-2.0, 2.0, 12000).reshape(30, 400).double()

    def gradients(_: int) -> list[Tensor]:
        collected = []
        for _ in range(40):
            beta = torch.tensor(1.0, requires_grad=True)
            result = softmaxkit.softmax(scores, softmaxkit.ConSmax(), mode=mode, beta=beta, gamma=100.0)
            collected += torch.autograd.grad(result.sum(), beta)
        return collected

    with ThreadPoolExecutor(4) as pool:
        (first, *others) = [gradient for of_thread in pool.map(gradients, range(4)) for gradient in of_thread]
    assert first != 0
    assert all(torch.equal(first, other) for other in others)
