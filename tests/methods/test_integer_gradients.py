"""The integer mode computes its float form, for gradients, only where something requires them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import softmaxkit
from softmaxkit.methods import METHODS

PARAMETERS = {"consmax": {"beta": 1.0, "gamma": 100.0}, "exaq": {"clip": -5.0}, "sigmoid": {"bias": -5.0}}


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_the_float_form_runs_for_gradients_only(name: str, trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = METHODS[name]().module(mode="integer", **PARAMETERS.get(name, {})).requires_grad_(False)
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
