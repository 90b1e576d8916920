"""Tasks of lm-eval on models with methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import softmaxkit
from softmaxkit.cli import main
from softmaxkit.models.harness import harness_figures
from softmaxkit.models.language_model import learned_tokens

pytest.importorskip("lm_eval", reason="needs lm-eval")

QUESTIONS = [f"is {number} even?" for number in range(12)]
CHOICES = (" yes", " no")


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with a task of two choices."""
    lines = [json.dumps({"question": question, "label": place % 2}) for place, question in enumerate(QUESTIONS)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    (tmp_path / "even.yaml").write_text(
        "task: even\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {tmp_path / 'data.jsonl'}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{question}}'\n"
        "doc_to_choice: [' yes', ' no']\ndoc_to_target: label\ntarget_delimiter: ''\n"
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    return tmp_path


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any]:
    torch.manual_seed(0)
    tokenizer = learned_tokens(" ".join(QUESTIONS + list(CHOICES)) * 9, 262)
    tokenizer.eos_token = tokenizer.pad_token = "?"
    config = GPT2Config(vocab_size=262, n_positions=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 8  # so that attention and its rounding matter
    return softmaxkit.apply(model, softmaxkit.Softermax(), mode="integer"), tokenizer


def test_accuracy_is_that_of_the_model_with_its_method(small: tuple[Any, Any], tasks: Path) -> None:
    model, tokenizer = small
    right = 0
    for place, question in enumerate(QUESTIONS):
        log_likelihoods = []
        for choice in CHOICES:
            context, whole = (tokenizer(text, return_tensors="pt").input_ids for text in (question, question + choice))
            with torch.no_grad():
                chances = model(whole[:, :-1]).logits.log_softmax(-1)[0]
            start = context.shape[1]
            log_likelihoods.append(sum(chances[at - 1, whole[0, at]].item() for at in range(start, whole.shape[1])))
        right += (log_likelihoods[1] > log_likelihoods[0]) == (place % 2)
    metrics = harness_figures(model, tokenizer, ["even"], include=tasks)
    assert metrics == {"even": {"acc": right / len(QUESTIONS)}}
    assert harness_figures(model, tokenizer, ["even"], limit=2, include=tasks)["even"]["acc"] in (0.0, 0.5, 1.0)


def test_an_unknown_task_is_refused(small: tuple[Any, Any], tasks: Path) -> None:
    with pytest.raises(ValueError, match="lm-eval has no task 'piqaa'"):
        harness_figures(*small, ["piqaa"])
    (tasks / "data.jsonl").unlink()
    with pytest.raises(ValueError, match="lm-eval cannot evaluate even"):
        harness_figures(*small, ["even"], include=tasks)


def test_the_command(small: tuple[Any, Any], tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = softmaxkit.save(small[0], tasks / "model", small[1])
    code = main(["evaluate", str(folder), "--task", "even", "--include", str(tasks), "--json", "-"])
    record = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [(result["task"], result["mode"]) for result in record["results"]] == [
        ("even", "float"),
        ("even", "integer"),
    ]
    assert 0 <= record["results"][0]["metrics"]["acc"] <= 1
