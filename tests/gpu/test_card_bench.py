"""The GPU bench on small shapes: everything runs, is correct, and is compared with the card's ceilings."""

from __future__ import annotations

import pytest
import torch

from softmaxkit import ConSmax, Exact, Exaq
from softmaxkit.cli import main
from softmaxkit.cli.card import card_tables
from softmaxkit.kernels import cards
from softmaxkit.studies.card_speed import CardOptions, measure_card

pytest.importorskip("triton")


def test_everything_runs_and_says_its_error(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    if device.type == "cpu":  # where compiling takes longer than all the rest
        monkeypatch.setattr(torch, "compile", lambda function, **how: function)
    specs = (Exact(), ConSmax(), Exaq(bits=2))
    options = CardOptions(specs, ((8, 100), (2, 33, 33, 32), (2, 1, 130, 32)), rounds=1)
    record = measure_card(options, ["bench"], lambda title: lambda done, total: None)
    assert all(card_tables(record))
    assert record["inputs"]["copy_gb_per_s"] > 0
    assert record["inputs"]["matmul_tflops"] > 0
    results = record["results"]
    assert {result["kind"] for result in results} == {"rows", "attention", "decode"}
    for result in results:
        if result["backend"].startswith("scaled_dot_product_attention, ") or result["backend"] == "FlexAttention":
            continue  # what torch has of these depends on the machine
        if device.type == "cpu" and result["backend"] == "flex" and result["pass"] != "forward":
            assert "does not support backward on CPU" in result["failure"]
            continue
        assert "failure" not in result, result
        assert result["seconds_low"] <= result["seconds"] <= result["seconds_high"]
        assert result["call_seconds"] > 0
        assert ("tflops" in result) == (result["kind"] == "attention")
        assert result.get("share_of_matmul", result.get("share_of_copy")) > 0
        if result.get("mode", "float") == "float":
            # bfloat16; with 8 bits of keys and values, or levels near a tie, a few per cent.
            near = 0.01 if "storage" not in result and result["method"] != "exaq" else 0.2
            assert result["error_rms"] < near, result
    ours = {(result["method"], result["backend"]) for result in results if result["kind"] == "attention"}
    assert {("consmax", "triton"), ("consmax", "flex"), ("exaq", "triton")} <= ours
    assert {result["bytes"] for result in results if result["kind"] == "decode"} == {
        2 * 2 * 130 * 32 * 2,
        2 * (2 * 130 * 32 + 2 * 130 * 4),
    }


def test_without_a_card_it_says_how_to_try(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cards.INTERPRETER, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "--device", "cuda", "--shape", "8x100"]) != 0
    error = capsys.readouterr().err
    assert "there is no CUDA device here" in error
    assert "TRITON_INTERPRET=1" in error
    assert main(["bench", "--device", "cuda", "--threads", "2"]) == 2
