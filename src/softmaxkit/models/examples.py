"""Inputs on which a model is tried: those that the user gave once, else tiny ones made up from its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

SAMPLES = 4000
"""Samples of sound that a model of raw sound is tried on: a quarter of a second."""

_examples: WeakKeyDictionary[PreTrainedModel, Mapping[str, Any]] = WeakKeyDictionary()


def remember_example(model: PreTrainedModel, example: Mapping[str, Any]) -> None:
    """Keep inputs for later looks at a model, as long as the model lives."""
    _examples[model] = example


def example_of(model: PreTrainedModel) -> Mapping[str, Any]:
    """Return the inputs that a model was given for a look at it, else tiny ones."""
    return _examples[model] if model in _examples else tiny_inputs(model)


def positions(model: PreTrainedModel) -> int | None:
    """Return how many positions a model of tokens has; None where its config does not say, or says none, as XLNet's."""
    count = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(count) if count is not None and count > 0 else None


def tiny_inputs(model: PreTrainedModel) -> dict[str, Any]:
    """Make up tiny inputs: token ids, an image or sound, by what the model calls its main input."""
    config = model.config.get_text_config()
    if model.main_input_name == "input_ids":
        # Different tokens, so that attention makes a difference.
        length = min(12, positions(model) or 12)
        tokens = (torch.arange(length) % config.vocab_size)[None]
        return {"input_ids": tokens} | ({"decoder_input_ids": tokens} if config.is_encoder_decoder else {})
    size = getattr(model.config, "image_size", None)
    if model.main_input_name == "pixel_values" and size is not None:
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return {"pixel_values": _wave(model, model.config.num_channels, height, width)}
    if model.main_input_name == "input_values" and getattr(model.config, "conv_stride", None):
        return {"input_values": _wave(model, SAMPLES)}
    bins, frames = (getattr(model.config, name, None) for name in ("num_mel_bins", "max_source_positions"))
    if model.main_input_name == "input_features" and bins and frames:
        sound = {"input_features": _wave(model, bins, 2 * frames)}  # two frames of sound make a position
        return sound | ({"decoder_input_ids": torch.arange(4)[None]} if model.config.is_encoder_decoder else {})
    return dict(model.dummy_inputs)


def example_hint(model: PreTrainedModel) -> str:
    """Return how to give a model inputs to run on, in its own terms."""
    values = {
        "pixel_values": "images",
        "input_values": "sound",
        "input_features": "sound",
    }.get(model.main_input_name, "ids")
    more = ", 'decoder_input_ids': ids" if model.config.is_encoder_decoder else ""
    return f"apply(..., example={{'{model.main_input_name}': {values}{more}}})"


def _wave(model: PreTrainedModel, *shape: int) -> Tensor:
    """Return a batch of one made-up image or sound, in which no part is like another."""
    count = torch.Size(shape).numel()
    return torch.sin(torch.linspace(0, 1, count).square() * 200).reshape(1, *shape).to(model.dtype)
