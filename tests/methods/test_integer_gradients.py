"""The integer mode computes its float form, for gradients, only where something requires them."""

from __future__ import annotations

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

    def counted(scores: Tensor, attended: Tensor) -> Tensor:
        calls.append(scores.shape)
        return surrogate(scores, attended)

    monkeypatch.setattr(module, "surrogate", counted)
    scores = torch.linspace(-2.0, 2.0, 12).reshape(3, 4).requires_grad_(trained)
    result = module(scores)
    assert len(calls) == trained == result.requires_grad


def test_learned_numbers_get_gradients_of_scores_that_need_none() -> None:
    beta = torch.tensor(1.0, requires_grad=True)
    scores = torch.linspace(-2.0, 2.0, 12).reshape(3, 4)
    softmaxkit.softmax(scores, softmaxkit.ConSmax(), mode="integer", beta=beta, gamma=100.0).sum().backward()
    assert beta.grad is not None
    assert beta.grad != 0
