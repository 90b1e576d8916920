"""Tiny random models of many architectures, with inputs that reach all of their layers."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

TEXT: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
GROUPED = TEXT | {"num_key_value_heads": 2, "pad_token_id": 0}
SEQUENCES: dict[str, Any] = {
    "vocab_size": 100,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
IMAGE = {name: TEXT[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
IMAGE |= {"image_size": 16, "patch_size": 4}
SOUND: dict[str, Any] = TEXT | {"conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2)}
SOUND |= {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}

TOKENS = torch.randint(3, 100, (2, 12), generator=torch.Generator().manual_seed(0))
PADDED = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS).index_fill_(1, torch.arange(9, 12), 0)}
BOTH = {**PADDED, "decoder_input_ids": TOKENS[:, :7]}
PIXELS = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
WAVES = {"input_values": torch.randn(2, 400, generator=torch.Generator().manual_seed(0))}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any], dict[str, Tensor]]] = {
    # decoders
    "GPT2LMHeadModel": (
        "GPT2Config",
        {"vocab_size": 100, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
        PADDED,
    ),
    "LlamaForCausalLM": ("LlamaConfig", GROUPED, PADDED),
    "MistralForCausalLM": ("MistralConfig", GROUPED | {"sliding_window": 8}, PADDED),
    "Qwen2ForCausalLM": ("Qwen2Config", GROUPED, PADDED),
    "Qwen3ForCausalLM": ("Qwen3Config", GROUPED | {"head_dim": 8}, PADDED),
    "Gemma2ForCausalLM": ("Gemma2Config", GROUPED | {"head_dim": 8, "query_pre_attn_scalar": 8}, PADDED),
    "PhiForCausalLM": ("PhiConfig", TEXT, PADDED),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", TEXT, PADDED),
    "OPTForCausalLM": (
        "OPTConfig",
        {
            "vocab_size": 100,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 32,
        },
        PADDED,
    ),
    "MixtralForCausalLM": ("MixtralConfig", GROUPED | {"num_local_experts": 2}, PADDED),
    # encoders
    "BertForMaskedLM": ("BertConfig", TEXT, PADDED),
    "RobertaForMaskedLM": ("RobertaConfig", TEXT | {"pad_token_id": 0}, PADDED),
    "DistilBertForMaskedLM": (
        "DistilBertConfig",
        {"vocab_size": 100, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
        PADDED,
    ),
    "ElectraForPreTraining": ("ElectraConfig", TEXT | {"embedding_size": 32}, PADDED),
    "AlbertForMaskedLM": ("AlbertConfig", TEXT | {"embedding_size": 16}, PADDED),
    "ModernBertForMaskedLM": (
        "ModernBertConfig",
        TEXT | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
        PADDED,
    ),
    "BertForSequenceClassification": ("BertConfig", TEXT | {"num_labels": 3}, PADDED),
    # encoder and decoder
    "BartForConditionalGeneration": ("BartConfig", SEQUENCES, BOTH),
    "MarianMTModel": ("MarianConfig", SEQUENCES, BOTH),
    "PegasusForConditionalGeneration": ("PegasusConfig", SEQUENCES, BOTH),
    "T5ForConditionalGeneration": (
        "T5Config",
        {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        | {"pad_token_id": 0, "decoder_start_token_id": 1},
        BOTH,
    ),
    # vision
    "ViTForImageClassification": ("ViTConfig", IMAGE, PIXELS),
    "DeiTModel": ("DeiTConfig", IMAGE, PIXELS),
    "Dinov2Model": ("Dinov2Config", IMAGE | {"mlp_ratio": 2}, PIXELS),
    "SiglipVisionModel": ("SiglipVisionConfig", IMAGE | {"vision_use_head": False}, PIXELS),
    "CLIPVisionModel": ("CLIPVisionConfig", IMAGE, PIXELS),
    # sound
    "Wav2Vec2ForCTC": ("Wav2Vec2Config", SOUND, WAVES),
    "HubertModel": ("HubertConfig", SOUND, WAVES),
    "WhisperForConditionalGeneration": (
        "WhisperConfig",
        SEQUENCES | {"num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 32},
        {
            "input_features": torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(0)),
            "decoder_input_ids": TOKENS[:, :7],
        },
    ),
}


def make(name: str) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """Return a random model of a class, in evaluation mode, and inputs for it."""
    config, settings, inputs = ARCHITECTURES[name]
    torch.manual_seed(0)
    model: PreTrainedModel = getattr(transformers, name)(getattr(transformers, config)(**settings))
    return widened(model).eval(), dict(inputs)


@torch.no_grad()
def widened(model: PreTrainedModel) -> PreTrainedModel:
    """Multiply a model's matrices, in place, so that attention is not flat and a wrong or lost method shows."""
    for parameter in model.parameters():
        if parameter.ndim == 2 and parameter.requires_grad:
            parameter.mul_(6)
    return model
