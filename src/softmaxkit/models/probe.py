"""Finding a model's attention layers by running it, and refusing models that a method cannot be put into."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from softmaxkit.models.attention import UnsupportedError, watching
from softmaxkit.models.running import evaluating, run

Layers = list[tuple[nn.Module, int]]


def attention_layers(
    model: PreTrainedModel, example: Mapping[str, Any] | None, switch_on: Callable[[], object], compare: bool
) -> Layers:
    """Run a model on a tiny input and return its attention layers with their number of heads, in running order.

    Args:
        model: the model; it is left with our attention function.
        example: inputs to run on; made up where None.
        switch_on: makes the model call our attention function.
        compare: check that exact softmax through our function gives what the model gave before.

    Raises:
        UnsupportedError: the model does not run, does not call the interface, or gives something else through it.
    """
    inputs = _tiny_inputs(model) if example is None else example
    name = type(model).__name__
    found: Layers = []
    with evaluating(model):
        try:
            before = run(model, inputs) if compare else None
            switch_on()
            # Methods that are there already may still need calibration.
            with watching(lambda module, query, *_: found.append((module, query.shape[1])), exact=True):
                after = run(model, inputs)
        except UnsupportedError:
            raise
        except Exception as error:
            raise UnsupportedError(
                f"{name} did not run on a tiny input ({type(error).__name__}: {error}); "
                "give it inputs that it runs on, with apply(..., example={'input_ids': ...})"
            ) from error
    layers = list({id(module): (module, heads) for module, heads in found}.values())
    if not layers:
        raise UnsupportedError(
            f"{name} ran without calling transformers' AttentionInterface, so no method can be put into it"
        )
    if before is not None and not _same(before[0], after[0]):
        raise UnsupportedError(
            f"{name} gives other outputs through transformers' AttentionInterface with exact softmax than before: its "
            "attention is more than scores, mask and softmax, so no method can be put into it"
        )
    return layers


def left_out(model: nn.Module, layers: Layers) -> list[str]:
    """Return the names of modules that look like attention but neither called nor hold or belong to one that did."""
    called = {id(module) for module, _ in layers}
    related = {id(part) for module, _ in layers for part in module.modules()}
    names = []
    for name, module in model.named_modules():
        looks = re.search(r"Attention\d*$", type(module).__name__)
        if looks and id(module) not in related and not any(id(part) in called for part in module.modules()):
            names.append(name)
    return names


def _same(before: Any, after: Any) -> bool:
    """Compare outputs, as far as their precision goes."""
    if not isinstance(before, Tensor) or not before.is_floating_point():
        return True
    tolerance = 1e-3 if before.dtype in (torch.float32, torch.float64) else 0.1
    return bool((before - after).abs().max() <= tolerance * before.abs().max())


def _tiny_inputs(model: PreTrainedModel) -> dict[str, Any]:
    config = model.config.get_text_config()
    if model.main_input_name == "input_ids":
        # Different tokens, so that attention makes a difference.
        length = min(12, getattr(config, "max_position_embeddings", None) or 12)
        tokens = (torch.arange(length) % config.vocab_size)[None]
        return {"input_ids": tokens} | ({"decoder_input_ids": tokens} if config.is_encoder_decoder else {})
    size = getattr(config, "image_size", None)
    if model.main_input_name == "pixel_values" and size is not None:
        height, width = size if isinstance(size, list | tuple) else (size, size)
        pixels = torch.linspace(-1, 1, config.num_channels * height * width, dtype=model.dtype)
        return {"pixel_values": pixels.reshape(1, config.num_channels, height, width)}
    return dict(model.dummy_inputs)
