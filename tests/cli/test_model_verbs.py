"""`train`, `calibrate`, `evaluate` and `study` as a user runs them, in one small model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import run

import softmaxkit

pytestmark = pytest.mark.usefixtures("few_tokens")


def test_train_calibrate_evaluate_stand_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["--text", text, "--context", 16]
    code, _, err = run(capsys, "train", "exact", *common, "--steps", 4, "-o", "exact", "--json", "train.json")
    assert code == 0, err
    trained = json.loads(Path("train.json").read_text())["results"][0]
    assert trained["trained_steps"] == 4
    code, _, err = run(
        capsys, "calibrate", "exact", "exaq", *common, "--batches", 2, "-o", "exaq", "--json", "exaq.json"
    )
    assert code == 0, err
    calibrated = json.loads(Path("exaq.json").read_text())["results"]
    assert len(calibrated) == 4
    assert all(result["calibration"]["clip"] < 0 for result in calibrated)
    code, out, err = run(capsys, "evaluate", "exaq", *common, "--windows", 8, "--json", "evaluate.json")
    assert code == 0, err
    assert "integer" in out
    results = json.loads(Path("evaluate.json").read_text())["results"]
    assert [result["mode"] for result in results] == ["float", "integer"]
    assert all(0 < result["loss_nats"] < 6 for result in results)
    code, _, err = run(capsys, "calibrate", "exact", "consmax", *common, "--batches", 2, "-o", "unlearned")
    assert code == 0, err
    assert "warning: calibration does not set beta and log_gamma of ConSmax, only training does" in err
    assert "calibrate\n" in err
    sigmoid = ("--spec", "fitted.json")
    Path("fitted.json").write_text('{"schema": 1, "method": "sigmoid", "bias": "fitted"}')
    code, _, err = run(capsys, "calibrate", "exact", *sigmoid, *common, "--batches", 2, "-o", "fitted")
    assert code == 0, err
    assert "does not set" not in err
    code, _, err = run(capsys, "train", "consmax", "--from", "exact", *common, "--steps", 2, "-o", "consmax")
    assert code == 0, err
    model = softmaxkit.load("consmax")
    assert {module.spec.method for module in softmaxkit.models.layers(model).values()} == {"consmax"}
    assert model(torch.zeros((1, 4), dtype=torch.long)).logits.isfinite().all()


def test_models_are_not_overwritten_by_default(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path) -> None:
    arguments = ("train", "exact", "--text", text, "--context", 16, "--steps", 2, "-o", tmp_path / "model")
    assert run(capsys, *arguments)[0] == 0
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "already contains a model; give another --output, or --overwrite" in err
    assert run(capsys, *arguments, "--overwrite")[0] == 0
    assert not list(tmp_path.glob("model.run-*"))


STUDY = """
question = "Is it?"
windows = 4
[shape]
layers = 1
heads = 1
width = 8
[recipe]
steps = 2
context = 8
[[methods]]
method = "consmax"
[vary]
"spec.beta0" = [0.5, 1.5]
[picture]
x = "spec.beta0"
y = "loss_nats"
"""


def test_a_study_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path) -> None:
    config = tmp_path / "own.toml"
    config.write_text(STUDY)
    options = ["--text", text, "-o", tmp_path / "runs", "--json", "-", "--html", tmp_path / "page.html", "--seed", 3]
    code, out, err = run(capsys, "study", config, *options)
    assert code == 0, err
    record = json.loads(out)
    assert [result["settings"] for result in record["results"][2:]] == [
        {"spec.beta0": beta} for beta in (0.5, 0.5, 1.5, 1.5)
    ]
    assert {result["seed"] for result in record["results"]} == {3}
    assert "Is it?" in (tmp_path / "page.html").read_text()
    assert "beta0 1.5" in err


def test_bits_by_layer(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path) -> None:
    model, record = tmp_path / "model", tmp_path / "record.json"
    assert run(capsys, "train", "exact", "--steps", 2, "--context", 8, "--text", text, "-o", model)[0] == 0
    options = ["--context", 8, "--text", text, "--batches", 1, "--json", record, "-o", tmp_path / "mixed"]
    code, out, err = run(capsys, "calibrate", model, "exaq", "--mean-bits", 2.5, *options)
    assert code == 0, err
    rows = [line.split() for line in out.splitlines() if ".attn" in line]
    results = json.loads(record.read_text())["results"]
    bits = [result["spec"]["bits"] for result in results]
    assert len(bits) == 4
    assert sum(bits) == 10
    assert all(result["statistics"]["spread"] > 0 for result in results)
    assert [int(row[2]) for row in rows] == bits
    assert [float(row[6]) for row in rows] == [float(f"{result['calibration']['clip']:.3g}") for result in results]
    code, _, err = run(capsys, "calibrate", model, "softermax", "--mean-bits", 2.5, *options, "--overwrite")
    assert code == 2
    assert "--mean-bits needs a method with a choice of bits (exaq), as METHOD or in --spec" in err
