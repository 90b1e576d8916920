"""The back ends: which can run a call, why the others cannot, and the one place that chooses.

A call is what a module answers for itself (`RowCall`, `IntegerCall`, `AttentionCall`): it names its kernel, the dtypes
that this takes, and whether it has a gradient. Every back end answers with the list of reasons why it cannot; the first
without any runs, and torch, the last, always can.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from softmaxkit.kernels.threads import torch_threads

NATIVE = {
    "avx512": "AVX-512 F, BW, DQ, VL, VBMI and VNNI",
    "avx2": "AVX2 and FMA",
    "plain": "any CPU",
}
"""Builds of the native kernels, the best first, and the instructions that each needs."""
BACKENDS = (*NATIVE, "torch")
"""All back ends, in order of preference."""
VARIABLE = "SOFTMAXKIT_KERNELS"
"""Environment variable that asks for one of them; "none" is torch too."""


class Call(Protocol):
    """What a back end needs to know of a call."""

    @property
    def kernel(self) -> str:
        """Name of the kernel, by what it computes."""
        ...

    @property
    def dtypes(self) -> Sequence[torch.dtype]:
        """What the native kernel takes."""
        ...

    @property
    def differentiable(self) -> bool:
        """Has the native kernel a gradient?"""
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

    def __str__(self) -> str:
        by_reason: dict[str, list[str]] = {}
        for name, reasons in self.refusals.items():
            by_reason.setdefault("; ".join(reasons), []).append(name)
        lines = [f"  not {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
        return "\n".join([self.backend, *lines])


def pick(call: Call, *tensors: Tensor) -> Choice:
    """Return the back end that runs a call on tensors; all of these are what the kernel would read.

    Raises:
        ValueError: the environment asks for a back end that there is not.
    """
    refusals: dict[str, list[str]] = {}
    for name in NATIVE:
        reasons = _reasons(name, call, tensors)
        if not reasons:
            return Choice(name, refusals)
        refusals[name] = reasons
    return Choice("torch", refusals)


def only_torch(*reasons: str) -> Choice:
    """Return the choice of torch, for reasons that hold for all native kernels."""
    return Choice("torch", {name: list(reasons) for name in NATIVE})


def _reasons(name: str, call: Call, tensors: Sequence[Tensor]) -> list[str]:
    """Return why a native build cannot run a call."""
    if missing := unavailable(name):
        return [missing]
    reasons = []
    if call.kernel == "softmax" and name != "avx512":
        reasons.append("torch.softmax is faster than its kernel")
    for tensor in tensors:
        if tensor.device.type != "cpu":
            reasons.append(f"it runs on the CPU, and the tensors are on {tensor.device}")
        if tensor.dtype not in call.dtypes:
            taken = " or ".join(str(dtype).removeprefix("torch.") for dtype in call.dtypes)
            reasons.append(f"it takes {taken}, not {str(tensor.dtype).removeprefix('torch.')}")
    if torch.is_grad_enabled() and not call.differentiable and any(tensor.requires_grad for tensor in tensors):
        reasons.append("its kernel has no gradient, and one is asked for")
    if transform := transform_at_work():
        reasons.append(f"its kernel does not go through {transform}")
    return list(dict.fromkeys(reasons))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def transform_at_work() -> str:
    """Name the transform of torch.func, or the forward-mode derivative, that surrounds this call; empty for none."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "transforms of torch.func"
    return "forward-mode derivatives" if torch.autograd.forward_ad._current_level >= 0 else ""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def unavailable(name: str) -> str:
    """Say why a native build cannot run here at all; empty where it is the one that does.

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
    built = _supported()
    if not built:
        return "softmaxkit was installed without its native kernels, for want of a compiler"
    if asked and asked not in built:
        raise ValueError(f"{VARIABLE}={asked}, but this processor has {', '.join(built)}")
    if name not in built:
        return f"this processor does not have {NATIVE[name]}"
    chosen = asked or built[0]
    if name == chosen:
        return ""
    return f"{VARIABLE}={asked} asks for another" if asked else f"{chosen} is better"


def backend_name() -> str:
    """Return the native build that runs here, or "torch"."""
    return next((name for name in NATIVE if not unavailable(name)), "torch")


def _supported() -> list[str]:
    """Return the native builds that are there and that this processor runs, the best first."""
    try:
        plain = import_module("softmaxkit.kernels._plain")
    except ImportError:
        return []
    supported = plain.supported()
    return [name for name in NATIVE if name in supported]


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
