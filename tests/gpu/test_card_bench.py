"""The GPU bench on small shapes: everything runs, is correct, and is compared with the card's ceilings."""

from __future__ import annotations

import pytest
import torch

from softmaxkit import ConSmax, Exact, Exaq, Index, Sigmoid
from softmaxkit.cli import main
from softmaxkit.cli.card import card_tables
from softmaxkit.kernels import cards
from softmaxkit.studies.card_speed import CardOptions, measure_card

pytest.importorskip("triton")


def test_everything_runs_and_says_its_error(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    if device.type == "cpu":  # where compiling takes longer than all the rest
        monkeypatch.setattr(torch, "compile", lambda function, **how: function)
    specs = (Exact(), ConSmax(), Exaq(bits=2), Sigmoid(), Index(), Index(bits=8))
    options = CardOptions(specs, ((8, 100), (1, 20, 20, 16), (1, 1, 20, 32), (2, 1, 20, 32, 1)), rounds=1)
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
        assert result["speedup_over_torch"] > 0
        assert ("tflops" in result) == (result["kind"] == "attention")
        assert result.get("share_of_matmul", result.get("share_of_copy")) > 0
        if result.get("mode", "float") == "float":
            # bfloat16; with 8 bits of keys and values, or levels near a tie, a few per cent; with 4 bits, tens.
            near = 0.01 if "storage" not in result and result["method"] not in ("exaq", "index") else 0.2
            assert result["error_rms"] < (0.8 if "4-bit" in result.get("storage", "") else near), result
    ours = {(result["method"], result["backend"]) for result in results if result["kind"] == "attention"}
    assert {
        ("consmax", "triton"),
        ("consmax", "flex"),
        ("exaq", "triton"),
        ("sigmoid", "triton"),
        ("index", "triton"),
    } <= ours
    # What has no fused attention is measured in rows alone.
    assert {result["kind"] for result in results if result.get("variant") == "bits=8"} == {"rows"}
    values, table = 2 * 20 * 32, 2 * 4  # of keys and values; 2 pages of a sequence
    sizes = {
        "": 2 * values,
        "8-bit cache": values + 2 * 20 * 4,
        "8-bit pages of 16": values + 2 * 20 * 4 + table,
        "4-bit cache": values // 2 + 2 * 20 * 2,
        "4-bit pages of 16": values // 2 + 2 * 20 * 2 + table,
    }
    for shape in ([1, 1, 20, 32], [2, 1, 20, 32, 1]):
        decoded = [result for result in results if result["shape"] == shape]
        for method in ("exact", "consmax", "exaq", "sigmoid", "index"):
            storages = {r.get("storage", ""): r["bytes"] for r in decoded if r["method"] == method}
            assert storages == {name: sizes[name] for name in sizes if name or method != "exact"}
        # What is fastest of torch's is as fast as itself.
        torchs = [result for result in decoded if result["method"] == "torch" and "failure" not in result]
        assert min(torchs, key=lambda result: result["seconds"])["speedup_over_torch"] == 1
        assert len({result["backend"] for result in decoded if result["method"] == "torch"}) == 5


def test_without_a_card_it_says_how_to_try(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cards.INTERPRETER, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "--device", "cuda", "--shape", "8x100"]) != 0
    error = capsys.readouterr().err
    assert "there is no CUDA device here" in error
    assert "TRITON_INTERPRET=1" in error
    assert main(["bench", "--device", "cuda", "--threads", "2"]) == 2
    assert main(["bench", "--device", "cuda", "--shape", "4/2x8x100x32"]) != 0
    assert "measured for one query only" in capsys.readouterr().err
