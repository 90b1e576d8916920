"""The scripts in benchmarks/ at tiny sizes: what they record and print, and what they say of wrong arguments."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from doc_tables import ROOT, results
from softmaxkit.models.language_model import language_model
from softmaxkit.recipe import Shape

TIMED = {
    "cache": "--context 32 --tokens 2 --layers 1 --heads 2 --key-heads 1",
    "paged_cache": "--sequences 2 --tokens 48 --heads 2 --key-heads 1 --channels 32 --block-sizes 16 32",
    "integer_mode": "--windows 2 --context 8",
    "training": "--context 32 --layers 1 --heads 2 --key-heads 1",
}


def record_of(name: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a benchmark and return its record."""
    path = tmp_path / "record.json"
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", *arguments, "--json", str(path)])
    importlib.import_module(name).main()
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert record["command"] == ["python", f"benchmarks/{name}.py", *arguments, "--json", str(path)]
    return record


@pytest.mark.parametrize("name", TIMED)
def test_what_is_timed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = dict(os.environ)
    record = record_of(name, [*TIMED[name].split(), "--rounds", "2", "--threads", "1"], tmp_path, monkeypatch)
    assert {name: record["inputs"][name] for name in ("rounds", "threads")} == {"rounds": 2, "threads": 1}
    over = {"cache": "torch", "paged_cache": "contiguous", "integer_mode": "eager", "training": "sdpa"}[name]
    for result in record["results"]:
        low, middle, high = (result[f"time_over_{over}{end}"] for end in ("_low", "", "_high"))
        assert 0 < low <= middle <= high
        assert result["seconds_per_token" if name == "cache" else "seconds"] > 0
    count = {"cache": 7, "paged_cache": 12, "integer_mode": 17, "training": 9}[name]
    assert len(record["results"]) == count
    printed = capsys.readouterr().out.splitlines()
    assert record["inputs"]["processor"]["name"] in printed[0]
    assert len(printed[2:]) == {"integer_mode": 8, "training": 4}.get(name, count)
    assert dict(os.environ) | {"SOFTMAXKIT_KERNELS": ""} == environment | {"SOFTMAXKIT_KERNELS": ""}


def test_the_accuracy_of_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 bits err by less than 4."""
    language_model(Shape(layers=1, heads=2, width=64), 32, seed=0).save_pretrained(tmp_path / "model")
    text = tmp_path / "text"
    text.write_text("ABC 0123 " * 100, encoding="ascii")
    arguments = ["--model", str(tmp_path / "model"), "--text", str(text), "--context", "32"]
    exact, eight, four = record_of("cache_accuracy", arguments, tmp_path, monkeypatch)["results"]
    assert exact["loss_nats"] > 0
    for figure in ("logits_error_percent", "keys_error_percent", "values_error_percent"):
        assert 0 < eight[figure] < four[figure]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
def test_instructions_of_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the Triton of the record, the count is that of the record."""
    triton = pytest.importorskip("triton")
    benchmark = importlib.import_module("decode_instructions")
    monkeypatch.setattr(benchmark, "CASES", benchmark.CASES[:1])
    record = record_of("decode_instructions", [], tmp_path, monkeypatch)
    (result,) = record["results"]
    assert result["loop_bytes"] == 32 * 2 * (128 + 4)  # of 32 keys and values, with a step of 4 bytes each
    assert result["threads"] == 128
    kept = json.loads((ROOT / "results" / "speed" / "decode-instructions.json").read_text(encoding="utf-8"))
    if kept["versions"]["triton"] == triton.__version__:
        assert result == results("speed/decode-instructions.json")[0]


def test_the_longest_loop_of_a_listing() -> None:
    longest_loop = pytest.importorskip("machine_code", reason="needs triton").longest_loop
    listing = """
.L_x_1:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_2:
        /*0010*/                   FADD R2, R2, R3 ;
        /*0020*/              @!P1 BRA `(.L_x_3) ;
        /*0030*/               @P0 BRA `(.L_x_2) ;
.L_x_3:
        /*0040*/                   EXIT ;
.L_x_4:
        /*0050*/                   BRA `(.L_x_4);
"""
    assert longest_loop(listing) == 3
    with pytest.raises(ValueError, match="no loop"):
        longest_loop("        /*0000*/                   EXIT ;")


WRONG = {
    "cache": [
        (["--rounds", "0"], "--rounds: must be a whole number of 1 or more, not '0'"),
        (["--heads", "3", "--key-heads", "2"], "--heads must be a multiple of --key-heads"),
        (["--dtype", "float8"], "invalid choice: 'float8'"),
    ],
    "paged_cache": [
        (["--threads", "two"], "--threads: must be a whole number of 1 or more, not 'two'"),
        (["--sequences", "8", "--tokens", "4"], "--tokens must be at least --sequences"),
        (["--tokens", "32", "--block-sizes", "17"], "multiple of 16"),
        (["--tokens", "32", "--heads", "3", "--key-heads", "2"], "heads"),
    ],
    "integer_mode": [(["--windows", "-1"], "--windows: must be a whole number of 1 or more, not '-1'")],
    "cache_accuracy": [
        (["--model", "missing"], "missing"),
        (["--json", "."], "is a folder; give the name of a file"),
    ],
    "outlier_channels": [
        (["--ratio", "0"], "--ratio: must be a number of 1 or more, not '0'"),
        (["--tokens", "-5"], "--tokens: must be a whole number of 1 or more, not '-5'"),
    ],
    "sample_scores": [(["./missing"], "./missing does not exist")],
    "decode_instructions": [(["--bits", "8"], "unrecognized arguments: --bits")],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, said in WRONG[name]:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(name).main()
        assert ended.value.code == 2, arguments
        assert said in capsys.readouterr().err.splitlines()[-1], arguments


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_has_help(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "__main__" not in path.read_text(encoding="utf-8"):
        pytest.skip("what the benchmarks share")
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(path.stem).main()
    assert ended.value.code == 0
    assert f"usage: {path.name}" in capsys.readouterr().out
