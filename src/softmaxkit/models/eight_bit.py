"""Linear layers of 8-bit weights and activations in training: rounded forward, straight through backward."""

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
"""Of the absolute values of activations that the largest code stands for, as in Softermax's paper."""

LARGEST = 127
KEPT = 1 << 16
"""Largest values that calibration keeps of each layer: enough for 6.5 billion activations."""


def round_linear(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Any]], percentile: float = PERCENTILE
) -> PreTrainedModel:
    """Give all linear layers of a model 8-bit weights and activations, in place; it trains on as before.

    Weights have a scale for each output, from their largest value as training moves it; activations have one for the
    layer, from calibration, kept in the buffer `activation_scale`. Both are symmetric: -127 to 127.

    Args:
        model: with `nn.Linear` layers, or GPT-2's `Conv1D`; embeddings and norms stay as they are.
        batches: dicts of what the model takes.
        percentile: of activations, 50 to 100; of more activations than are kept only high ones.

    Returns:
        The same model.

    Raises:
        ValueError: it has no such layers, they are rounded already, there are no batches, or a percentile that cannot
            be.
    """
    if not 50 <= percentile <= 100:
        raise ValueError(f"percentile is from 50 to 100, such as {PERCENTILE}, not {percentile}")
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
    """Round activations to codes of a scale; no gradient passes where they saturate."""
    zero = torch.zeros((), dtype=torch.int32, device=activations.device)
    return torch.fake_quantize_per_tensor_affine(activations, scale.to(activations.dtype), zero, -LARGEST, LARGEST)


def rounded_weights(weight: Tensor, outputs: int) -> Tensor:
    """Round weights to 8 bits, with a scale for each place of the axis `outputs`."""
    others = [axis for axis in range(weight.ndim) if axis != outputs]
    scale = weight.detach().abs().amax(dim=others).clamp(min=torch.finfo(weight.dtype).tiny * LARGEST) / LARGEST
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zeros, outputs, -LARGEST, LARGEST)


class EightBitLinear(nn.Linear):
    """A linear layer of 8-bit weights and activations."""

    activation_scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Compute it."""
        rounded = rounded_activations(input, self.activation_scale)
        return nn.functional.linear(rounded, rounded_weights(self.weight, 0), self.bias)


class EightBitConv1D(Conv1D):  # type: ignore[misc, unused-ignore]
    """GPT-2's linear layer, whose weights lie the other way round."""

    activation_scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Compute it."""
        rounded = rounded_activations(x, self.activation_scale)
        return torch.matmul(rounded, rounded_weights(self.weight, 1)) + self.bias


ROUNDED: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: EightBitLinear, Conv1D: EightBitConv1D}


class _Range:
    """The largest absolute values that a layer was given."""

    def __init__(self) -> None:
        self.count, self.largest = 0, torch.zeros(0)

    def see(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        values = inputs[0].detach().float().abs().flatten()
        self.count += values.numel()
        both = torch.cat([self.largest, values.cpu()])
        self.largest = both.topk(min(KEPT, both.numel())).values

    def percentile(self, percentile: float) -> float:
        """Return it; never 0."""
        place = min(math.floor(self.count * (1 - percentile / 100)), self.count - 1)
        if place >= len(self.largest):
            least = 100 * (1 - KEPT / self.count)
            raise ValueError(f"of so many activations the percentile is {least:.4f} or more, not {percentile}")
        return max(self.largest[place].item(), 1e-9)
