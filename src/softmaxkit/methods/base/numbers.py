"""Real parameters of a layer: tensors passed to one call, with gradients, and calibrated ones stored in state dicts."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from softmaxkit.formats import Array
from softmaxkit.kernels.backends import is_batched, is_in_graph
from softmaxkit.kernels.launch import untraced
from softmaxkit.tables import constant, heads_of

if TYPE_CHECKING:
    from softmaxkit.kernels.attention import AttentionCall
    from softmaxkit.methods.base.module import SoftmaxModule
    from softmaxkit.methods.base.spec import Spec

Numbers = tuple[tuple[str, Any], ...]

Real = float | Sequence[float] | Tensor
"""A real parameter: a single number, or one per head."""

MISSES_FLOATS = torch.__version__ < "2.10"
"""Whether Dynamo, once a graph has read a float of a module, misses changes of the floats that a call passes."""
_modules_of_graphs = SimpleNamespace()
"""Modules that graphs refer to: a graph can have a module as an input, but not make one or have it as a constant."""


def module_for(
    spec: Spec, mode: str, keys: int, numbers: Mapping[str, Any], device: torch.device, heads: int | None = None
) -> SoftmaxModule:
    """Return a frozen module with these numbers, or the initial ones for rows of `keys`; cached if they are plain.

    Without `heads`, the module has parameters per head if there are numbers per head. Building a module takes longer
    than a short call, so tensors count as the numbers that they hold.

    Raises:
        ValueError: the mode is not one of a function call, or vmap maps a number that is not learned.
    """
    if mode not in ("float", "integer"):
        raise ValueError(f"mode must be 'float' or 'integer', got {mode!r}; 'fused' is a mode of a model's layers only")
    heads = heads_of(*numbers.values()) if heads is None else heads
    start, in_graph = spec.start(keys), is_in_graph()
    tensors = {name: x for name, x in numbers.items() if isinstance(x, Tensor)}
    without_values = [name for name, x in tensors.items() if (name in start if in_graph else is_batched(x))]
    if calibrated := [name for name in without_values if name not in start]:
        raise ValueError(
            f"vmap cannot map {calibrated[0]} of {spec.title}, which is calibrated and not learned; pass a number for "
            "every head, or call with one after another"
        )
    # Calls use a learned tensor in place of the module's parameter, which needs no values from it.
    numbers = {name: x for name, x in numbers.items() if name not in without_values}
    all_numbers = tuple({**start, **numbers}.items())
    if torch.compiler.is_dynamo_compiling():
        return _module_of_graph(spec, mode, heads, all_numbers, device)
    heads = None if heads is None else int(heads)
    hashable = () if in_graph else tuple((name, _hashable(x)) for name, x in all_numbers)
    if in_graph or any(x is None for _, x in hashable):
        return _module(spec, mode, heads, all_numbers, device)
    return _kept_module(spec, mode, heads, hashable, device)


def _hashable(number: Any) -> Any:
    """Return a number as a float, or numbers per head as a tuple; None for what a module has to check."""
    if type(number) in (Tensor, nn.Parameter) and number.ndim < 2:
        known = number.detach().cpu()  # one by one: before torch 2.10, transforms have no list of them
        number = [x.item() for x in known] if known.ndim else known.item()
    if isinstance(number, (list, tuple)):
        return tuple(number) if all(isinstance(x, (int, float)) for x in number) else None
    return number if isinstance(number, (int, float)) else None


def _are_single(numbers: Numbers) -> bool:
    return all(isinstance(number, (int, float)) for _, number in numbers)


def _module_of_graph(spec: Spec, mode: str, heads: int | None, numbers: Numbers, device: torch.device) -> SoftmaxModule:
    plain = all(isinstance(number, (int, float, list, tuple)) for _, number in numbers)
    if MISSES_FLOATS or not plain:
        build = _kept_untraced if _are_single(numbers) else _module_untraced
        return build(spec, mode, heads, numbers, device)
    constants = tuple(
        (name, tuple(map(constant, number)) if isinstance(number, (list, tuple)) else constant(number))
        for name, number in numbers
    )
    name = _name_in_graphs(id(spec), mode, None if heads is None else int(constant(heads)), constants, device)
    module: SoftmaxModule = getattr(_modules_of_graphs, name)
    return module


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _name_in_graphs(identity: int, *arguments: Any) -> str:
    # Before torch 2.12, Dynamo takes no spec for a constant, but its id, which it guards too.
    spec = ctypes.cast(identity, ctypes.py_object).value
    module = (_module_of_export if torch.compiler.is_exporting() else _kept_module)(spec, *arguments)
    name = f"module_{id(module)}"
    setattr(_modules_of_graphs, name, module)
    return name


def _module(spec: Spec, mode: str, heads: int | None, numbers: Numbers, device: torch.device) -> SoftmaxModule:
    with torch.inference_mode(False):  # a kept module may later be used with gradients
        return without_gradients(spec.module(heads=heads, mode=mode, **dict(numbers)), device)


@lru_cache(maxsize=64)
def _kept_module(*arguments: Any) -> SoftmaxModule:
    with torch.device("cpu"):  # not on a default device, which later calls may not have
        return _module(*arguments)


@lru_cache(maxsize=64)
def _module_of_export(*arguments: Any) -> SoftmaxModule:
    """Return a module with constants in place of parameters, which torch.export looks for in the exported module."""
    module = deepcopy(_kept_module(*arguments))
    for name, parameter in list(module.named_parameters()):
        delattr(module, name)
        setattr(module, name, parameter.detach())
    return module


_module_untraced, _kept_untraced = untraced(_module), untraced(_kept_module)


def real_values(names: str, value: Real, shape: tuple[int, ...]) -> Array:
    """Return initial values of a learned parameter, known even where torch traces or has a meta device.

    Args:
        names: of the parameters, for the message.
        value: a single number, or values of this shape.
        shape: of the parameter.

    Returns:
        Float64 of the shape, or () for a single number.

    Raises:
        ValueError: the value has another shape.
    """
    if isinstance(value, Tensor):  # one by one: before torch 2.10, transforms have no list of them
        known = value.detach().double().cpu()
        real: Array = np.array([x.item() for x in known.flatten()]).reshape(known.shape)
    else:
        real = np.asarray(value, np.float64)
    if real.ndim and real.shape != shape:
        raise ValueError(f"{names} must be a single number or of shape {shape}, got shape {real.shape}")
    return real


def learned_parameter(values: Array | float, shape: tuple[int, ...], given: Any) -> nn.Parameter:
    """Return a float32 parameter with initial values, on the device of the tensor `given`, or else torch's default."""
    device = given.device if isinstance(given, Tensor) else None
    return nn.Parameter(torch.tensor(values, dtype=torch.float32, device=device).expand(shape).clone())


