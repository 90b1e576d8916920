"""Workloads of built-in models and of transformers configurations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import BertConfig, GPT2Config, LlamaConfig, Qwen3Config

from softmaxkit.cli import main
from softmaxkit.simulation.workload import PUBLISHED, Workload, read_workload, workload_of


def read(name: str, **keys: Any) -> Workload:
    """Return the workload of a transformers configuration, given the prefix of its class name."""
    return workload_of(getattr(transformers, f"{name}Config")(**keys), name)


def test_the_published_configurations_are_those_of_transformers() -> None:
    """Built-in models must agree with transformers' defaults, where these are the published model's."""
    for name, config in (("gpt2", GPT2Config()), ("bert-base", BertConfig()), ("llama-7b", LlamaConfig())):
        published, read = PUBLISHED[name], workload_of(config, name)
        for key in ("layers", "heads", "key_heads", "channels", "causal"):
            assert getattr(published, key) == getattr(read, key), (name, key)
    assert [name for name, workload in PUBLISHED.items() if not workload.causal] == ["bert-base"]


def test_a_folder_is_read(tmp_path: Path) -> None:
    LlamaConfig(
        num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2, hidden_size=64, head_dim=16
    ).save_pretrained(tmp_path)
    workload = read_workload(str(tmp_path))
    assert (workload.layers, workload.heads, workload.key_heads, workload.channels) == (3, 8, 2, 16)
    assert workload.queries_per_key_head == 4


@pytest.mark.parametrize(
    ("name", "keys", "key_heads"),
    [
        ("Falcon", {}, 1),
        ("Falcon", {"multi_query": False}, 71),
        (
            "Falcon",
            {"num_attention_heads": 128, "hidden_size": 8192, "num_kv_heads": 8, "new_decoder_architecture": True},
            8,
        ),
        ("GPTBigCode", {}, 1),
        ("GPTBigCode", {"multi_query": False}, 12),
        ("Llama", {"num_key_value_heads": 4}, 4),
        ("OPT", {}, 12),
    ],
)
def test_heads_of_keys_have_several_keys(name: str, keys: dict[str, Any], key_heads: int) -> None:
    assert read(name, **keys).key_heads == key_heads


@pytest.mark.parametrize(
    ("name", "channels"),
    [("Zamba", 464), ("JetMoe", 128), ("MobileBert", 32), ("Gemma", 256), ("CpmAnt", 128), ("GPTJ", 256)],
)
def test_channels_have_several_keys(name: str, channels: int) -> None:
    assert read(name).channels == channels


@pytest.mark.parametrize(
    ("name", "causal"),
    [
        *((name, True) for name in ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL", "Mllama", "Emu3", "Chameleon", "Csm")),
        *((name, True) for name in ("CLIP", "CLIPText", "LlavaOnevision", "AyaVision", "ImageGPT", "Kosmos2")),
        *((name, False) for name in ("Bert", "BertGeneration", "ModernBert", "ViT", "Wav2Vec2", "Siglip", "XLM")),
    ],
)
def test_causality_is_that_of_model_and_text(name: str, causal: bool) -> None:
    assert read(name).causal is causal


def test_causality_may_be_stated_by_a_key() -> None:
    assert read("Bert", is_decoder=True).causal
    assert read("BertGeneration", is_decoder=True).causal
    assert read("XLM", causal=True).causal
    assert not read("Gemma3Text", use_bidirectional_attention=True).causal
    with pytest.raises(
        ValueError,
        match=r"PaliGemma: model_type is 'paligemma'.*not known whether the queries of its prompts see",
    ):
        read("PaliGemma")


@pytest.mark.parametrize(
    ("name", "keys", "counted"),
    [
        ("Gemma2", {}, {4096: (26, ()), 4097: (13, (("with windows", 13),))}),
        ("Mistral", {"num_hidden_layers": 2, "sliding_window": 64}, {64: (2, ())}),
        ("GPTNeo", {}, {256: (24, ()), 257: (12, (("with windows", 12),))}),
        ("Longformer", {"attention_window": 512}, {256: (12, ())}),
        ("Longformer", {"attention_window": [64] * 6 + [512] * 6}, {256: (6, (("with windows", 6),))}),
        ("Llama4Text", {}, {8192: (48, ()), 8193: (12, (("with windows", 36),))}),
        ("ModernBert", {}, {64: (22, ()), 1024: (8, (("with windows", 14),))}),
        ("RecurrentGemma", {}, {2048: (8, (("without attention", 18),))}),
        ("Doge", {}, {2048: (32, ())}),
        ("FalconH1", {}, {1024: (32, ())}),
        ("Zamba", {}, {1024: (13, (("without attention", 63),))}),
        ("Jamba", {}, {1024: (4, (("without attention", 28),))}),
        ("Mllama", {}, {1024: (32, (("with cross-attention", 8),))}),
        ("Qwen2", {}, {1 << 20: (32, ())}),
    ],
)
def test_a_layer_counts_if_its_window_covers_the_context(
    name: str, keys: dict[str, Any], counted: dict[int, tuple[int, Any]]
) -> None:
    for context, (layers, left_out) in counted.items():
        workload = read(name, **keys).at(context)
        assert (workload.layers, workload.left_out, workload.windows) == (layers, left_out, ()), context
        assert workload.at(context) == workload


def test_a_context_longer_than_every_window_is_refused() -> None:
    with pytest.raises(ValueError, match="no layer attends to all of 65 keys, since the longest window has 64"):
        read("Mistral", num_hidden_layers=2, sliding_window=64).at(65)


def test_layers_left_out_are_on_screen_page_and_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    Qwen3Config(
        num_hidden_layers=3, layer_types=kinds, use_sliding_window=True, sliding_window=64, max_window_layers=1
    ).save_pretrained(tmp_path)
    page, record = tmp_path / "page.html", tmp_path / "record.json"
    words = ["simulate", str(tmp_path), "--generate", "--method", "consmax", "--json", str(record), "--html", str(page)]
    line = "1 of 3 layers; 2 with windows left out"
    for contexts, expected in (
        (["128"], line),
        (["64"], None),
        (["64", "128", "256"], f"at 128, 256: {line}"),
    ):
        assert main([*words, *(word for context in contexts for word in ("--context", context))]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert ("left out" in out) is (expected is not None)
        if expected is not None:
            assert expected in out
            assert f"{expected}." in page.read_text(encoding="utf-8")
        results = json.loads(record.read_text(encoding="utf-8"))["results"]
        assert [(result.get("layers"), result.get("left_out")) for result in results] == [
            (None, None) if context == "64" else (1, {"with windows": 2}) for context in contexts
        ]


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("Mamba", {}, r"has no attention.*MambaConfig.*num_attention_heads; choose a transformer"),
        ("T5", {}, "is_encoder_decoder is True"),
        ("T5Gemma", {}, "is_encoder_decoder is True"),
        ("Bert", {"is_decoder": True, "add_cross_attention": True}, "add_cross_attention is True"),
        ("TrOCR", {}, "model_type is 'trocr'"),
        ("DeepseekV3", {}, "kv_lora_rank is 512"),
        ("MiMoV2Flash", {}, "v_head_dim is 128"),
        ("DiffLlama", {}, r"lambda_std_dev is 0\.1"),
        ("BigBird", {}, "attention_type is 'block_sparse'"),
        ("Reformer", {}, "attn_layers is "),
        ("Funnel", {}, "attention_type is 'relative_shift'"),
        ("XLNet", {}, "attn_type is 'bi'"),
        ("DebertaV2", {"relative_attention": True}, "relative_attention is True"),
        ("Nystromformer", {}, "num_landmarks is 64"),
        ("ConvBert", {}, "head_ratio is 2"),
        ("Gemma4Text", {}, "head_dim differs from layer to layer"),
        ("Llama", {"num_key_value_heads": 0}, "num_key_value_heads is 0 in its configuration: it must be an integer"),
        ("Llama", {"head_dim": 0}, "head_dim is 0 in its configuration: it must be an integer"),
        ("Llama", {"num_hidden_layers": -1}, "num_hidden_layers is -1 in its configuration: it must be an integer"),
        ("GPT2", {"n_embd": 100}, "hidden_size is 100 in its configuration: 12 heads do not divide it evenly"),
        ("Qwen3", {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]}, "sliding_window is None"),
        ("Bamba", {}, "no layer has attention; layer_types has only the kinds linear_attention"),
        (
            "Qwen3",
            {"num_hidden_layers": 2, "layer_types": ["indexed_attention", "full_attention"]},
            "kinds full_attention, indexed_attention; the simulator does not know indexed_attention",
        ),
        ("Qwen2VLVision", {"window_size": 112}, "window_size is 112"),
    ],
)
def test_what_the_engine_cannot_run_is_refused(name: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}.*{message}"):
        read(name, **keys)


def test_an_encoder_next_to_the_text_is_refused() -> None:
    both = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(), BertConfig())
    with pytest.raises(ValueError, match="is_encoder_decoder is True"):
        workload_of(both, "both")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"model_type": "llama", "num_attention_heads": 0}',
            "a number used as a divisor, such as num_attention_heads, is 0",
        ),
        ('{"model_type": "llama", "num_hidden_layers": "x"}', "'num_hidden_layers' expected int, got str"),
        (
            '{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 7}',
            "hidden size .64. is not a multiple of the number of attention heads .7.",
        ),
        (
            '{"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}',
            "its auto_map needs code that the model ships",
        ),
        ("[]", "model_type"),
        ("{", "not a valid JSON"),
    ],
)
def test_a_file_that_is_no_configuration_gets_one_line(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    assert main(["simulate", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert f"{tmp_path} is not a model whose configuration transformers can read" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["model", "model.gguf"])
def test_a_file_that_is_no_model_is_not_said_to_be_missing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"no model")
    with pytest.raises(ValueError, match=f"^{name} is not a model whose configuration transformers can read"):
        read_workload(name)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"query heads \(9\) must be a multiple of that of key heads \(2\)"):
        Workload("odd", 1, 9, 2, 64, True, "")
    with pytest.raises(ValueError, match="layers must be an integer of at least 1, got 0"):
        Workload("none", 0, 8, 2, 64, True, "")
    with pytest.raises(ValueError, match="heads of up to 1,024 channels, got 2,048"):
        Workload("wide", 1, 8, 8, 2048, True, "")
    with pytest.raises(ValueError, match="/nowhere/at/all does not exist; give the folder of a checkpoint"):
        read_workload("/nowhere/at/all")
    with pytest.raises(ValueError, match=r"there is no folder nowhere, and as a hub name .*built in are gpt2"):
        read_workload("nowhere")
