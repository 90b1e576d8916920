"""Training in several processes, as torchrun starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed

from softmaxkit import processes
from softmaxkit.cli import main

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
SIZES = ["--steps", "6", "--context", "16", "--learning-rate", "0.01"]


def run(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    start = (
        [] if processes == 1 else ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    )
    return subprocess.run(
        [sys.executable, "-m", *start, "softmaxkit", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )


def text_file(folder: Path) -> Path:
    text = folder / "text.txt"
    text.write_text("all work and no play makes a dull text. " * 2000)
    return text


def losses(path: Path) -> list[float]:
    (result,) = json.loads(path.read_text())["results"]
    curve: dict[str, Any] = result["series"]["training"]
    return [result["loss_nats"], *(entry.get("loss") or entry["eval_loss"] for entry in curve)]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    for count in (1, 2):
        record = tmp_path / f"{count}.json"
        ended = run(
            count,
            *("train", "consmax", *SIZES, "--text", str(text_file(tmp_path))),
            *("-o", str(tmp_path / f"model{count}"), "--json", str(record)),
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.count("held-out loss") == 1
    assert (tmp_path / "model2" / "model.safetensors").is_file()
    # The steps are equal in exact arithmetic. Sums over parts of a batch round differently, by a few float32 units in
    # the last place per step, which Adam's division may amplify where gradients are near 0; another data order would
    # differ by percents.
    assert losses(tmp_path / "2.json") == pytest.approx(losses(tmp_path / "1.json"), rel=1e-3)


@pytest.mark.slow
def test_a_study_trains_in_two_processes_and_resumes(tmp_path: Path) -> None:
    config = tmp_path / "study.toml"
    config.write_text(
        'question = "Do two processes do?"\nseeds = [0, 1]\nwindows = 4\n[shape]\nlayers = 1\nheads = 2\nwidth = 16\n'
        '[recipe]\nsteps = 4\ncontext = 16\n[[methods]]\nmethod = "consmax"\n'
    )
    arguments = ["study", str(config), "--text", str(text_file(tmp_path))]
    for _ in range(2):
        ended = run(2, *arguments, "-o", str(tmp_path / "two"), "--json", str(tmp_path / "two.json"))
        assert ended.returncode == 0, ended.stderr
    ended = run(1, *arguments, "-o", str(tmp_path / "one"), "--json", str(tmp_path / "one.json"))
    assert ended.returncode == 0, ended.stderr
    one, two = (
        [result["loss_nats"] for result in json.loads((tmp_path / f"{name}.json").read_text())["results"]]
        for name in ("one", "two")
    )
    assert len(one) > 2
    assert two == pytest.approx(one, rel=1e-3)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    ended = run(3, "train", "exact", *SIZES, "--text", str(text_file(tmp_path)), "-o", str(tmp_path / "model"))
    assert ended.returncode != 0
    assert "a batch of 16 cannot be divided equally among 3 processes; start 1, 2, 4, 8, 16" in ended.stderr
    assert not (tmp_path / "model").exists()


def test_after_connected_processes_a_single_one_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    with processes.connected():
        assert processes.broadcast("within") == "within"
    assert processes.broadcast("after") == "after"
    assert not processes.in_any_process(False)


def test_verbs_that_do_not_train_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["methods"]) == 2
    assert (
        "'softmaxkit methods' runs in a single process; use torchrun only for compare, train" in capsys.readouterr().err
    )
