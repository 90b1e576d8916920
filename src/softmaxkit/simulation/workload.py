"""What an accelerator works on: the attention of a model's layers, in a prompt or while a token is generated."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from softmaxkit.suggestions import suggestion


@dataclass(frozen=True)
class Workload:
    """The attention of a model.

    Attributes:
        name: of the model.
        layers: layers with attention over the whole context.
        heads: query heads of a layer.
        key_heads: heads of keys and values, each for `heads / key_heads` query heads.
        channels: of a head.
        causal: does a query see no later key?
        source: where these numbers are from.

    Raises:
        ValueError: a number is below 1, or the query heads do not share the key heads evenly.
    """

    name: str
    layers: int
    heads: int
    key_heads: int
    channels: int
    causal: bool
    source: str

    def __post_init__(self) -> None:
        for key in ("layers", "heads", "key_heads", "channels"):
            value = getattr(self, key)
            if type(value) is not int or value < 1:
                raise ValueError(f"{self.name}: {key} is a whole number from 1, not {value!r}")
        if self.heads % self.key_heads:
            raise ValueError(f"{self.name}: {self.heads} query heads do not share {self.key_heads} key heads evenly")

    @property
    def queries_per_key_head(self) -> int:
        """Query heads that use the same keys."""
        return self.heads // self.key_heads

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return asdict(self)


_LLAMA, _LLAMA_2 = "arXiv 2302.13971, table 2", "arXiv 2307.09288, section 2.2 and appendix A.2.1"
PUBLISHED = {
    workload.name: workload
    for workload in (
        Workload("gpt2", 12, 12, 12, 64, True, "huggingface.co/openai-community/gpt2, config.json"),
        Workload("bert-base", 12, 12, 12, 64, False, "arXiv 1810.04805, section 3"),
        Workload("llama-7b", 32, 32, 32, 128, True, _LLAMA),
        Workload("llama-13b", 40, 40, 40, 128, True, _LLAMA),
        Workload("llama-70b", 80, 64, 8, 128, True, _LLAMA_2),
        Workload("smollm2-135m", 30, 9, 3, 64, True, "huggingface.co/HuggingFaceTB/SmolLM2-135M, config.json"),
    )
}
"""Models by name, whose configurations are published; any other is read by transformers."""


def read_workload(name: str) -> Workload:
    """Return the attention of a model: one of `PUBLISHED`, or a folder, hub name or GGUF file that transformers reads.

    Raises:
        ValueError: there is no such model, it has no attention, or one that the engine cannot run; the message says
            which key of its configuration says so.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    return workload_of(_config(name), name)


def _config(name: str) -> Any:
    """Return the configuration of a model from where transformers finds it."""
    from transformers import AutoConfig

    from softmaxkit.models.sources import source_of

    source = source_of(name)
    try:
        return AutoConfig.from_pretrained(source.place, **source.options)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        hint = suggestion(name, PUBLISHED, "by name there are")
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"cannot read the configuration of {name} ({reason}); {hint}") from None


def workload_of(config: Any, name: str) -> Workload:
    """Return the attention that a transformers configuration describes.

    Args:
        config: a `PreTrainedConfig`; of a model of several modes, its text part counts.
        name: of the model.

    Raises:
        ValueError: there is no attention in it, or one that the engine cannot run.
    """
    config = config.get_text_config()

    def refuse(key: str, why: str) -> ValueError:
        return ValueError(f"{name}: {key} is {getattr(config, key, None)!r} in its configuration: {why}")

    if getattr(config, "is_encoder_decoder", False):
        raise refuse("is_encoder_decoder", "give the configuration of its encoder or its decoder alone")
    layers, heads = (getattr(config, key, None) for key in ("num_hidden_layers", "num_attention_heads"))
    if not isinstance(layers, int) or not isinstance(heads, int) or heads < 1:
        raise ValueError(
            f"{name} is a model without attention: its configuration ({type(config).__name__}) has no "
            f"{'num_attention_heads' if isinstance(layers, int) else 'num_hidden_layers'}; give a transformer, such as "
            f"{', '.join(PUBLISHED)}"
        )
    if getattr(config, "kv_lora_rank", None):
        raise refuse("kv_lora_rank", "keys and values are not of as many channels each; the engine has one number")
    width = getattr(config, "hidden_size", None)
    channels = getattr(config, "head_dim", None) or (width // heads if isinstance(width, int) else None)
    if not isinstance(channels, int):
        raise refuse("head_dim", "neither it nor hidden_size says how many channels a head has")
    whole = _layers_over_all(config, layers)
    if not whole:
        key = "layer_types" if getattr(config, "layer_types", None) else "sliding_window"
        raise refuse(key, "no layer attends to the whole context")
    return Workload(
        name,
        whole,
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        channels,
        bool(getattr(config, "is_decoder", False) or _decodes(config)),
        f"{type(config).__name__} as transformers reads it",
    )


def _layers_over_all(config: Any, layers: int) -> int:
    """Return how many layers attend to the whole context: not those of windows, states or convolutions."""
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return sum(kind in ("full_attention", "attention") for kind in kinds)
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return 0 if windowed else layers


def _decodes(config: Any) -> bool:
    """Is there a causal language model of this configuration, and no masked one?"""
    from transformers.models.auto import modeling_auto

    causal, masked = (
        table.get(config.model_type)
        for table in (
            modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        )
    )
    return causal is not None and masked is None
