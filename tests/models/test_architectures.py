"""Every kind of architecture: apply a method, save and load it with transformers, and compare the outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, make

import softmaxkit
from softmaxkit import ConSmax, Exaq, Softermax
from softmaxkit.models.patch import layers

FAST = (
    "Gemma2ForCausalLM",
    "ModernBertForMaskedLM",
    "BartForConditionalGeneration",
    "ViTForImageClassification",
    "WhisperForConditionalGeneration",
)
"""The fast tests run one model of each kind."""

EVERY_MODE = [(spec, mode) for spec in (Softermax(), ConSmax(), Exaq(bits=3)) for mode in ("float", "integer")]
ONE_MODE = [EVERY_MODE[place] for place in (0, 3, 5)]
"""Of each method."""


@pytest.mark.parametrize(
    ("name", "specs"),
    [
        *(pytest.param(name, ONE_MODE, id=name) for name in ARCHITECTURES if name in FAST),
        *(pytest.param(name, EVERY_MODE, id=f"{name}-every mode", marks=pytest.mark.slow) for name in ARCHITECTURES),
    ],
)
@torch.no_grad()
def test_a_method_is_applied_saved_and_loaded(name: str, specs: list[tuple[Any, Any]], tmp_path: Path) -> None:
    model, inputs = make(name)
    before = model(**inputs)[0]
    softmaxkit.apply(model, softmaxkit.Exact())
    rows = before.ndim > 2 and before.shape[:2] == (2, 12)  # of a model of tokens, only those that are not padding
    attended = inputs["attention_mask"].bool() if rows and "attention_mask" in inputs else ...
    difference = (model(**inputs)[0] - before)[attended].abs().max()
    assert difference <= 1e-4 * before.abs().max()
    for spec, mode in specs:
        softmaxkit.calibrate(softmaxkit.apply(model, spec), [inputs])
        softmaxkit.set_mode(model, mode)
        expected = model(**inputs)[0]
        model.save_pretrained(tmp_path / "model")
        again = type(model).from_pretrained(tmp_path / "model")
        assert len(layers(again)) == len(layers(model)) >= 1
        assert torch.equal(again(**inputs)[0], expected)
        assert not torch.equal(expected, before)
    assert torch.equal(softmaxkit.load(tmp_path / "model")(**inputs)[0], expected)
    assert torch.allclose(softmaxkit.restore(model)(**inputs)[0], before, atol=1e-6)
