"""Models that count on how transformers' own attention functions treat a missing mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import GROUPED, TOKENS, widened
from transformers import (
    AttentionInterface,
    DynamicCache,
    EncoderDecoderCache,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    PreTrainedModel,
    StaticCache,
    T5Config,
    T5ForConditionalGeneration,
)

import softmaxkit
from conftest import tiny_model
from softmaxkit import Exact, Exaq
from softmaxkit.models.attention import NAME

SHARED: dict[str, Any] = GROUPED | {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "num_global_key_value_heads": 1,
    "head_dim": 8,
    "global_head_dim": 8,
    "sliding_window": 16,
    "vocab_size_per_layer_input": 100,
    "hidden_size_per_layer_input": 8,
}
"""A Gemma 4 whose last two layers compute only the queries whose logits are kept."""


def shared_keys() -> PreTrainedModel:
    torch.manual_seed(0)
    return widened(Gemma4ForCausalLM(Gemma4TextConfig(**SHARED))).eval()


@pytest.mark.parametrize("spec", [Exact(), Exaq(bits=3)])
@pytest.mark.parametrize("mode", ["float", "integer"])
@pytest.mark.parametrize("kept", [1, 2, 5])
@torch.no_grad()
def test_layers_that_drop_the_first_queries_stay_causal(spec: Any, mode: str, kept: int) -> None:
    """In float64: products of fewer queries are rounded differently, which moves float32 scores to other integers."""
    model = softmaxkit.apply(shared_keys().double(), spec)
    softmaxkit.calibrate(model, [TOKENS])
    softmaxkit.set_mode(model, mode)
    expected = model(TOKENS, use_cache=False, output_hidden_states=True).logits[:, -kept:]
    assert torch.allclose(model(TOKENS, logits_to_keep=kept).logits, expected, atol=1e-5)


@torch.no_grad()
def test_layers_that_drop_the_first_queries_see_no_free_room_of_a_static_cache() -> None:
    model = shared_keys()
    model.set_attn_implementation("eager")
    expected = model(TOKENS).logits[:, -1:]
    softmaxkit.apply(model, Exact())
    cache = StaticCache(config=model.config, max_cache_len=32)
    assert torch.allclose(model(TOKENS, logits_to_keep=1, cache=cache).logits, expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["float", "fused"])
@pytest.mark.parametrize("spec", [Exact(), Exaq(bits=3)], ids=["exact", "exaq"])
@torch.no_grad()
def test_a_prompt_in_a_static_cache_needs_no_mask(spec: Any, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its causal half is half of the work; a token after it sees no free room."""
    model = softmaxkit.apply(tiny_model("llama"), spec)
    softmaxkit.calibrate(model, [TOKENS])
    softmaxkit.set_mode(model, mode)
    masks = []
    inner = AttentionInterface()[NAME]

    def watch(module: Any, query: Any, key: Any, value: Any, mask: Any, *rest: Any, **more: Any) -> Any:
        masks.append(mask)
        return inner(module, query, key, value, mask, *rest, **more)

    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, watch)
    expected = model(TOKENS, use_cache=False).logits
    cache = StaticCache(config=model.config, max_cache_len=32)
    prompt = model(TOKENS[:, :-1], cache=cache).logits
    assert masks == [None] * len(masks)
    token = model(TOKENS[:, -1:], cache=cache).logits
    assert masks[-1] is not None
    error = (torch.cat([prompt, token], dim=1) - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error <= (1e-5 if mode == "float" else 0.05)  # 8 bits, of other keys


@torch.no_grad()
def test_a_prompt_of_t5_in_a_static_cache() -> None:
    """Its position bias is as long as the cache, and so are the probabilities that it returns."""
    config = T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config).eval()
    given = {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :5], "output_attentions": True}

    def run() -> Any:
        cache = EncoderDecoderCache(StaticCache(config=config, max_cache_len=16), DynamicCache(config=config))
        return model(**given, cache=cache)

    model.set_attn_implementation("eager")
    expected = run()
    softmaxkit.apply(model, Exact())
    result = run()
    assert torch.allclose(result.logits, expected.logits, atol=1e-5)
    for ours, theirs in zip(result.decoder_attentions, expected.decoder_attentions, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
