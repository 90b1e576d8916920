"""The choice of the back end for a call, with the reasons against each back end that is passed over.

A module describes its computation by a call (`RowCall`, `IntegerCall`, `AttentionCall`), which names its kernel and,
for each kind of back end, the dtypes that the kernel supports and whether it has a gradient. Each back end has a list
of reasons why it cannot run a call; the first whose list is empty runs it, and torch, which comes last, always can.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from softmaxkit.kernels import builds
from softmaxkit.kernels.builds import NATIVE, VARIABLE
from softmaxkit.kernels.cards import is_interpreted, missing, reasons_against
from softmaxkit.kernels.threads import torch_threads

GPU = ("triton", "flex")
"""This package's Triton kernels, and torch's FlexAttention. Both support attention with element-wise weights; Triton is
preferred, since its kernel tracks neither a maximum nor a sum. `softmaxkit bench --device cuda` compares them."""
KERNELS = (*GPU, *NATIVE)
"""All back ends but torch, in order of preference."""
BACKENDS = (*KERNELS, "torch")
"""All back ends, in order of preference."""


class Support(NamedTuple):
    """What a kernel supports.

    Attributes:
        dtypes: of its input tensors.
        differentiable: whether it has a gradient.
        traceable: whether a native kernel is a PyTorch operator, through which tensors without memory can go.
    """

    dtypes: Collection[torch.dtype]
    differentiable: bool = False
    traceable: bool = False


class Call(Protocol):
    """What the choice of a back end requires of a call."""

    @property
    def kernel(self) -> str:
        """Name of the kernel, after what it computes."""
        ...

    def support(self, kind: str) -> Support | None:
        """Return what the kernel supports on a kind of back end ("native", "triton", "flex"); None without a kernel."""
        ...


@dataclass(frozen=True)
class Choice:
    """The back end that runs a call, and the reasons against those that are preferred to it.

    Attributes:
        backend: one of `BACKENDS`.
        refusals: for each back end of higher preference, the reasons why it cannot run the call.
    """

    backend: str
    refusals: dict[str, list[str]] = field(default_factory=dict)

    @property
    def native(self) -> bool:
        """Whether a native kernel runs."""
        return self.backend in NATIVE

    @property
    def kernel(self) -> bool:
        """Whether any kernel runs, native or on a GPU."""
        return self.backend in KERNELS

    def reasons(self, device: torch.device) -> list[str]:
        """Return why no kernel runs on a device: the reasons against the back end preferred for it."""
        preferred = GPU[0] if runs_on_gpu(device) else backend_name()
        return self.refusals.get(preferred) or next(iter(self.refusals.values()), [])

    def __str__(self) -> str:
        by_reason: dict[str, list[str]] = {}
        for name, reasons in self.refusals.items():
            by_reason.setdefault("; ".join(reasons), []).append(name)
        lines = [f"  not {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
        return "\n".join([self.backend, *lines])


def pick(call: Call, *tensors: Tensor, more: Callable[[str], list[str]] = lambda kind: []) -> Choice:
    """Return the back end that runs a call on tensors.

    Args:
        call: the call to run.
        tensors: the kernel's input tensors; the device of the first decides which back ends are candidates.
        more: returns further reasons against a kind of back end ("native", "triton" or "flex").

    Raises:
        ValueError: the environment selects a back end that does not exist or is not available here.
    """
    refusals: dict[str, list[str]] = {}
    for name in candidates(tensors[0].device):
        absent = unavailable(name)
        reasons = [absent] if absent else _reasons(name, call, tensors, more)
        if not reasons:
            return Choice(name, refusals)
        refusals[name] = reasons
    return Choice("torch", refusals)


def only_torch(device: torch.device, *reasons: str) -> Choice:
    """Return the choice of torch, with the same reasons against every candidate back end of a device."""
    return Choice("torch", {name: list(reasons) for name in candidates(device)})


def candidates(device: torch.device) -> tuple[str, ...]:
    """Return the back ends that may support tensors on a device, in order of preference."""
    if device.type == "cuda":
        return GPU
    on_cpu = [name for name in GPU if takes_cpu(name)] if device.type == "cpu" else []
    return (*on_cpu, *NATIVE)


def kind_of(name: str) -> str:
    """Return the kind of a back end: "native" for every build of the native kernels, otherwise its name."""
    return "native" if name in NATIVE else name


def _reasons(name: str, call: Call, tensors: Sequence[Tensor], more: Callable[[str], list[str]]) -> list[str]:
    """Return the reasons why a back end that is available cannot run a call."""
    kind = kind_of(name)
    support = call.support(kind)
    if support is None:
        return ["it has no such kernel"]
    if reasons := more(kind):
        return reasons
    for tensor in tensors:
        reasons += _device_reasons(name, tensor)
        if tensor.dtype not in support.dtypes:
            supported = " or ".join(str(dtype).removeprefix("torch.") for dtype in support.dtypes)
            reasons.append(f"it supports {supported}, not {str(tensor.dtype).removeprefix('torch.')}")
        if kind == "native" and not support.traceable:
            reasons += memory_reasons(tensor)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        if not support.differentiable:
            reasons.append("its kernel has no gradient, and a tensor requires one")
        elif name == "flex" and any(tensor.device.type == "cpu" for tensor in tensors):
            reasons.append("on the CPU it has no gradient, and a tensor requires one")
    if transform := transform_at_work():
        reasons.append(f"its kernel does not support {transform}")
    return list(dict.fromkeys(reasons))


def memory_reasons(tensor: Tensor) -> list[str]:
    """Return the reasons against a kernel that reads memory itself, being no operator; Dynamo stops there by itself."""
    if torch.compiler.is_dynamo_compiling():
        return []
    if is_traced():
        return ["a trace (torch.jit.trace, make_fx) does not record what it writes"]
    if isinstance(tensor, FakeTensor) or is_traceable_wrapper_subclass(tensor):
        return [f"it reads memory, of which a {type(tensor).__name__} has none"]
    return []


def _device_reasons(name: str, tensor: Tensor) -> list[str]:
    """Return the reasons why a back end does not run on a tensor's device."""
    if name in NATIVE:
        return [] if tensor.is_cpu else [f"it runs on the CPU, but the tensors are on {tensor.device}"]
    return [] if tensor.is_cpu and takes_cpu(name) else reasons_against(tensor.device)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def takes_cpu(name: str) -> bool:
    """Return whether a GPU back end accepts CPU tensors: Triton if interpreted, FlexAttention if selected by name.

    On the CPU, FlexAttention is torch's unfused reference, for checking what it computes.
    """
    return _takes_cpu(name)


