"""The trial run of `apply`: what it compares, on which inputs, and that nothing of it stays behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import GROUPED, IMAGE, SEQUENCES, TEXT, TOKENS, widened
from transformers import (
    BertConfig,
    Dinov2Backbone,
    Dinov2Config,
    GraniteDoclingVisionConfig,
    GraniteDoclingVisionModel,
    InstructBlipVisionConfig,
    InstructBlipVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MusicgenConfig,
    MusicgenForConditionalGeneration,
    NllbMoeConfig,
    NllbMoeForConditionalGeneration,
    PreTrainedModel,
    SplinterConfig,
    SplinterModel,
)

import softmaxkit
from conftest import tiny_model
from softmaxkit import Exact, Softermax
from softmaxkit.methods.base.rows import masked_softmax
from softmaxkit.models.attention import NAME, UnsupportedError
from softmaxkit.models.patch import layers

MASK = torch.ones_like(TOKENS).index_fill_(1, torch.arange(9, 12), 0)


def eager_only(kind: str) -> tuple[PreTrainedModel, dict[str, Any], dict[str, Any]]:
    """Return a model that transformers runs with eager attention only, and inputs of it without and with padding."""
    torch.manual_seed(0)
    if kind == "bidirectional":
        model: PreTrainedModel = SplinterModel(SplinterConfig(**TEXT))
    else:
        model = NllbMoeForConditionalGeneration(NllbMoeConfig(**SEQUENCES, num_experts=2, expert_capacity=64))
    plain = {"input_ids": TOKENS} | ({"decoder_input_ids": TOKENS} if kind == "causal" else {})
    padding = {"attention_mask": MASK} | ({"decoder_attention_mask": MASK} if kind == "causal" else {})
    return widened(model).eval(), plain, plain | padding


@pytest.mark.parametrize("padded_example", [True, False])
@pytest.mark.parametrize("kind", ["causal", "bidirectional"])
@torch.no_grad()
def test_layers_that_rely_on_a_mask_always_get_one(kind: str, padded_example: bool) -> None:
    """Without padding, torch's attention needs no mask, provided that layers know whether they are causal."""
    model, plain, padded = eager_only(kind)
    before = model(**plain)[0]
    softmaxkit.apply(model, Exact(), example=padded if padded_example else plain)
    assert (model(**plain)[0] - before).abs().max() <= 1e-4 * before.abs().max()
    compiled = torch.compile(model, backend="eager")(**plain)[0] if kind == "bidirectional" else before
    assert (compiled - before).abs().max() <= 1e-4 * before.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_may_return_float32_logits(dtype: torch.dtype) -> None:
    model = tiny_model("llama").to(dtype)
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits.float())
    model.set_attn_implementation("sdpa")
    assert len(layers(softmaxkit.apply(model, Exact()))) == 2


def test_outputs_nested_in_a_tuple_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Dinov2Backbone(Dinov2Config(**IMAGE, mlp_ratio=2, apply_layernorm=False)).eval()
    torch.nn.init.constant_(model.encoder.layer[1].layer_scale1.lambda1, 9.0)  # as published, attention hardly counts
    assert isinstance(model(torch.randn(1, 3, 16, 16))[0], tuple)
    assert len(layers(softmaxkit.apply(model, Exact()))) == 2
    softmaxkit.restore(model)
    monkeypatch.setattr("softmaxkit.models.attention.masked_softmax", lambda *rows: 2 * masked_softmax(*rows))
    with pytest.raises(UnsupportedError, match="Dinov2Backbone returns other outputs"):
        softmaxkit.apply(model, Exact())


def test_a_model_without_floating_point_outputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: (forward(**inputs).logits.argmax(-1),))
    with pytest.raises(UnsupportedError, match="returns no tensor of floating-point numbers"):
        softmaxkit.apply(model, Exact())


def test_configs_nested_in_configs_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaConfig, "sub_configs", {"outer": MistralConfig})
    monkeypatch.setattr(MistralConfig, "sub_configs", {"inner": BertConfig})
    config = LlamaConfig(**GROUPED)
    config.outer, inner = MistralConfig(**GROUPED), BertConfig(**TEXT)
    config.outer.inner = inner
    model = LlamaForCausalLM(config).eval()
    model.set_attn_implementation("eager")
    softmaxkit.apply(model, Softermax())
    assert inner._attn_implementation == NAME
    softmaxkit.restore(model)
    assert inner._attn_implementation == "eager"


def test_a_vision_tower_whose_main_inputs_claim_to_be_tokens_is_refused_with_its_true_inputs() -> None:
    model = GraniteDoclingVisionModel(GraniteDoclingVisionConfig(**IMAGE)).eval()
    assert model.main_input_name == "input_ids"
    with pytest.raises(UnsupportedError, match=r"with apply\(\.\.\., example=\{'pixel_values': images\}\)"):
        softmaxkit.apply(model, Exact())


def test_images_have_three_channels_unless_the_config_says_otherwise() -> None:
    model = InstructBlipVisionModel(InstructBlipVisionConfig(**IMAGE)).eval()
    assert not hasattr(model.config, "num_channels")
    assert len(layers(softmaxkit.apply(model, Exact()))) == 2


def test_a_model_with_two_text_configs_takes_an_example() -> None:
    decoder = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "ffn_dim": 64}
    text = {
        "model_type": "t5",
        "vocab_size": 100,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 1,
        "num_heads": 4,
    }
    audio = {"model_type": "encodec", "hidden_size": 32, "num_filters": 4, "codebook_size": 64, "codebook_dim": 32}
    config = MusicgenConfig(text_encoder=text, audio_encoder=audio, decoder=decoder | {"pad_token_id": 0})
    model = MusicgenForConditionalGeneration(config).eval()
    codes = torch.randint(0, 64, (2 * config.decoder.num_codebooks, 7), generator=torch.Generator().manual_seed(0))
    softmaxkit.apply(model, Softermax(), example={"input_ids": TOKENS, "decoder_input_ids": codes})
    assert len(layers(model)) == 3
