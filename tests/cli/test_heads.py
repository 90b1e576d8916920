"""`softmaxkit verify` and `softmaxkit rtl` with the constants and scores of a model's heads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import FEW, SMALL, last_line, run, verilator, yosys

from softmaxkit import load
from softmaxkit.cli import main
from softmaxkit.models import evaluation, layers
from softmaxkit.models.text import standard_library_source
from softmaxkit.studies.hardware import TrainedHead, read_heads


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Options for a small model with ConSmax in it."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "text.txt").write_bytes(standard_library_source(20_000))
    common = ["--text", folder / "text.txt", "--context", 16]
    assert main(list(map(str, ["train", "consmax", *common, "--steps", 2, "-o", folder / "model"]))) == 0
    return ("--model", folder / "model", *common)


@verilator
def test_a_head_of_a_model(capsys: pytest.CaptureFixture[str], model: tuple[object, ...], tmp_path: Path) -> None:
    code, out, err = run(capsys, "verify", *model, *FEW, "--depth", 3, "--layer", 1, "--head", 2, "--json", "-")
    assert code == 0, err
    constants = list(layers(load(str(model[1]))).values())[1].constants.of_head(2)
    expected = json.loads(json.dumps([constants.to_json()]))
    assert [result["constants"] for result in json.loads(out)["results"]] == [expected] * 2


@yosys
def test_a_unit_with_the_constants_of_a_model(
    capsys: pytest.CaptureFixture[str], model: tuple[object, ...], tmp_path: Path
) -> None:
    code, _, err = run(capsys, "rtl", *model, *SMALL, "-o", tmp_path / "baked")
    assert code == 0, err
    assert json.loads((tmp_path / "baked" / "parameters.json").read_text())["constants"] == "baked in"
    code, _, err = run(capsys, "rtl", *model, *SMALL, "-o", tmp_path / "other", "--constants", "loadable")
    assert code == 0, err
    assert json.loads((tmp_path / "other" / "parameters.json").read_text())["constants"] == "loadable"
    constants = next(iter(layers(load(str(model[1]))).values())).constants.of_head(0)
    for name in ("baked", "other"):
        exported = json.loads((tmp_path / name / "tables.json").read_text())["sets"][0]["constants"]
        assert exported == json.loads(json.dumps(constants.to_json()))


@yosys
def test_all_heads_of_a_model(
    capsys: pytest.CaptureFixture[str], model: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    see = evaluation.see_scores
    monkeypatch.setattr(evaluation, "see_scores", lambda *arguments: [runs.append(1), see(*arguments)])
    every = ("--layer", "all", "--head", "all", "--constants", "loadable")
    code, out, err = run(capsys, "rtl", *model, *SMALL, *every, "-o", tmp_path / "chip", "--json", "-")
    assert code == 0, err
    assert len(runs) == 1
    record = json.loads(out)
    assert record["inputs"] == {"clock_ns": 5.0}
    of_layers = [module.constants for module in layers(load(str(model[1]))).values()]
    assert [(result["layer"], result["head"], result["constants"]) for result in record["results"]] == [
        (layer, head, json.loads(json.dumps([of_layers[layer].of_head(head).to_json()])))
        for layer in range(4)
        for head in range(4)
    ]
    sets = json.loads((tmp_path / "chip" / "tables.json").read_text())["sets"]
    assert sorted(name for constant_set in sets for name in constant_set["heads"]) == [
        f"layer{layer}-head{head}" for layer in range(4) for head in range(4)
    ]


def test_a_head_is_the_same_alone_and_among_all(model: tuple[object, ...]) -> None:
    def read(layer: int | None, head: int | None, rows: int | None = None) -> list[TrainedHead]:
        return read_heads(str(model[1]), layer, head, Path(str(model[3])), 16, rows)

    every = read(None, None)
    assert [(head.layer, head.number) for head in read(1, None)] == [(1, number) for number in range(4)]
    assert [(head.layer, head.number) for head in read(None, 3)] == [(layer, 3) for layer in range(4)]
    (one,) = read(1, 2)
    assert one.constants == every[6].constants
    assert np.array_equal(one.rows.codes, every[6].rows.codes)
    (few,) = read(1, 2, rows=5)
    assert len(few.rows.lengths) == 5 < len(one.rows.lengths)


def test_a_head_that_the_model_does_not_have(capsys: pytest.CaptureFixture[str], model: tuple[object, ...]) -> None:
    for verb in ("verify", "rtl"):
        for option, value in (("--layer", 4), ("--layer", -1), ("--head", 4), ("--head", -1)):
            code, _, err = run(capsys, verb, *model, option, value)
            assert code == 2
            assert last_line(err) == f"error: {option} must be from 0 to 3 for this model, got {value}"
        code, _, err = run(capsys, verb, "exaq", *model)
        assert code == 2
        assert "leave METHOD and --spec out" in last_line(err)


def test_a_model_without_a_method(
    capsys: pytest.CaptureFixture[str], model: tuple[object, ...], tmp_path: Path
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=256, n_positions=16, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    code, _, err = run(capsys, "verify", "--model", tmp_path, *model[2:])
    assert code == 2
    assert f"has no method in it; apply one with 'softmaxkit calibrate {tmp_path} METHOD'" in last_line(err)