@cache
def _takes_cpu(name: str) -> bool:
    if name == "triton":
        return is_interpreted() and not unavailable(name)
    return os.environ.get(VARIABLE) == name


def interprets() -> bool:
    """Return whether Triton kernels run on the CPU, interpreted."""
    return bool(takes_cpu("triton"))


def runs_on_gpu(device: torch.device) -> bool:
    """Return whether the GPU kernels serve tensors on this device."""
    return device.type == "cuda" or (device.type == "cpu" and interprets())


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def transform_at_work() -> str:
    """Return what is active around this call: torch.func transforms or forward-mode derivatives; empty if neither."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "transforms of torch.func"
    return "forward-mode derivatives" if torch.autograd.forward_ad._current_level >= 0 else ""


def is_batched(tensor: Tensor) -> bool:
    """Return whether vmap has made one tensor of many, whose values no Python code can read."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor) and not functorch.is_batchedtensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return functorch.is_batchedtensor(tensor)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_traced() -> bool:
    """Return whether a trace records the operators called here, and misses what other native kernels write."""
    if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None:  # make_fx
        return True
    return bool(torch._C._is_tracing())


def is_in_graph() -> bool:
    """Return whether a graph is being recorded: by Dynamo, by a trace, or on fake tensors as in torch.export.

    Tensors have no values then that could decide anything.
    """
    if torch.compiler.is_dynamo_compiling() or is_traced():
        return True
    return torch._C._len_torch_dispatch_stack() > 0 and type(torch.empty(0)) is not Tensor


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def unavailable(name: str) -> str:
    """Return why a back end is not available here; empty for available GPU back ends and the one native build in use.

    Raises:
        ValueError: the environment selects a back end that does not exist or that this processor does not support.
    """
    return _unavailable(name)


@cache
def _unavailable(name: str) -> str:
    selected = os.environ.get(VARIABLE, "")
    if selected and selected not in (*BACKENDS, "none"):
        raise ValueError(f"{VARIABLE} must be {', '.join(BACKENDS)} or none, got {selected!r}")
    if selected in ("none", "torch"):
        return f"{VARIABLE}={selected} selects torch"
    if selected in KERNELS and kind_of(selected) != kind_of(name):
        return f"{VARIABLE}={selected} selects another back end"
    return missing(name) if name in GPU else builds.refusal(name, selected)


def backend_name() -> str:
    """Return the name of the native build that runs here, or "torch"."""
    return next((name for name in NATIVE if not unavailable(name)), "torch")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def softmax_products(dtype: torch.dtype) -> str:
    """Return in what numbers softmax attention of many queries of a dtype multiplies: "bfloat16" or "16-bit integers".

    Empty if it runs as torch's own: without a kernel, or where a trial says that torch is faster, see
    `builds.objection_to_softmax`; a build that the environment selects needs no trial.
    """
    return _softmax_products(dtype)


@cache
def _softmax_products(dtype: torch.dtype) -> str:
    name = backend_name()
    if name == "torch" or not hasattr(native(), "SoftmaxAttention_float32"):
        return ""
    tried = torch.float16 if dtype == torch.float16 else torch.bfloat16
    if os.environ.get(VARIABLE) != name and builds.objection_to_softmax(name, tried):
        return ""
    return "bfloat16" if name == "amx" and tried == torch.bfloat16 else "16-bit integers"


@cache
def native() -> ModuleType | None:
    """Return the module of native kernels that runs here, or None if none does.

    Raises:
        ValueError: as `unavailable`.
    """
    name = backend_name()
    if name == "torch":
        return None
    kernels = import_module(f"softmaxkit.kernels._{name}")
    kernels.share_threads(torch_threads())
    return kernels


def reset() -> None:
    """Clear the cached choice of the build, so that the environment is read again."""
    of_builds = builds.objection, builds.objection_to_softmax
    for cached in (_unavailable, _takes_cpu, _softmax_products, *of_builds, native):
        cached.cache_clear()
