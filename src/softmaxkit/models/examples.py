"""Inputs for trial runs of a model: the user's own, or else tiny ones generated from its config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

SAMPLES = 4000
"""Length of a generated waveform, in samples: a quarter of a second at 16 kHz."""

MAIN_INPUTS = {"input_ids": "ids", "pixel_values": "images", "input_values": "sound", "input_features": "sound"}
"""What transformers calls the main inputs of models, and what a hint shows for their values."""

_examples: WeakKeyDictionary[PreTrainedModel, Mapping[str, Any]] = WeakKeyDictionary()


def remember_example(model: PreTrainedModel, example: Mapping[str, Any]) -> None:
    """Keep inputs for later trial runs of a model, for the model's lifetime."""
    _examples[model] = example


def example_of(model: PreTrainedModel) -> Mapping[str, Any]:
    """Return the inputs remembered for a model, or else tiny ones."""
    return _examples[model] if model in _examples else tiny_inputs(model)


def positions(model: PreTrainedModel) -> int | None:
    """Return a model's maximum number of positions; None if its config has none, or a value below 1 as XLNet's."""
    count = getattr(_text_config(model), "max_position_embeddings", None)
    return int(count) if count is not None and count > 0 else None


def _text_config(model: PreTrainedModel) -> Any:
    """Return the config of a model's text: its decoder's if it has several, as MusicGen has."""
    try:
        return model.config.get_text_config()
    except ValueError:
        return model.config.get_text_config(decoder=True)


def tiny_inputs(model: PreTrainedModel) -> dict[str, Any]:
    """Generate tiny inputs: token ids, an image or audio, depending on the name of the model's main input."""
    config = _text_config(model)
    # Vision towers of multimodal models may claim to take token ids.
    if model.main_input_name == "input_ids" and (vocabulary := getattr(config, "vocab_size", None)):
        # The tokens differ, so that attention affects the output.
        length = min(12, positions(model) or 12)
        tokens = (torch.arange(length) % vocabulary)[None]
        return {"input_ids": tokens} | ({"decoder_input_ids": tokens} if config.is_encoder_decoder else {})
    size, channels = getattr(model.config, "image_size", None), getattr(model.config, "num_channels", 3)
    if model.main_input_name == "pixel_values" and size is not None:
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return {"pixel_values": _wave(model, channels, height, width)}
    if model.main_input_name == "input_values" and getattr(model.config, "conv_stride", None):
        return {"input_values": _wave(model, SAMPLES)}
    bins, frames = (getattr(model.config, name, None) for name in ("num_mel_bins", "max_source_positions"))
    if model.main_input_name == "input_features" and bins and frames:
        sound = {"input_features": _wave(model, bins, 2 * frames)}  # two audio frames form one position
        return sound | ({"decoder_input_ids": torch.arange(4)[None]} if model.config.is_encoder_decoder else {})
    return dict(model.dummy_inputs)


def example_hint(model: PreTrainedModel) -> str:
    """Return the call of `apply` that passes example inputs, with the names of the model's inputs."""
    parameters = inspect.signature(model.forward).parameters
    positional = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = {name for name, of in parameters.items() if of.default is of.empty and of.kind in positional}
    taken = [name for name in parameters if name in MAIN_INPUTS or name in required]
    names = [name for name in (model.main_input_name, *taken) if name in parameters] or [model.main_input_name]
    inputs = {name: MAIN_INPUTS.get(name, "...") for name in names}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = "ids"
    return f"apply(..., example={{{', '.join(f'{name!r}: {value}' for name, value in inputs.items())}}})"


def _wave(model: PreTrainedModel, *shape: int) -> Tensor:
    """Return a batch of one synthetic image or waveform, a chirp, so that all of its parts differ."""
    count = torch.Size(shape).numel()
    return torch.sin(torch.linspace(0, 1, count).square() * 200).reshape(1, *shape).to(model.dtype)
