"""The real numbers of a layer: given to a call with their gradients, and calibrated ones as bits in a state dict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

if TYPE_CHECKING:
    from softmaxkit.kernels.attention import AttentionCall
    from softmaxkit.methods.base.module import SoftmaxModule


def without_gradients(module: SoftmaxModule, device: torch.device) -> SoftmaxModule:
    """Return a module, for a call, on a device, whose own parameters ask for no gradient; within transforms too."""
    for parameter in module.parameters():
        parameter.requires_grad = False
    return module if device.type == "cpu" else module.to(device)


def normalise_with(module: SoftmaxModule, numbers: Mapping[str, Any]) -> Callable[..., Tensor]:
    """Return a module's forward, through which gradients of every kind flow to its real numbers that are tensors."""
    learned = module.learned({key: x for key, x in numbers.items() if isinstance(x, Tensor)})
    return (lambda *inputs: functional_call(module, learned, inputs)) if learned else module


def attention_call_with(module: SoftmaxModule, numbers: Mapping[str, Any]) -> AttentionCall | None:
    """Return a module's attention call, through which gradients flow to its real numbers that are tensors."""
    learned = module.learned({key: x for key, x in numbers.items() if isinstance(x, Tensor)})
    call: AttentionCall | None = functional_call(
        _AttentionCall(module), {f"module.{name}": value for name, value in learned.items()}, ()
    )
    return call


class _AttentionCall(nn.Module):
    """A module whose forward is another's attention call: parameters are exchanged for a forward only."""

    def __init__(self, module: SoftmaxModule) -> None:
        super().__init__()
        self.module = module

    def forward(self) -> AttentionCall | None:
        return self.module.attention_call()


def bits_of(numbers: Mapping[str, Any], names: Sequence[str]) -> Tensor:
    """Return the bits of float64 numbers, one or one a head: int64, (names, heads or 1); those of NaN where one is not.

    Args:
        numbers: floats or sequences of floats, by name.
        names: whose, in this order.
    """
    values = [numbers.get(name, math.nan) for name in names]
    width = max([len(x) for x in values if isinstance(x, Sequence)], default=1)
    rows = [[*x] if isinstance(x, Sequence) else [x] * width for x in values]
    # On the processor, even while transformers builds a model on no device.
    return torch.tensor(rows, dtype=torch.float64, device="cpu").reshape(len(rows), width).view(torch.int64)


def numbers_of(bits: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Return the numbers that `bits_of` made bits of; several as lists."""
    rows = zip(names, bits.cpu().view(torch.float64).tolist(), strict=True)
    return {name: x if len(x) > 1 else x[0] for name, x in rows if not math.isnan(x[0])}
