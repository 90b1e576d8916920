"""Quantisation-aware training of linear layers, 8-bit weights and activations with a straight-through gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from softmaxkit.models.running import evaluating, hooked, run

PERCENTILE = 99.999
"""The percentile of absolute activations that the largest code represents, as in Softermax's paper."""

LARGEST = 127
KEPT = 1 << 16
"""How many of each layer's largest activations calibration keeps: enough for 6.5 billion activations."""


def round_linear(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Any]], percentile: float = PERCENTILE
) -> PreTrainedModel:
    """Give a model's linear layers 8-bit weights and activations, in place; the model trains as before.

    Weights have one scale for each output channel, recomputed from their largest absolute value in every forward pass.
    Activations have one scale for each layer, calibrated here and stored in the buffer `activation_scale`. Both are
    symmetric, with codes from -127 to 127.

    Args:
        model: a model with `nn.Linear` layers or GPT-2's `Conv1D`; embeddings and norms stay as they are, and so does
            a linear layer that the batches do not reach.
        batches: the calibration set, dicts of the model's inputs.
        percentile: percentile of absolute activations, 50 to 100, that the largest code represents; with many
            activations only high percentiles are available, since only the largest values are kept.

    Returns:
        The same model.

    Raises:
        ValueError: the model has no linear layers, they are rounded already, there are no batches, or the percentile
            is out of range.
    """
    if not 50 <= percentile <= 100:
        raise ValueError(f"percentile must be from 50 to 100, such as {PERCENTILE}, got {percentile}")
    linear = {name: module for name, module in model.named_modules() if type(module) in ROUNDED}
    if not linear:
        done = any(type(module) in ROUNDED.values() for module in model.modules())
        what = "has 8-bit layers already" if done else "has no linear layers"
        raise ValueError(f"{type(model).__name__} {what}")
    ranges = {name: _Range() for name in linear}
    with hooked(linear[name].register_forward_pre_hook(ranges[name].see) for name in linear), evaluating(model):
        for batch in batches:
            run(model, batch)
    scales = {name: seen.percentile(percentile) / LARGEST for name, seen in ranges.items() if seen.count}
    if not scales:
        raise ValueError("calibration saw no activations; give it at least one batch")
    for name, scale in scales.items():
        module = linear[name]
        module.register_buffer("activation_scale", torch.tensor(scale, device=next(module.parameters()).device))
        module.__class__ = ROUNDED[type(module)]
    return model


def rounded_activations(activations: Tensor, scale: Tensor) -> Tensor:
    """Quantise and dequantise activations with a scale; no gradient passes where they saturate."""
    zero = torch.zeros((), dtype=torch.int32, device=activations.device)
    return torch.fake_quantize_per_tensor_affine(activations, scale.to(activations.dtype), zero, -LARGEST, LARGEST)


def rounded_weights(weight: Tensor, outputs: int) -> Tensor:
    """Quantise weights to 8 bits and dequantise them, with a scale for each index of the axis `outputs`."""
    others = [axis for axis in range(weight.ndim) if axis != outputs]
    scale = weight.detach().abs().amax(dim=others).clamp(min=torch.finfo(weight.dtype).tiny * LARGEST) / LARGEST
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zeros, outputs, -LARGEST, LARGEST)


class EightBitLinear(nn.Linear):
    """A linear layer with 8-bit weights and activations."""

    activation_scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output for rounded weights and activations."""
        rounded = rounded_activations(input, self.activation_scale)
        return nn.functional.linear(rounded, rounded_weights(self.weight, 0), self.bias)


class EightBitConv1D(Conv1D):  # type: ignore[misc, unused-ignore]
    """GPT-2's linear layer, whose weights are stored transposed, with 8-bit weights and activations."""

    activation_scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for rounded weights and activations."""
        rounded = rounded_activations(x, self.activation_scale)
        return torch.matmul(rounded, rounded_weights(self.weight, 1)) + self.bias


ROUNDED: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: EightBitLinear, Conv1D: EightBitConv1D}


class _Range:
    """The largest absolute values among a layer's inputs."""

    def __init__(self) -> None:
        self.count, self.largest = 0, torch.zeros(0)

    def see(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        values = inputs[0].detach().float().abs().flatten()
        self.count += values.numel()
        both = torch.cat([self.largest, values.cpu()])
        self.largest = both.topk(min(KEPT, both.numel())).values

    def percentile(self, percentile: float) -> float:
        """Return a percentile of the absolute values, at least 1e-9 so that it can be a scale."""
        place = min(math.floor(self.count * (1 - percentile / 100)), self.count - 1)
        if place >= len(self.largest):
            least = 100 * (1 - KEPT / self.count)
            raise ValueError(f"with {self.count} activations percentile must be at least {least:.4f}, got {percentile}")
        return max(self.largest[place].item(), 1e-9)
