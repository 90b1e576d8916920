"""Models by name and by their configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import (
    BertConfig,
    DeepseekV3Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen3Config,
    T5Config,
)

from softmaxkit.simulation.workload import PUBLISHED, Workload, read_workload, workload_of


def test_the_published_configurations_are_those_of_transformers() -> None:
    """Where transformers' defaults are the published model's, they have to agree."""
    for name, config in (("gpt2", GPT2Config()), ("bert-base", BertConfig()), ("llama-7b", LlamaConfig())):
        published, read = PUBLISHED[name], workload_of(config, name)
        for key in ("layers", "heads", "key_heads", "channels", "causal"):
            assert getattr(published, key) == getattr(read, key), (name, key)


def test_a_folder_is_read(tmp_path: Path) -> None:
    LlamaConfig(
        num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2, hidden_size=64, head_dim=16
    ).save_pretrained(tmp_path)
    workload = read_workload(str(tmp_path))
    assert (workload.layers, workload.heads, workload.key_heads, workload.channels) == (3, 8, 2, 16)
    assert workload.queries_per_key_head == 4


def test_layers_with_windows_are_left_out() -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    assert workload_of(Qwen3Config(num_hidden_layers=4, layer_types=kinds), "mixed").layers == 2
    with pytest.raises(ValueError, match="no layer attends to the whole context"):
        workload_of(Qwen3Config(num_hidden_layers=2, layer_types=["sliding_attention"] * 2), "windows")
    with pytest.raises(ValueError, match=r"windows: (layer_types|sliding_window) is .*no layer attends to the whole"):
        workload_of(MistralConfig(num_hidden_layers=2, sliding_window=64), "windows")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MambaConfig(), r"is a model without attention.*MambaConfig.*num_attention_heads; give a transformer"),
        (T5Config(), "is_encoder_decoder is True"),
        (DeepseekV3Config(), "kv_lora_rank is 512"),
    ],
)
def test_what_the_engine_cannot_run_is_refused(config: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        workload_of(config, "model")


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="9 query heads do not share 2 key heads evenly"):
        Workload("odd", 1, 9, 2, 64, True, "")
    with pytest.raises(ValueError, match="layers is a whole number from 1, not 0"):
        Workload("none", 0, 8, 2, 64, True, "")
    with pytest.raises(ValueError, match=r"cannot read the configuration of .*by name there are gpt2"):
        read_workload("/nowhere/at/all")
