"""What an accelerator works on: the attention of a model's layers, in a prompt or while a token is generated."""

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
    """The attention of a model.

    Attributes:
        name: of the model.
        layers: layers with attention over the whole context, however long it is.
        heads: query heads of a layer.
        key_heads: heads of keys and values, each for `heads / key_heads` query heads.
        channels: of a head.
        causal: does a query see no later key?
        source: where these numbers are from.
        windows: of each further layer, to how many keys it attends at most.
        left_out: what further layers are that do not count, and how many: ("without attention", 28).

    Raises:
        ValueError: a number is below 1 or larger than an engine takes, or the query heads do not share the key heads
            evenly.
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
                raise ValueError(f"{self.name}: {key} is a whole number from {least.get(key, 1)}, not {value!r}")
        if self.channels > LARGEST["channels"]:
            raise ValueError(
                f"{self.name}: an engine takes heads of up to {LARGEST['channels']:,} channels, not {self.channels:,}"
            )
        if self.heads % self.key_heads:
            raise ValueError(f"{self.name}: {self.heads} query heads do not share {self.key_heads} key heads evenly")

    @property
    def queries_per_key_head(self) -> int:
        """Query heads that use the same keys."""
        return self.heads // self.key_heads

    def at(self, context: int) -> Workload:
        """Return the workload of a context of so many tokens: layers count whose windows are not shorter.

        Raises:
            ValueError: none is left.
        """
        whole = self.layers + sum(window >= context for window in self.windows)
        if not whole:
            raise ValueError(
                f"{self.name}: no layer attends to the whole of {context:,} keys, the longest window has "
                f"{max(self.windows):,}; give a --context of up to so many"
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
    """Return the configuration of a model from where transformers finds it; code that comes with it is not run."""
    from transformers import AutoConfig

    from softmaxkit.models.sources import source_of

    source = source_of(name)
    try:
        return AutoConfig.from_pretrained(source.place, **source.options)
    except Exception as error:  # classes of configurations compute with whatever the file says
        hint = suggestion(name, PUBLISHED, "by name there are")
        raise ValueError(f"cannot read the configuration of {name} ({_reason(error)}); {hint}") from None


def _reason(error: Exception) -> str:
    """Return why a configuration is not read, in one line."""
    if "trust_remote_code" in str(error):
        return "auto_map names code that comes with it, which is not run"
    if isinstance(error, ZeroDivisionError):
        return "a number that others are divided by is 0, such as num_attention_heads"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # Validators of huggingface_hub name themselves in the first line, and say in the second what is wrong.
    return lines[1].partition(": ")[2] if lines[0].endswith(":") and len(lines) > 1 else lines[0]


def workload_of(config: Any, name: str) -> Workload:
    """Return the attention that a transformers configuration describes.

    Args:
        config: a `PreTrainedConfig`; of a model of several modes, its text part counts.
        name: of the model.

    Raises:
        ValueError: there is no attention in it, or one that the engine cannot run.
    """
    Configuration(config, name).check()  # before its text part, in which an encoder beside it is no longer seen
    try:
        text = config.get_text_config()
    except ValueError:  # there are several
        raise ValueError(f"{name} has several texts in its configuration; give that of one of them alone") from None
    keys = Configuration(text, name)
    keys.check()
    layers, heads = (_count(keys, key) for key in ("num_hidden_layers", "num_attention_heads"))
    whole, windows, left_out = layers_of(keys, layers)
    causal = is_causal(config, text)
    if causal is None:
        raise Configuration(config, name).refuse(
            "model_type",
            "whether the queries of its prompts see later keys is not known",
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
    """Return the number of layers or heads, of which a transformer has one or more."""
    if not isinstance(keys.get(key), int):
        raise ValueError(
            f"{keys.name} is a model without attention, or one of unlike parts: its configuration "
            f"({type(keys.config).__name__}) has no number of {key}; give a transformer, such as {', '.join(PUBLISHED)}"
        )
    return keys.required(key)
