"""`softmaxkit compare` as a user runs it: record and page, what it takes and leaves out, and stopping."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run

from softmaxkit.cli import main
from softmaxkit.methods import ALL_METHODS, METHODS
from softmaxkit.studies.preparation import needs_training

pytestmark = pytest.mark.usefixtures("few_tokens")


def compare(capsys: pytest.CaptureFixture[str], folder: Path, text: Path, *more: object) -> tuple[int, str, str]:
    return run(
        capsys,
        "compare",
        "--text",
        text,
        "--steps",
        4,
        "--context",
        16,
        "--windows",
        16,
        "--no-verify",
        "--no-synth",
        "-o",
        folder,
        *more,
    )


def test_compare_writes_record_and_page(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path) -> None:
    code, out, err = compare(capsys, tmp_path / "out", text)
    assert code == 0, err
    assert err.startswith("Train a small byte-level GPT for 4 steps")
    record = json.loads((tmp_path / "out" / "compare.json").read_text())
    methods = [(result["method"], result["variant"], result["mode"]) for result in record["results"]]
    assert methods[:2] == [("exact", "", "float"), ("exact", "", "integer")]
    assert len(methods) == 2 * (1 + 2 + 2 + 9)
    assert len(set(methods)) == len(methods)
    for result in record["results"]:
        assert result["loss_nats"] > 0
        assert result["series"]["error"]["mean_absolute_error"]
        assert result["series"]["function"]["probability"]
        assert (result["mode"] == "integer") == ("saturated_scores_percent" in result)
    assert record["results"][0]["loss_change_percent"] == 0
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "consmax" in out
    # A second run reads the finished results and gives the same figures.
    before = (tmp_path / "out" / "compare.json").read_text()
    code, _, err = compare(capsys, tmp_path / "out", text)
    assert code == 0
    assert "train" not in err.split("write")[1]
    after = json.loads((tmp_path / "out" / "compare.json").read_text())
    timeless = [
        [{key: value for key, value in result.items() if not key.startswith("speedup")} for result in results]
        for results in (after["results"], json.loads(before)["results"])
    ]
    assert timeless[0] == timeless[1]


def test_compare_shows_how_slow_a_slow_kernel_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = dict.fromkeys(("speedup_over_torch", "speedup_over_torch_low", "speedup_over_torch_high"), 0.00341)
    monkeypatch.setattr("softmaxkit.studies.compare.speedups_over_torch", lambda specs: dict.fromkeys(specs, slow))
    code, out, err = compare(capsys, tmp_path / "out", text, "--method", "exact")
    assert code == 0, err
    assert "0.0034" in out
    assert "0.0034×" in (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_compare_takes_a_pretrained_model(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path) -> None:
    code, _, err = run(
        capsys, "train", "exact", "--text", text, "--context", 16, "--steps", 4, "-o", tmp_path / "model"
    )
    assert code == 0, err
    options = ("--model", tmp_path / "model", "--steps", 0)
    code, _, err = compare(capsys, tmp_path / "out", text, *options, "--records", Path(__file__).parents[2] / "results")
    assert code == 0, err
    assert "What the papers claim" in (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "out" / "compare.json").read_text())["results"]
    ready = {name for name in ALL_METHODS if not needs_training(METHODS[name]())}
    assert {result["method"] for result in results} == ready
    code, _, err = compare(
        capsys, tmp_path / "out", text, "--model", tmp_path / "model", "--steps", 2, "--method", "consmax"
    )
    assert code == 0, err
    results = json.loads((tmp_path / "out" / "compare.json").read_text())["results"]
    assert [result["training_description"] for result in results] == ["pretrained, then 2 steps"] * 6


@pytest.mark.slow
def test_leaving_out_a_method_that_has_to_train_is_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path
) -> None:
    run(capsys, "train", "exact", "--text", text, "--context", 16, "--steps", 2, "-o", tmp_path / "model")
    options = ("--model", tmp_path / "model", "--steps", 0)
    code, _, err = compare(capsys, tmp_path / "out", text, *options, "--method", "ConSmax")
    assert code == 2
    assert "consmax has to be trained; give --steps" in err
    code, _, err = compare(capsys, tmp_path / "out", text, *options, "--records", tmp_path)
    assert code == 0
    assert "consmax is left out" in err
    assert "What the papers claim" not in (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")


def test_compare_takes_specs_from_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text('{"schema": 1, "method": "exaq", "bits": 4, "scale": "calibrated"}')
    code, _, err = compare(capsys, tmp_path / "out", text, "--spec", spec, "--json", tmp_path / "record.json")
    assert code == 0, err
    results = json.loads((tmp_path / "record.json").read_text())["results"]
    assert [result["method"] for result in results] == ["exact", "exact", "exaq", "exaq"]
    assert results[2]["variant"] == "4 bits, gaussian clip, scale=calibrated"
    spec.write_text('{"schema": 1, "method": "exact", "schedule": "online"}')
    code, _, err = compare(capsys, tmp_path / "out", text, "--spec", spec, "--json", tmp_path / "record.json")
    assert code == 0, err
    assert "train" not in err.split("write")[1]  # the exact model serves
    results = json.loads((tmp_path / "record.json").read_text())["results"]
    assert [result["variant"] for result in results] == ["", "", "schedule=online", "schedule=online"]
    assert results[2]["loss_nats"] == results[0]["loss_nats"]


@pytest.mark.slow
def test_ctrl_c_then_the_same_command_continues(tmp_path: Path, text: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "import softmaxkit.models.trainer as trainer\n"
        "from softmaxkit.cli import main\n"
        "step_end = trainer._Watch.on_step_end\n"
        "def stop(self, args, state, control, **kwargs):\n"
        "    if state.global_step == 5: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return step_end(self, args, state, control, **kwargs)\n"
        "trainer._Watch.on_step_end = stop\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = [
        "compare",
        "--text",
        str(text),
        "--steps",
        "8",
        "--context",
        "16",
        "--windows",
        "4",
        "--method",
        "exact",
        "--no-verify",
        "--no-synth",
    ]
    command = [sys.executable, "-c", script, *arguments, "-o", str(tmp_path / "out")]
    stopped = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert stopped.returncode == 130, stopped.stderr
    assert "step 5 of 8" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    command[2] = "import sys; from softmaxkit.cli import main; sys.exit(main(sys.argv[1:]))"
    again = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "compare.html").is_file()


@pytest.mark.slow
def test_compare_of_several_seeds_gives_means_and_spreads(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("all work and no play makes a dull text. " * 2000)
    arguments = ["compare", "--text", str(text), "--method", "softermax", "--steps", "3", "--windows", "4"]
    arguments += ["--context", "16", "--no-synth", "--no-verify", "-o", str(tmp_path / "out")]
    assert main([*arguments, "--seeds", "2"]) == 0
    both = json.loads((tmp_path / "out" / "compare.json").read_text())["results"]
    assert main([*arguments, "--seed", "1"]) == 0
    second = json.loads((tmp_path / "out" / "compare.json").read_text())["results"]
    assert main(arguments) == 0
    first = json.loads((tmp_path / "out" / "compare.json").read_text())["results"]
    for mean, one, other in zip(both, first, second, strict=True):
        assert mean["seeds"] == [0, 1]
        for key in ("loss_nats", "loss_change_percent"):
            assert mean[key] == pytest.approx((one[key] + other[key]) / 2)
            assert mean[f"{key}_spread"] == pytest.approx(abs(one[key] - other[key]) / 2**0.5)
        assert "loss_nats_spread" not in one
