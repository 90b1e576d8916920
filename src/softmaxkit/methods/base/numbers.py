"""Real parameters of a layer: tensors passed to one call, with gradients, and calibrated ones stored in state dicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from softmaxkit.kernels.launch import untraced
from softmaxkit.tables import heads_of

if TYPE_CHECKING:
    from softmaxkit.kernels.attention import AttentionCall
    from softmaxkit.methods.base.module import SoftmaxModule
    from softmaxkit.methods.base.spec import Spec


def module_for(
    spec: Spec, mode: str, keys: int, numbers: Mapping[str, Any], device: torch.device, heads: int | None = None
) -> SoftmaxModule:
    """Return a frozen module with these numbers, or the initial ones for rows of `keys`; cached if they are plain.

    Without `heads`, the module has parameters per head if there are numbers per head.

    Raises:
        ValueError: the mode is not one of a function call.
    """
    if mode not in ("float", "integer"):
        raise ValueError(f"mode must be 'float' or 'integer', got {mode!r}; 'fused' is a mode of a model's layers only")
    heads = heads_of(*numbers.values()) if heads is None else heads
    all_numbers = {**spec.start(keys), **numbers}
    plain = all(isinstance(number, (int, float)) for number in all_numbers.values())
    if torch.compiler.is_dynamo_compiling():  # traces what is simple to build, and calls back for what is not
        build = _kept_untraced if all_numbers and plain else _module
    else:
        build = _kept_module if plain and type(torch.empty(0)) is Tensor else _module  # not fake
    return build(spec, mode, heads, tuple(all_numbers.items()), device)


def _module(
    spec: Spec, mode: str, heads: int | None, numbers: tuple[tuple[str, Any], ...], device: torch.device
) -> SoftmaxModule:
    with torch.inference_mode(False):  # a kept module may later be used with gradients
        return without_gradients(spec.module(heads=heads, mode=mode, **dict(numbers)), device)


@lru_cache(maxsize=64)
def _kept_module(*arguments: Any) -> SoftmaxModule:
    with torch.device("cpu"):  # not on a default device, which later calls may not have
        return _module(*arguments)


_kept_untraced = untraced(_kept_module)


def without_gradients(module: SoftmaxModule, device: torch.device) -> SoftmaxModule:
    """Move a module to a device and freeze its parameters; works inside transforms too."""
    for parameter in module.parameters():
        parameter.requires_grad = False
    return module if device.type == "cpu" else module.to(device)


def normalise_with(module: SoftmaxModule, numbers: Mapping[str, Any]) -> Callable[..., Tensor]:
    """Return a module's forward that uses the tensors in `numbers` as its parameters, so that they get gradients."""
    learned = module.learned({key: x for key, x in numbers.items() if isinstance(x, Tensor)})
    return (lambda *inputs: functional_call(module, learned, inputs)) if learned else module


def attention_call_with(module: SoftmaxModule, numbers: Mapping[str, Any]) -> AttentionCall | None:
    """Return a module's attention call that uses the tensors in `numbers` as its parameters, so they get gradients."""
    learned = module.learned({key: x for key, x in numbers.items() if isinstance(x, Tensor)})
    call: AttentionCall | None = functional_call(
        _AttentionCall(module), {f"module.{name}": value for name, value in learned.items()}, ()
    )
    return call


class _AttentionCall(nn.Module):
    """Wraps `attention_call` as a forward, since `functional_call` swaps parameters only during a forward."""

    def __init__(self, module: SoftmaxModule) -> None:
        super().__init__()
        self.module = module

    def forward(self) -> AttentionCall | None:
        return self.module.attention_call()


def bits_of(numbers: Mapping[str, Any], names: Sequence[str]) -> Tensor:
    """Return the bits of float64 parameters as int64, shape (names, heads or 1); NaN marks a missing parameter.

    Args:
        numbers: floats, or sequences with one float per head, by name.
        names: which parameters to return, in row order.
    """
    values = [numbers.get(name, math.nan) for name in names]
    width = max([len(x) for x in values if isinstance(x, Sequence)], default=1)
    rows = [[*x] if isinstance(x, Sequence) else [x] * width for x in values]
    # On the CPU, even while transformers builds a model on the meta device.
    return torch.tensor(rows, dtype=torch.float64, device="cpu").reshape(len(rows), width).view(torch.int64)


def numbers_of(bits: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Return the parameters from which `bits_of` made `bits`; those with several heads as lists."""
    rows = zip(names, bits.cpu().view(torch.float64).tolist(), strict=True)
    return {name: x if len(x) > 1 else x[0] for name, x in rows if not math.isnan(x[0])}