def without_gradients(module: SoftmaxModule, device: torch.device) -> SoftmaxModule:
    """Move a module to a device and freeze its parameters; works inside transforms too."""
    for parameter in module.parameters():
        parameter.requires_grad = False
    return module if device.type == "cpu" else module.to(device)


def normalise_with(module: SoftmaxModule, numbers: Mapping[str, Any]) -> Callable[..., Tensor]:
    """Return a module's forward that uses the tensors in `numbers` as its parameters, so that they get gradients."""
    return normalise_by(module, learned_tensors(module, numbers))


def normalise_by(module: SoftmaxModule, learned: dict[str, Tensor]) -> Callable[..., Tensor]:
    """Return a module's forward that uses these tensors, as `learned_tensors` returns them, as its parameters."""
    if not learned:
        return module
    if not is_in_graph():  # the call swaps parameters, but other threads may use the module too
        module, kept = copy(module), module
        module._parameters = dict(kept._parameters)
    return lambda *inputs: functional_call(module, learned, inputs)


def attention_call_with(module: SoftmaxModule, numbers: Mapping[str, Any]) -> AttentionCall | None:
    """Return a module's attention call that uses the tensors in `numbers` as its parameters, so they get gradients."""
    return module.attention_call(**learned_tensors(module, numbers))


def learned_tensors(module: SoftmaxModule, numbers: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors in `numbers` as a module's parameters, by name."""
    return module.learned({key: x for key, x in numbers.items() if isinstance(x, Tensor)})


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is one process's share of a larger one (a DTensor), as FSDP makes of parameters.

    FSDP's older form (`FullyShardedDataParallel`) frees the memory of a whole one instead, which must not be read.
    """
    if hasattr(tensor, "full_tensor"):
        return True
    is_plain = type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta
    return is_plain and tensor.numel() > 0 and tensor.untyped_storage().nbytes() == 0


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
    bits = np.array(rows, np.float64).reshape(len(rows), width).view(np.int64)  # torch's view ends torch.jit.trace
    return torch.tensor(bits.tolist(), dtype=torch.int64, device="cpu").reshape(len(rows), width)


def numbers_of(bits: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Return the parameters from which `bits_of` made `bits`; those with several heads as lists."""
    rows = zip(names, bits.cpu().view(torch.float64).tolist(), strict=True)
    return {name: x if len(x) > 1 else x[0] for name, x in rows if not math.isnan(x[0])}
