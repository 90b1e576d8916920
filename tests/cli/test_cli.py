"""The command as a user runs it: help, records, one-line errors and exit codes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import run

import softmaxkit
from softmaxkit.cli import VERBS, main
from softmaxkit.methods import METHODS
from softmaxkit.studies.resume import alone_in

with_full_disk = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")


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
        (["compare", "--method", "none"], f"the methods are {', '.join(METHODS)}"),
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
        (
            ["evaluate", "missing", "--task", "piqa", "--windows", "8"],
            "with --task no text is read; leave --windows out",
        ),
        (["evaluate", "missing", "--limit", "8"], "only for use with --task; leave --limit out"),
        (["recommend", "missing", "--task", "sts.tsv", "--text", "a.txt"], "no text is read; leave --text out"),
        (["train", "exact", "--learning-rate", "nan"], "--learning-rate must be a positive number, got nan"),
        (["calibrate", "missing", "exaq"], "cannot load the model missing"),
        (["calibrate", "missing", "exaq", "--mean-bits", "5"], "--mean-bits"),
        (["study", "consmax-strat"], "did you mean 'consmax-start'?"),
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


def test_a_model_that_can_only_be_on_the_hub_is_announced(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a network, the search takes half a minute."""
    monkeypatch.setattr("softmaxkit.studies.evaluation.read_pretrained", lambda *_: pytest.fail("not announced"))
    with pytest.raises(pytest.fail.Exception):
        run(capsys, "evaluate", "owner/name")
    assert "there is no owner/name here, so it is looked for on the Hugging Face hub" in capsys.readouterr().err
    for local in ("smollm2", str(tmp_path)):
        with pytest.raises(pytest.fail.Exception):
            run(capsys, "evaluate", local)
        assert "hub" not in capsys.readouterr().err


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


def test_methods_takes_one_and_shows_choices(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "methods", "EXAQ")
    assert code == 0
    assert "gaussian, laplace, naive, searched" in out
    assert "softermax" not in out


def closed_pipe() -> int:
    """Return the end to write to of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize(
    ("output", "expected"), [("a closed pipe", 0), pytest.param("/dev/full", 1, marks=with_full_disk)]
)
def test_what_was_asked_for_is_written_even_if_the_table_cannot_be_printed(
    output: str, expected: int, tmp_path: Path
) -> None:
    writer = os.open(output, os.O_WRONLY) if output == "/dev/full" else closed_pipe()
    files = {f"--{kind}": tmp_path / kind for kind in ("json", "markdown", "html")}
    options = [str(word) for option in files.items() for word in option]
    command = [sys.executable, "-m", "softmaxkit", "claims", "--method", "exaq", "--records", str(tmp_path), *options]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == expected
    assert ("error: No space left on device" in done.stderr) == bool(expected)
    assert "Traceback" not in done.stderr
    assert all(path.exists() for path in files.values())


UNREAD = {
    "right": ("import typer; raise typer.Exit(0)", 0, ""),
    "wrong": ("raise RuntimeError('the hardware differs')", 1, "error: the hardware differs"),
    "long": ("print('x' * 1_000_000)", 0, ""),
}


@pytest.mark.parametrize("streams", ["stdout", "stdout and stderr"])
@pytest.mark.parametrize(("then", "code", "message"), UNREAD.values(), ids=UNREAD)
def test_without_a_reader_the_exit_code_and_the_message_are_those_of_the_work(
    then: str, code: int, message: str, streams: str
) -> None:
    script = f"""
import sys
from softmaxkit import cli
from softmaxkit.cli.console import note, results_console
def verb():
    note("at work")
    results_console(None).print("a table")
    {then}
cli.app.command("verb")(verb)
sys.exit(cli.main(["verb"]))
"""
    writer = closed_pipe()
    stderr = subprocess.PIPE if streams == "stdout" else writer
    done = subprocess.run([sys.executable, "-c", script], stdout=writer, stderr=stderr, text=True, check=False)
    os.close(writer)
    assert done.returncode == code
    if streams == "stdout":
        assert done.stderr.splitlines() == ["at work", *filter(None, [message])]


@with_full_disk
def test_a_record_on_standard_output_that_is_full_is_a_failure(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "softmaxkit", "methods", "--json", "-"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "error: No space left on device; existing files are untouched"


@pytest.mark.parametrize("arguments", [("methods", "--json", "record.json"), ("rtl", "consmax", "-o", "unit")])
def test_a_deleted_working_folder_is_named(arguments: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "deleted"
    folder.mkdir()
    script = f"import os, sys; from softmaxkit.cli import main; os.rmdir(os.getcwd()); sys.exit(main({arguments}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the folder that this runs in was deleted; change to one that exists")


@with_full_disk
def test_pages_are_written_even_if_the_record_cannot_be(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pages = tmp_path / "page.md", tmp_path / "page.html"
    options = ["--records", str(tmp_path), "--json", "/dev/full", "--markdown", str(pages[0]), "--html", str(pages[1])]
    code, _, err = run(capsys, "claims", "--method", "exaq", *options)
    assert code == 1
    assert "No space left on device" in err
    assert all(page.exists() for page in pages)


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


@with_full_disk
def test_a_device_file_is_written_to_and_not_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "methods", "--json", "/dev/full")
    assert code == 1
    assert "No space left on device" in err
    assert Path("/dev/full").is_char_device()


def test_tables_are_printed_in_any_encoding() -> None:
    records = Path(__file__).parents[2] / "results"
    command = [sys.executable, "-m", "softmaxkit", "claims", "--method", "exaq", "--records", str(records)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert r"\xb1" in done.stdout


def test_studies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "study")
    assert code == 0
    assert "consmax-start" in out


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


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder in which nobody can create files")
def test_a_folder_in_which_no_file_can_be_created_is_not_taken_for_another_run() -> None:
    with (
        pytest.raises(OSError, match="no file can be created there; choose another --output") as error,
        alone_in(Path("/proc/model")),
    ):
        pass
    assert error.value.filename == "/proc"


def test_retries_of_the_hub_are_not_shown() -> None:
    script = (
        "from softmaxkit.cli import main\n"
        "main(['--version'])\n"
        "from huggingface_hub.utils import logging\n"
        "assert logging.get_verbosity() == logging.ERROR\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_claims_says_what_method_selects(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    help = " ".join(run(capsys, "claims", "--help")[1].split())
    assert "Judge the claims of this method's paper. Repeatable. [default: (all)]" in help


@pytest.mark.parametrize("verb", ["rtl", "verify", "synth"])
@pytest.mark.parametrize("option", [["--layer", "1"], ["--head", "1"], ["--text", "file"]])
def test_options_of_a_head_without_a_model_are_refused(
    verb: str, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "exaq", *option]) == 2
    assert "without --model there is no head for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "after", "text"),
    [
        ("claims", "softmaxkit.studies.claims.judge_claims", "the same command starts again, and no file is left half"),
        ("synth", "softmaxkit.flow.synthesize.chosen_library", "finished results are kept, and the same command"),
    ],
)
def test_ctrl_c_says_what_is_kept(
    verb: str, after: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(after, stop)
    arguments = {"claims": ["--records", str(Path(__file__).parents[2] / "results")], "synth": ["exact"]}[verb]
    assert main([verb, *arguments]) == 130
    assert f"error: stopped; {text}" in capsys.readouterr().err
