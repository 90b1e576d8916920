"""The benchmark of a whole model: its record and its errors; no times are asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from softmaxkit import Index
from softmaxkit.cli import main
from softmaxkit.kernels.backends import backend_name
from softmaxkit.methods import METHODS
from softmaxkit.studies.contenders import has_fused_attention


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A folder with a model that reads bytes, with two query heads per key head."""
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def measured(model: str, folder: Path, *options: str) -> list[dict[str, Any]]:
    """Return the results of a benchmark of one round."""
    path, text = folder / "speed.json", folder / "text.txt"
    text.write_text("the cat sat on the mat. " * 400)
    common = ["--model", model, "--generate", "3", "--rounds", "1", "--threads", "1", "--text", str(text)]
    assert main(["bench", *common, *options, "--json", str(path)]) == 0
    results: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["results"]
    return results


def test_a_model_is_measured_in_float32_and_bfloat16(model: str, tmp_path: Path) -> None:
    float32, bfloat16, *methods = measured(model, tmp_path, "--prompt", "100", "--method", "exaq")
    assert (float32["variant"], bfloat16["variant"]) == ("float32", "bfloat16")
    for rival in (float32, bfloat16):
        for part in ("prompt", "generated"):
            assert rival[f"{part}_tokens_per_second"] > 0
            assert rival[f"{part}_speedup_over_{rival['variant']}"] == 1
    assert float32["loss_nats"] == pytest.approx(bfloat16["loss_nats"], rel=2**-6)
    native = backend_name() != "torch"
    kinds = [(result["dtype"], result.get("storage")) for result in methods]
    storages = [None, "8-bit cache"] if native else [None]
    assert kinds == [(dtype, storage) for dtype in ("float32", "bfloat16") for storage in storages] * 3
    for result in methods:
        assert result["method"] == "exaq"
        assert result["mode"] == "fused"
        assert result["fused_layers"] == (2 if native else 0)
        assert abs(result["loss_change_from_float_percent"]) < 1
        assert result["loss_nats"] == pytest.approx(float32["loss_nats"], rel=0.05)


def test_softmax_reads_a_prompt_by_torch_and_codes_by_a_kernel(model: str, tmp_path: Path) -> None:
    exact = measured(model, tmp_path, "--prompt", "100", "--method", "exact")[2:]
    assert all(result["fused_layers"] == (2 if "storage" in result else 0) for result in exact)
    assert sum("storage" in result for result in exact) == (0 if backend_name() == "torch" else 2)


def test_methods_with_fused_attention_are_measured_unless_others_are_named() -> None:
    fused = [name for name, spec in METHODS.items() if has_fused_attention(spec())]
    assert fused == list(METHODS)
    assert not has_fused_attention(Index(bits=7))  # more levels than 8 bits tell apart


@pytest.mark.slow
def test_compiled_models_are_measured_over_a_static_cache(model: str, tmp_path: Path) -> None:
    results = measured(model, tmp_path, "--prompt", "60", "--method", "consmax", "--compile")
    kinds: dict[str | None, list[Any]] = {None: [], "static cache, compiled": [], "8-bit cache": []}
    for result in results:
        kinds[result.get("storage")].append(result)
    plain, compiled, _ = kinds.values()
    names = [(result["method"], result["variant"], result.get("dtype")) for result in plain]
    assert [(result["method"], result["variant"], result.get("dtype")) for result in compiled] == names
    assert all(result["generated_speedup_over_float32"] > 0 for result in compiled)
    assert not any("loss_nats" in result for result in compiled)


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--model", "smollm2", "--shape", "4x4"], "--model has its own shapes, on the CPU; leave --shape out"),
        (["--prompt", "12"], "only for use with --model; leave --prompt out"),
        (["--gguf", "x.gguf"], "--gguf x.gguf is a file in the model's folder"),
        (["--model", "nothing-here"], "cannot load the model nothing-here"),
    ],
)
def test_conflicting_options_are_refused(options: list[str], wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *options]) == 2
    assert wrong in capsys.readouterr().err.replace("\n", " ")
