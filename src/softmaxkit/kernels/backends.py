"""The back ends: which can run a call, why the others cannot, and the one place that chooses.

A call is what a module answers for itself (`RowCall`, `IntegerCall`, `AttentionCall`): it names its kernel, and says
for every kind of back end which dtypes its kernel there takes, and whether it has a gradient. Every back end answers
with the list of reasons why it cannot; the first without any runs, and torch, the last, always can.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from softmaxkit.kernels.cards import is_interpreted, missing, reasons_against
from softmaxkit.kernels.threads import torch_threads

GPU = ("triton", "flex")
"""Kernels of this package in Triton, and torch's FlexAttention. Both run attention that weighs keys element by element;
Triton's comes first, since it has neither a maximum nor a sum to keep. `softmaxkit bench --device cuda` sets them side
by side."""
NATIVE = {
    "avx512": "AVX-512 F, BW, DQ, VL, VBMI and VNNI",
    "avx2": "AVX2 and FMA",
    "plain": "any CPU",
    "amx": "AMX with int8 and bfloat16",
}
"""Builds of the native kernels in order of preference, and the instructions that each needs. amx has not been timed
yet: after one that runs everywhere, it is taken only where it is asked for by name."""
KERNELS = (*GPU, *NATIVE)
"""All back ends but torch, in order of preference."""
BACKENDS = (*KERNELS, "torch")
"""All back ends, in order of preference."""
VARIABLE = "SOFTMAXKIT_KERNELS"
"""Environment variable that asks for one of them; "none" is torch too."""


class Support(NamedTuple):
    """What a kernel can.

    Attributes:
        dtypes: of the tensors that it takes.
        differentiable: has it a gradient?
    """

    dtypes: Sequence[torch.dtype]
    differentiable: bool = False


class Call(Protocol):
    """What a back end needs to know of a call."""

    @property
    def kernel(self) -> str:
        """Name of the kernel, by what it computes."""
        ...

    def support(self, kind: str) -> Support | None:
        """Say what the kernel of a kind of back end, "native", "triton" or "flex", can; None where there is none."""
        ...


@dataclass(frozen=True)
class Choice:
    """The back end that runs a call, and why those before it do not.

    Attributes:
        backend: one of `BACKENDS`.
        refusals: for every back end of higher preference, the reasons why it cannot.
    """

    backend: str
    refusals: dict[str, list[str]] = field(default_factory=dict)

    @property
    def native(self) -> bool:
        """Does a native kernel run?"""
        return self.backend in NATIVE

    @property
    def kernel(self) -> bool:
        """Does any kernel run, native or on a GPU?"""
        return self.backend in KERNELS

    def reasons(self, device: torch.device) -> list[str]:
        """Return why no kernel runs on a device: the reasons of the back end that is meant for it."""
        meant = GPU[0] if runs_on_gpu(device) else backend_name()
        return self.refusals.get(meant) or next(iter(self.refusals.values()), [])

    def __str__(self) -> str:
        by_reason: dict[str, list[str]] = {}
        for name, reasons in self.refusals.items():
            by_reason.setdefault("; ".join(reasons), []).append(name)
        lines = [f"  not {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
        return "\n".join([self.backend, *lines])


def pick(call: Call, *tensors: Tensor, more: Callable[[str], list[str]] = lambda kind: []) -> Choice:
    """Return the back end that runs a call on tensors.

    Args:
        call: what is to run.
        tensors: all that the kernel would read.
        more: gives further reasons against a kind of back end, "native", "triton" or "flex".

    Raises:
        ValueError: the environment asks for a back end that there is not.
    """
    refusals: dict[str, list[str]] = {}
    for name in candidates(tensors[0].device):
        reasons = _reasons(name, call, tensors, more)
        if not reasons:
            return Choice(name, refusals)
        refusals[name] = reasons
    return Choice("torch", refusals)


def only_torch(device: torch.device, *reasons: str) -> Choice:
    """Return the choice of torch, for reasons that hold for all kernels that tensors on a device might run on."""
    return Choice("torch", {name: list(reasons) for name in candidates(device)})


def candidates(device: torch.device) -> tuple[str, ...]:
    """Return the back ends that tensors on a device might run on, in order of preference."""
    if device.type == "cuda":
        return GPU
    return (*(name for name in GPU if device.type == "cpu" and takes_cpu(name)), *NATIVE)


def kind_of(name: str) -> str:
    """Return the kind of a back end: "native" for all builds of the native kernels, else its name."""
    return "native" if name in NATIVE else name


def _reasons(name: str, call: Call, tensors: Sequence[Tensor], more: Callable[[str], list[str]]) -> list[str]:
    """Return why a back end cannot run a call."""
    if absent := unavailable(name):
        return [absent]
    support = call.support(kind_of(name))
    if support is None:
        return ["it has no such kernel"]
    if reasons := more(kind_of(name)):
        return reasons
    if call.kernel == "softmax" and name in NATIVE and name not in ("avx512", "amx"):
        reasons.append("torch.softmax is faster than its kernel")
    for tensor in tensors:
        reasons += _device_reasons(name, tensor.device)
        if tensor.dtype not in support.dtypes:
            taken = " or ".join(str(dtype).removeprefix("torch.") for dtype in support.dtypes)
            reasons.append(f"it takes {taken}, not {str(tensor.dtype).removeprefix('torch.')}")
    if len({tensor.device for tensor in tensors}) > 1:
        reasons.append("the tensors are on different devices")
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        if not support.differentiable:
            reasons.append("its kernel has no gradient, and one is asked for")
        elif name == "flex" and any(tensor.device.type == "cpu" for tensor in tensors):
            reasons.append("on the CPU it has no gradient, and one is asked for")
    if transform := transform_at_work():
        reasons.append(f"its kernel does not go through {transform}")
    return list(dict.fromkeys(reasons))


def _device_reasons(name: str, device: torch.device) -> list[str]:
    """Return why a back end does not run on a device."""
    if name in NATIVE:
        return [] if device.type == "cpu" else [f"it runs on the CPU, and the tensors are on {device}"]
    return [] if device.type == "cpu" and takes_cpu(name) else reasons_against(device)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def takes_cpu(name: str) -> bool:
    """Does a back end of GPUs take tensors on the CPU: Triton interpreted, or FlexAttention asked for by name?

    The latter is then torch's unfused form, to see what it computes.
    """
    return interprets() if name == "triton" else os.environ.get(VARIABLE) == name


def interprets() -> bool:
    """Do Triton's kernels run on the CPU, interpreted?"""
    return is_interpreted() and not unavailable("triton")


