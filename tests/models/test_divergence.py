"""NaN and infinity in training on a GPU: detected without synchronising at every step, and located."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from softmaxkit.models import trainer
from softmaxkit.models.divergence import Divergence, first_not_finite
from softmaxkit.models.language_model import language_model
from softmaxkit.models.text import read_corpus
from softmaxkit.models.trainer import MethodTrainer
from softmaxkit.models.training import train
from softmaxkit.recipe import Recipe, Shape


def test_the_first_diverging_step_is_recorded() -> None:
    seen = Divergence(torch.device("cpu"))
    good, nan, infinite = torch.ones(3), torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf])
    seen.see("a gradient", 1, [good, good, good])
    assert seen.first_steps() == {}
    seen.see("a gradient", 2, [good, nan, infinite])
    seen.see("a gradient", 3, [nan, nan, good])
    seen.see("the loss", 3, [infinite])
    assert seen.first_steps() == {"a gradient": (2, [1, 2]), "the loss": (3, [0])}


def test_large_values_are_finite_whatever_their_dtype() -> None:
    """The sum of their squares is not."""
    seen = Divergence(torch.device("cpu"))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        largest = torch.full((3,), torch.finfo(dtype).max, dtype=dtype)
        seen.see(str(dtype), 1, [largest, torch.ones(2), -largest])
    assert seen.first_steps() == {}


class Halves(nn.Module):
    """Two layers, of which the second returns a tuple, and a logarithm."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.GRU(2, 2)
        self.last = nn.Sequential(nn.Linear(2, 2), nn.Identity())
        self.factor = factor

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.second(self.first(given) * self.factor)
        return (-1 - self.last(hidden).square()).log()


def test_the_first_place_that_is_not_finite_is_named() -> None:
    model, inputs = Halves(1.0), {"given": torch.ones(4, 2)}
    assert first_not_finite(model, inputs) == "the loss itself"
    assert first_not_finite(Halves(torch.nan), inputs) == "second"
    with torch.no_grad():
        model.first.weight.fill_(torch.finfo(torch.float32).max)
    assert first_not_finite(model, inputs) == "first"
    with torch.no_grad():
        model.last.get_parameter("0.bias")[1] = torch.inf
    assert first_not_finite(model, inputs) == "last.0.bias, which is not finite itself"


@pytest.mark.parametrize(("at", "looks"), [(4, 5), (5, 50)])
def test_training_names_the_step_and_the_parameter(
    at: int, looks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one two three four five six seven eight nine ten " * 80)
    monkeypatch.setattr(trainer, "CHECK_INTERVAL", looks)
    construct = MethodTrainer.__init__

    def as_on_gpu(self: Any, *arguments: Any, **named: Any) -> None:
        construct(self, *arguments, **named)
        self.divergence = Divergence(self.args.device)

    monkeypatch.setattr(MethodTrainer, "__init__", as_on_gpu)
    model = language_model(Shape(layers=1, heads=2, width=16), 16, 0)
    calls = []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(len(calls) + 1)
        return gradient * (torch.nan if len(calls) == at else 1.0)

    model.get_parameter("transformer.h.0.attn.c_proj.weight").register_hook(spoil)
    recipe = Recipe(steps=12, context=16, batch=2)
    with pytest.raises(FloatingPointError, match=rf"at step {at}, beginning in transformer.h.0.attn.c_proj.weight"):
        train(model, read_corpus(text), recipe, tmp_path / "run", seed=0)
    assert len(calls) == (5 if looks == 5 else 6)  # or when a checkpoint is saved
