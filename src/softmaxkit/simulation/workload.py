"""Workloads: the attention layers of a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from softmaxkit.engine.limits import LARGEST
from softmaxkit.simulation.causality import is_causal
from softmaxkit.simulation.configuration import Configuration
from softmaxkit.simulation.layer_kinds import layers_of
from softmaxkit.suggestions import suggestion


@dataclass(frozen=True)
class Workload:
    """The attention layers of a model.

    Attributes:
        name: name of the model.
        layers: number of layers that attend to the whole context, of any length.
        heads: query heads per layer.
        key_heads: key-value heads per layer, each shared by `heads / key_heads` query heads.
        channels: channels per head.
        causal: whether no query sees a later key.
        source: the source of these figures.
        windows: for each layer that attends to a window, the window's length in keys.
        left_out: descriptions and numbers of layers that are not simulated, e.g. ("without attention", 28).

    Raises:
        ValueError: a number is below 1 or exceeds the engine's limit, or `heads` is not a multiple of `key_heads`.
    """

    name: str
    layers: int
    heads: int
    key_heads: int
    channels: int
    causal: bool
    source: str
    windows: tuple[int, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        least = {"layers": 0 if self.windows else 1}
        for key in ("layers", "heads", "key_heads", "channels"):
            value = getattr(self, key)
            if type(value) is not int or value < least.get(key, 1):
                raise ValueError(
                    f"{self.name}: {key} must be an integer of at least {least.get(key, 1)}, got {value!r}"
                )
        if self.channels > LARGEST["channels"]:
            raise ValueError(
                f"{self.name}: an engine supports heads of up to {LARGEST['channels']:,} channels, "
                f"got {self.channels:,}"
            )
        if self.heads % self.key_heads:
            raise ValueError(
                f"{self.name}: the number of query heads ({self.heads}) must be a multiple of that of key heads "
                f"({self.key_heads})"
            )

    @property
    def queries_per_key_head(self) -> int:
        """Number of query heads that share a key head."""
        return self.heads // self.key_heads

    def at(self, context: int) -> Workload:
        """Return the workload at a context length in tokens, without the layers whose window is shorter.

        Raises:
            ValueError: no layer is left.
        """
        whole = self.layers + sum(window >= context for window in self.windows)
        if not whole:
            raise ValueError(
                f"{self.name}: no layer attends to all of {context:,} keys, since the longest window has "
                f"{max(self.windows):,}; use a --context of at most that"
            )
        shorter = self.layers + len(self.windows) - whole
        left_out = (*((("with windows", shorter),) if shorter else ()), *self.left_out)
        return replace(self, layers=whole, windows=(), left_out=left_out)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {**asdict(self), "windows": list(self.windows), "left_out": dict(self.left_out)}


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
"""Built-in models, with published configurations; transformers reads any other."""


def read_workload(name: str) -> Workload:
    """Return the workload of a model: one of `PUBLISHED`, or a folder, hub name or GGUF file that transformers reads.

    Raises:
        ValueError: there is no such model, or it has no attention that the engine can run; the message names the key
            of its configuration.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    return workload_of(_config(name), name)


def _config(name: str) -> Any:
    """Load the configuration of a model with transformers, without running any code that the model ships."""
    from transformers import AutoConfig

    from softmaxkit.models.sources import check_place, source_of, unreadable

    source = source_of(name)
    check_place(source.place)
    try:
        return AutoConfig.from_pretrained(source.place, **source.options)
    except Exception as error:  # configuration classes compute with unchecked values and may raise anything
        hint = suggestion(name, PUBLISHED, "built in are")
        what = "a model whose configuration transformers can read"
        raise ValueError(f"{unreadable(name, what, _reason(error))}; {hint}") from None


def _reason(error: Exception) -> str:
    """Return a one-line reason why a configuration could not be read."""
    if "trust_remote_code" in str(error):
        return "its auto_map needs code that the model ships, which is not run"
    if isinstance(error, ZeroDivisionError):
        return "a number used as a divisor, such as num_attention_heads, is 0"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # Validators of huggingface_hub put their own name in the first line and the error in the second.
    return lines[1].partition(": ")[2] if lines[0].endswith(":") and len(lines) > 1 else lines[0]


def workload_of(config: Any, name: str) -> Workload:
    """Return the workload that a transformers configuration describes.

    Args:
        config: a `PreTrainedConfig`; for a multimodal model, its text part is used.
        name: name of the model.

    Raises:
        ValueError: the configuration has no attention that the engine can run.
    """
    Configuration(config, name).check()  # also check the whole: its text part does not show an encoder next to it
    try:
        text = config.get_text_config()
    except ValueError:  # there are several
        raise ValueError(f"{name} has several text parts in its configuration; pass that of one part") from None
    keys = Configuration(text, name)
    keys.check()
    layers, heads = (_count(keys, key) for key in ("num_hidden_layers", "num_attention_heads"))
    whole, windows, left_out = layers_of(keys, layers)
    causal = is_causal(config, text)
    if causal is None:
        raise Configuration(config, name).refuse(
            "model_type",
            "it is not known whether the queries of its prompts see later keys",
        )
    return Workload(
        name,
        whole,
        heads,
        keys.key_heads(heads),
        keys.channels(heads),
        causal,
        f"{type(text).__name__} as transformers reads it",
        windows,
        left_out,
    )


def _count(keys: Configuration, key: str) -> int:
    """Return the number of layers or heads, at least 1.

    Raises:
        ValueError: the configuration has no such number.
    """
    if not isinstance(keys.get(key), int):
        raise ValueError(
            f"{keys.name} has no attention, or consists of several different parts: its configuration "
            f"({type(keys.config).__name__}) has no {key}; choose a transformer, e.g. {', '.join(PUBLISHED)}"
        )
    return keys.required(key)
