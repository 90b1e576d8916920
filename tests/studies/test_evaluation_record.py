"""What the record of an evaluation says about a model whose layers differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import softmaxkit
from conftest import tiny_model
from softmaxkit import Exact, Softermax
from softmaxkit.methods import BASELINE
from softmaxkit.models.language_model import learned_tokens
from softmaxkit.studies import evaluation
from softmaxkit.studies.evaluation import MIXED, EvaluationOptions, evaluate_model


def silent(title: str) -> Any:
    return lambda done, total: None


def test_a_model_without_a_method_is_evaluated_as_the_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (tiny_model("gpt2"), learned_tokens("a few words " * 9, 260)):
        part.save_pretrained(tmp_path)
    monkeypatch.setattr(evaluation, "harness_figures", lambda *_: {"even": {"acc": 0.5}})
    options = EvaluationOptions(str(tmp_path), modes=("float",), context=16, tasks=("even",))
    (result,) = evaluate_model(options, [], silent)["results"]
    assert result["spec"] == BASELINE.to_json()


@pytest.mark.parametrize("mixed", [False, True])
def test_results_on_tasks_name_the_methods_of_all_layers(
    mixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = softmaxkit.apply(tiny_model("gpt2"), Softermax())
    if mixed:
        softmaxkit.apply(model, Exact(), layers=[1])
    softmaxkit.save(model, tmp_path, learned_tokens("a few words " * 9, 260))
    monkeypatch.setattr(evaluation, "harness_figures", lambda *_: {"even": {"acc": 0.5}})
    options = EvaluationOptions(str(tmp_path), modes=("float",), context=16, tasks=("even",))
    (result,) = evaluate_model(options, [], silent)["results"]
    assert (result["task"], result["metrics"]) == ("even", {"acc": 0.5})
    if mixed:
        assert (result["method"], result["spec"]) == (MIXED, None)
        assert result["variant"] == f"{Softermax().name} and {Exact().name}"
    else:
        assert (result["method"], result["spec"]) == ("softermax", Softermax().to_json())
