"""A transformers configuration as a simulation reads it: by key, with refusals that name the key."""

from __future__ import annotations

from typing import Any

WHY_NOT = {
    "is_encoder_decoder": "give the configuration of its encoder or its decoder alone",
    "add_cross_attention": "its layers attend to an encoder besides",
    "cross_attention_frequency": "it attends to an encoder besides",
    "cross_layer_interval": "it attends to images besides, in layers of their own",
    "aligner_num_add_layers": "it attends to another encoder besides, in layers of their own",
    "kv_lora_rank": "keys and values are not of as many channels each; the engine has one number",
    "lambda_std_dev": "two softmaxes are subtracted, on values of twice the channels of a key",
    "relative_attention": "scores have further products, with positions",
    "attn_type": "scores have further products, with positions",
    "attn_layers": "keys are chosen by hashes or in chunks",
    "attention_type": "keys are chosen by a rule of its own",
    "index_topk": "keys are chosen by an indexer",
    "index_topk_blocks": "keys are chosen by an indexer",
    "position_embeddings_type": "scores have further products, with positions",
    "position_embedding_type": "scores have further products, with positions",
    "num_landmarks": "it approximates attention by landmarks",
    "num_hash": "it approximates attention by hashes",
    "block_per_row": "it approximates attention by blocks",
    "block_sizes": "its layers shorten the sequence",
    "local_transformer_stride": "its layers shorten the sequence",
    "head_ratio": "some of its heads are convolutions",
    "swa_head_dim": "layers with windows have heads of their own; the simulator has one number for all layers",
    "swa_num_attention_heads": "layers with windows have heads of their own; the simulator has one number",
    "num_sliding_attention_heads": "layers with windows have heads of their own; the simulator has one number",
    "global_head_dim": "layers over the whole context have heads of their own; the simulator has one number",
    "num_attention_heads_per_layer": "layers differ in heads; the simulator has one number",
    "num_key_value_heads_per_layer": "layers differ in heads; the simulator has one number",
}
"""Keys of attention that neither the engine nor the simulator has; a value that says no, or nothing, is no matter."""

HARMLESS = {
    "attention_type": ("original_full",),
    "head_ratio": (1,),
    "position_embeddings_type": ("rotary",),
    "position_embedding_type": ("absolute", "rotary", "rope", "nope", "sine"),
}
"""Values with which one of these keys does nothing that matters."""

BESIDE_ENCODERS = frozenset({"blip_text_model", "musicgen_decoder", "pix2struct_text_model", "trocr"})
"""Types of decoders whose layers attend to an encoder besides, without a key that says so."""

CHANNELS = ("head_dim", "attention_head_size", "d_kv", "d_head", "dim_head")
"""Keys of the channels of a head, which models name differently."""

WIDTHS = ("true_hidden_size", "embed_dim")
"""Keys of the channels of all heads, where they are not `hidden_size`."""

NUMBER = "it is a whole number from 1"


class Configuration:
    """Keys of a configuration.

    Args:
        config: a `PreTrainedConfig`.
        name: of the model, for messages.
    """

    def __init__(self, config: Any, name: str) -> None:
        self.config = config
        self.name = name

    def get(self, key: str) -> Any:
        """Return the value of a key, None where there is none.

        Raises:
            ValueError: layers have one each.
        """
        try:
            return getattr(self.config, key, None)
        except RuntimeError:  # transformers' answer where layers differ
            raise ValueError(
                f"{self.name}: {key} differs from layer to layer in its configuration; the simulator has one number"
            ) from None

    def refuse(self, key: str, why: str) -> ValueError:
        """Return the error of a key that cannot be."""
        return ValueError(f"{self.name}: {key} is {self.get(key)!r} in its configuration: {why}")

    def number(self, key: str) -> int | None:
        """Return a whole number from 1, None where there is none.

        Raises:
            ValueError: it is another value.
        """
        value = self.get(key)
        if value is None:
            return None
        if type(value) is not int or value < 1:
            raise self.refuse(key, NUMBER)
        return value

    def required(self, key: str) -> int:
        """Return a whole number from 1.

        Raises:
            ValueError: there is none.
        """
        if (number := self.number(key)) is None:
            raise self.refuse(key, NUMBER)
        return number

    def key_heads(self, heads: int) -> int:
        """Return how many heads of keys there are beside so many query heads."""
        if self.get("multi_query") and not self.get("new_decoder_architecture"):
            return 1
        return self.number("num_key_value_heads") or self.number("num_kv_heads") or heads

    def channels(self, heads: int) -> int:
        """Return the channels of a head, of so many.

        Raises:
            ValueError: no key says so, or those of keys and values differ.
        """
        channels = next((number for key in CHANNELS if (number := self.number(key))), None)
        if channels is None:
            key = next((key for key in WIDTHS if self.get(key)), "hidden_size")
            width = self.required(key)
            if width % heads:
                raise self.refuse(key, f"{heads} heads do not share it evenly, and no head_dim says what they have")
            channels = width // heads
        if self.get("v_head_dim") not in (None, channels):
            raise self.refuse("v_head_dim", f"keys have {channels} channels; the engine has one number for both")
        return channels

    def check(self) -> None:
        """Refuse what no engine runs.

        Raises:
            ValueError: there is such a key.
        """
        for key, why in WHY_NOT.items():
            value = self.get(key)
            if value and value not in HARMLESS.get(key, ()):
                raise self.refuse(key, why)
        if self.get("model_type") in BESIDE_ENCODERS:
            raise self.refuse("model_type", WHY_NOT["add_cross_attention"])
