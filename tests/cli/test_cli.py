"""The command as a user runs it: results, records, one-line errors and exit codes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import softmaxkit
from softmaxkit.cli import VERBS, main
from softmaxkit.methods import METHODS
from softmaxkit.models.text import standard_library_source
from softmaxkit.studies.resume import alone_in


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_bytes(standard_library_source(20_000))
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_methods_lists_all_and_writes_a_record(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "methods", "--json", tmp_path / "record.json")
    assert code == 0
    assert all(name in out for name in METHODS)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["schema"] == 1
    assert record["softmaxkit"] == softmaxkit.__version__
    assert [result["method"] for result in record["results"]] == list(METHODS)
    assert all(softmaxkit.Spec.from_json(result["spec"]).method == result["method"] for result in record["results"])
    code, out, err = run(capsys, "methods", "--json", "-")
    assert json.loads(out)["results"] == record["results"]
    assert all(name in err for name in METHODS)
    assert "[bold]" not in err
    assert "\x1b" not in err


def test_methods_are_styled_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    _, out, _ = run(capsys, "methods", "exaq")
    assert "\x1b[1mexaq\x1b[0m" in out


def test_the_help_is_quick() -> None:
    script = (
        "import sys\n"
        "from softmaxkit.cli import main\n"
        "main(['--help'])\n"
        "assert not {'torch', 'transformers', 'amaranth', 'plotly'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


@pytest.mark.parametrize("verb", [verb.__name__ for verb in VERBS])
def test_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert "--json" in out


def test_help_fills_the_width_of_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    _, out, _ = run(capsys, "synth", "--help")
    paragraph = next(line.strip() for line in out.splitlines() if line.strip().startswith("Netlists are simulated"))
    assert paragraph.endswith("on random queries.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--stepz", "3"], "--steps"),
        (["compare", "--steps", "many"], "--steps"),
        (["compare", "--steps", "0"], "give 1 or more"),
        (["compare", "--method", "softmax"], "no method is called 'softmax'; did you mean 'softermax'?"),
        (["compare", "--method", "none"], "the methods are exact, consmax, softermax, exaq"),
        (["compare", "--text", "missing.txt"], "cannot read the text missing.txt"),
        (["compare", "--model", "missing/folder"], "cannot load the model missing/folder"),
        (["compare", "--output", __file__], "is a file; give a folder"),
        (["compere"], "compare"),
        (["train"], "give either a METHOD or --spec FILE"),
        (["train", "exact", "--mode", "int"], "'int' is not one of 'float', 'integer'"),
        (["train", "--spec", "missing.json"], "cannot read the spec missing.json"),
        (["evaluate"], "Missing argument"),
        (["evaluate", ".", "--mode", "int"], "'int' is not one of 'float', 'integer', 'both'"),
        (["evaluate", "missing"], "cannot load the model missing"),
        (["calibrate", "missing", "exaq"], "cannot load the model missing"),
        (["calibrate", "missing", "exaq", "--mean-bits", "5"], "--mean-bits"),
        (["study", "consmax-strat"], "choose consmax-budget, consmax-conversion"),
        (["study", "missing.toml"], "cannot read the study missing.toml"),
        (["tasks", "missing", "no/such-task"], "no/such-task"),
        (["tasks", "missing", "--epochs", "2"], "Missing argument"),
    ],
)
def test_wrong_arguments_get_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in err


def test_no_verb_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert code == 2
    assert "compare" in out
    assert run(capsys, "--version")[:2] == (0, f"softmaxkit {softmaxkit.__version__}\n")


def test_a_spec_with_an_unknown_key_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text('{"schema": 1, "method": "exaq", "bitz": 3}')
    code, _, err = run(capsys, "train", "--spec", spec)
    assert code == 2
    assert "did you mean 'bits'" in err
    assert str(spec) in err
    spec.write_text('{"method": "exaq"}')
    assert 'add "schema": 1' in run(capsys, "train", "--spec", spec)[2]


def test_train_calibrate_evaluate_stand_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
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
    code, _, err = run(capsys, "train", "consmax", "--from", "exact", *common, "--steps", 2, "-o", "consmax")
    assert code == 0, err
    model = softmaxkit.load("consmax")
    assert {module.spec.method for module in softmaxkit.models.layers(model).values()} == {"consmax"}
    assert model(torch.zeros((1, 4), dtype=torch.long)).logits.isfinite().all()


def compare(capsys: pytest.CaptureFixture[str], folder: Path, text: str, *more: object) -> tuple[int, str, str]:
    return run(
        capsys,
        "compare",
        "--text",
        text,
        "--steps",
        8,
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


def test_compare_writes_record_and_page(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    code, out, err = compare(capsys, tmp_path / "out", text)
    assert code == 0, err
    assert err.startswith("Train a small byte-level GPT for 8 steps")
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


@pytest.mark.slow
def test_compare_takes_a_pretrained_model(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    code, _, err = run(
        capsys, "train", "exact", "--text", text, "--context", 16, "--steps", 4, "-o", tmp_path / "model"
    )
    assert code == 0, err
    options = ("--model", tmp_path / "model", "--steps", 0)
    code, _, err = compare(capsys, tmp_path / "out", text, *options, "--records", Path(__file__).parents[2] / "results")
    assert code == 0, err
    assert "What the papers claim" in (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "out" / "compare.json").read_text())["results"]
    assert {result["method"] for result in results} == {"exact", "softermax", "exaq"}  # ConSmax has to train
    code, _, err = compare(
        capsys, tmp_path / "out", text, "--model", tmp_path / "model", "--steps", 2, "--method", "consmax"
    )
    assert code == 0, err
    results = json.loads((tmp_path / "out" / "compare.json").read_text())["results"]
    assert [result["training_description"] for result in results] == ["pretrained, then 2 steps"] * 6


@pytest.mark.slow
def test_leaving_out_a_method_that_has_to_train_is_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
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


def test_models_are_not_overwritten_by_default(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    arguments = ("train", "exact", "--text", text, "--context", 16, "--steps", 2, "-o", tmp_path / "model")
    assert run(capsys, *arguments)[0] == 0
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "already contains a model; give another --output, or --overwrite" in err
    assert run(capsys, *arguments, "--overwrite")[0] == 0
    assert not list(tmp_path.glob("model.run-*"))


def test_methods_takes_one_and_shows_choices(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "methods", "EXAQ")
    assert code == 0
    assert "gaussian, laplace, naive, searched" in out
    assert "softermax" not in out


def test_compare_takes_specs_from_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
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
def test_ctrl_c_then_the_same_command_continues(tmp_path: Path, text: str) -> None:
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
        text,
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


def test_a_full_disk_is_one_line_and_keeps_the_old_record(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(os, "replace", full)
    code, _, err = run(capsys, "methods", "--json", path)
    assert code == 1
    assert err.strip().splitlines()[-1] == f"error: {path}: No space left on device; existing files are untouched"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_file_is_written_to_and_not_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    code, _, err = run(capsys, "methods", "--json", "/dev/full")
    assert code == 1
    assert "No space left on device" in err
    assert Path("/dev/full").is_char_device()


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


def test_a_study_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
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


def test_studies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "study")
    assert code == 0
    assert "consmax-start" in out


def test_bits_by_layer(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    model, record = tmp_path / "model", tmp_path / "record.json"
    assert run(capsys, "train", "exact", "--steps", 2, "--context", 8, "--text", text, "-o", model)[0] == 0
    options = ["--context", 8, "--text", text, "--batches", 1, "--json", record, "-o", tmp_path / "mixed"]
    code, _, err = run(capsys, "calibrate", model, "exaq", "--mean-bits", 2.5, *options)
    assert code == 0, err
    results = json.loads(record.read_text())["results"]
    bits = [result["spec"]["bits"] for result in results]
    assert len(bits) == 4
    assert sum(bits) == 10
    assert all(result["statistics"]["spread"] > 0 for result in results)
    assert "spread" in err
    code, _, err = run(capsys, "calibrate", model, "softermax", "--mean-bits", 2.5, *options, "--overwrite")
    assert code == 2
    assert "--mean-bits needs a method with a choice of bits (exaq), as METHOD or in --spec" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["methods", "--json", "{folder}"], "is a folder; give the name of a file"),
        (["compare", "--html", "{folder}"], "is a folder; give the name of a file"),
        (["compare", "--json", "{file}/record.json"], "is a file; give a folder to write to"),
        (["study", "row-length", "-o", "{file}"], "is a file; give a folder to write to"),
        (["tasks", "model", "task", "-o", "{file}/deeper"], "is a file; give a folder to write to"),
        (["verify", "exact", "--waveform", "{folder}"], "is a folder; give the name of a file"),
        (["synth", "--verilog", "{folder}/none.v"], "does not exist"),
        (["synth", "exact", "--liberty", "{folder}/none.lib"], "does not exist"),
    ],
)
def test_paths_are_checked_before_the_work(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("something")
    assert main([word.format(folder=tmp_path, file=tmp_path / "file") for word in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "untouched" not in error


def test_a_folder_in_which_a_run_is_at_work_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "exact", "--steps", "1", "--context", "8", "-o", str(tmp_path / "model")]
    with alone_in(tmp_path / "model"):
        assert main(arguments) == 2
    assert f"another run is using {tmp_path / 'model'}" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    with alone_in(tmp_path / "model"):  # possible again, because the first run has ended
        assert main(["calibrate", "no-model", "exaq", "-o", str(tmp_path / "model")]) == 2
    assert f"another run is using {tmp_path / 'model'}" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("verb", ["rtl", "verify", "synth"])
@pytest.mark.parametrize("option", [["--layer", "1"], ["--head", "1"], ["--text", "file"]])
def test_options_of_a_head_without_a_model_are_refused(
    verb: str, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "exaq", *option]) == 2
    assert "without --model there is no head for" in capsys.readouterr().err


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


def test_ctrl_c_says_that_the_same_command_continues(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("softmaxkit.studies.claims.judge_claims", stop)
    assert main(["claims", "--records", str(Path(__file__).parents[2] / "results")]) == 130
    assert capsys.readouterr().err.startswith("error: stopped; finished results are kept")
