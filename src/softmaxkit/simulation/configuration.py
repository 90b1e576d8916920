"""Checked access to the keys of a transformers configuration; errors name the key."""

from __future__ import annotations

from typing import Any

WHY_NOT = {
    "is_encoder_decoder": "pass the configuration of its encoder or its decoder alone",
    "add_cross_attention": "its layers also attend to an encoder",
    "cross_attention_frequency": "it also attends to an encoder",
    "cross_layer_interval": "it also attends to images, in separate layers",
    "aligner_num_add_layers": "it also attends to another encoder, in separate layers",
    "kv_lora_rank": "keys and values differ in channels; the engine has one number for both",
    "lambda_std_dev": "two softmaxes are subtracted, on values with twice the channels of a key",
    "relative_attention": "scores include further products, with positions",
    "attn_type": "scores include further products, with positions",
    "attn_layers": "keys are selected by hashes or in chunks",
    "attention_type": "keys are selected by a model-specific rule",
    "index_topk": "keys are selected by an indexer",
    "index_topk_blocks": "keys are selected by an indexer",
    "position_embeddings_type": "scores include further products, with positions",
    "position_embedding_type": "scores include further products, with positions",
    "num_landmarks": "it approximates attention by landmarks",
    "num_hash": "it approximates attention by hashes",
    "block_per_row": "it approximates attention by blocks",
    "block_sizes": "its layers shorten the sequence",
    "local_transformer_stride": "its layers shorten the sequence",
    "head_ratio": "some of its heads are convolutions",
    "swa_head_dim": "layers with windows have heads of another size; the simulator has one size for all layers",
    "swa_num_attention_heads": "layers with windows differ in heads; the simulator has one number for all layers",
    "num_sliding_attention_heads": "layers with windows differ in heads; the simulator has one number for all layers",
    "global_head_dim": "layers over the whole context have heads of another size; the simulator has one size",
    "num_attention_heads_per_layer": "layers differ in heads; the simulator has one number for all layers",
    "num_key_value_heads_per_layer": "layers differ in heads; the simulator has one number for all layers",
}
"""Keys of features that the engine or the simulator does not support, and why; a false or empty value is harmless."""

HARMLESS = {
    "attention_type": ("original_full",),
    "head_ratio": (1,),
    "position_embeddings_type": ("rotary",),
    "position_embedding_type": ("absolute", "rotary", "rope", "nope", "sine"),
}
"""Values of these keys that do not change the attention pattern."""

BESIDE_ENCODERS = frozenset({"blip_text_model", "musicgen_decoder", "pix2struct_text_model", "trocr"})
"""Types of decoders whose layers also attend to an encoder, although no key states it."""

CHANNELS = ("head_dim", "attention_head_size", "d_kv", "d_head", "dim_head")
"""Alternative keys for the channels of a head."""

WIDTHS = ("true_hidden_size", "embed_dim")
"""Keys of the channels of all heads together, in models that do not use `hidden_size` for it."""

NUMBER = "it must be an integer of at least 1"


class Configuration:
    """Checked access to a configuration.

    Args:
        config: a `PreTrainedConfig`.
        name: the model's name, for error messages.
    """

    def __init__(self, config: Any, name: str) -> None:
        self.config = config
        self.name = name

    def get(self, key: str) -> Any:
        """Return the value of a key; None if it is absent.

        Raises:
            ValueError: the value differs between layers.
        """
        try:
            return getattr(self.config, key, None)
        except RuntimeError:  # raised by transformers if layers differ
            raise ValueError(
                f"{self.name}: {key} differs from layer to layer in its configuration; the simulator needs one number"
            ) from None

    def refuse(self, key: str, why: str) -> ValueError:
        """Return the error for a key whose value is not supported."""
        return ValueError(f"{self.name}: {key} is {self.get(key)!r} in its configuration: {why}")

    def number(self, key: str) -> int | None:
        """Return a positive integer; None if the key is absent.

        Raises:
            ValueError: the value is not a positive integer.
        """
        value = self.get(key)
        if value is None:
            return None
        if type(value) is not int or value < 1:
            raise self.refuse(key, NUMBER)
        return value

    def required(self, key: str) -> int:
        """Return a positive integer.

        Raises:
            ValueError: the key is absent, or not a positive integer.
        """
        if (number := self.number(key)) is None:
            raise self.refuse(key, NUMBER)
        return number

    def key_heads(self, heads: int) -> int:
        """Return the number of key heads of a layer with `heads` query heads."""
        if self.get("multi_query") and not self.get("new_decoder_architecture"):
            return 1
        return self.number("num_key_value_heads") or self.number("num_kv_heads") or heads

    def channels(self, heads: int) -> int:
        """Return the channels per head of a layer with `heads` heads.

        Raises:
            ValueError: no key gives the number, or keys and values differ in it.
        """
        channels = next((number for key in CHANNELS if (number := self.number(key))), None)
        if channels is None:
            key = next((key for key in WIDTHS if self.get(key)), "hidden_size")
            width = self.required(key)
            if width % heads:
                raise self.refuse(key, f"{heads} heads do not divide it evenly, and there is no head_dim")
            channels = width // heads
        if self.get("v_head_dim") not in (None, channels):
            raise self.refuse("v_head_dim", f"keys have {channels} channels; the engine has one number for both")
        return channels

    def check(self) -> None:
        """Reject models whose attention the engine cannot run.

        Raises:
            ValueError: a key requests an unsupported feature.
        """
        for key, why in WHY_NOT.items():
            value = self.get(key)
            if value and value not in HARMLESS.get(key, ()):
                raise self.refuse(key, why)
        if self.get("model_type") in BESIDE_ENCODERS:
            raise self.refuse("model_type", WHY_NOT["add_cross_attention"])