def runs_on_gpu(device: torch.device) -> bool:
    """Are tensors on this device for the kernels of GPUs?"""
    return device.type == "cuda" or (device.type == "cpu" and interprets())


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def transform_at_work() -> str:
    """Name the transform of torch.func, or the forward-mode derivative, that surrounds this call; empty for none."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "transforms of torch.func"
    return "forward-mode derivatives" if torch.autograd.forward_ad._current_level >= 0 else ""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def unavailable(name: str) -> str:
    """Say why a back end cannot run here at all; empty for the GPU's where they can, and the native build that does.

    Raises:
        ValueError: the environment asks for what is no back end, or for what this processor does not have.
    """
    return _unavailable(name)


@cache
def _unavailable(name: str) -> str:
    asked = os.environ.get(VARIABLE, "")
    if asked and asked not in (*BACKENDS, "none"):
        raise ValueError(f"{VARIABLE} is {', '.join(BACKENDS)} or none, not {asked!r}")
    if asked in ("none", "torch"):
        return f"{VARIABLE}={asked} asks for torch"
    if asked in KERNELS and kind_of(asked) != kind_of(name):
        return f"{VARIABLE}={asked} asks for another"
    return missing(name) if name in GPU else _native_unavailable(name, asked)


def _native_unavailable(name: str, asked: str) -> str:
    built = _supported()
    if not built:
        return "softmaxkit was installed without its native kernels, for want of a compiler"
    if asked and asked not in built:
        raise ValueError(f"{VARIABLE}={asked}, but {_why_not(asked)}; it may be {', '.join(built)} here")
    if name not in built:
        return _why_not(name)
    chosen = asked or built[0]
    if name == chosen:
        return ""
    return f"{VARIABLE}={asked} asks for another" if asked else f"{chosen} comes first"


def _why_not(name: str) -> str:
    """Say why a native build does not run here, while others do."""
    plain = import_module("softmaxkit.kernels._plain")
    if name in plain.supported():
        return f"the compiler that built softmaxkit does not know {NATIVE[name]}"
    return str(plain.refused().get(name, f"this processor does not have {NATIVE[name]}"))


def backend_name() -> str:
    """Return the native build that runs here, or "torch"."""
    return next((name for name in NATIVE if not unavailable(name)), "torch")


def _supported() -> list[str]:
    """Return the native builds that are there and that this processor runs, in order of preference."""
    try:
        plain = import_module("softmaxkit.kernels._plain")
    except ImportError:
        return []
    supported = plain.supported()
    return [name for name in NATIVE if name in supported and find_spec(f"softmaxkit.kernels._{name}")]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_tiles() -> bool:
    """Does the native build that runs here have AMX's products of bfloat16?"""
    return backend_name() == "amx"


@cache
def native() -> ModuleType | None:
    """Return the native kernels that run here, or None where none do.

    Raises:
        ValueError: see `unavailable`.
    """
    name = backend_name()
    if name == "torch":
        return None
    kernels = import_module(f"softmaxkit.kernels._{name}")
    kernels.share_threads(torch_threads())
    return kernels


def reset() -> None:
    """Forget which build runs here: the environment is read again."""
    _unavailable.cache_clear()
    native.cache_clear()
