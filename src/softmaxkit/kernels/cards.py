"""GPUs: what the back ends require, of packages and cards, and whether a CUDA graph is being captured."""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec

import numpy
import torch
from torch.torch_version import TorchVersion

LEAST_CAPABILITY = (8, 0)
"""Minimum compute capability: Ampere, the first architecture with bfloat16."""
LEAST_TORCH = "2.9"
"""Minimum torch version: the first whose FlexAttention returns log-sum-exps with its output."""
INTERPRETS_ANY_NUMPY = "3.7"
"""Minimum Triton version whose interpreter runs with NumPy 2.4 and later."""
INTERPRETER = "TRITON_INTERPRET"
"""Environment variable that makes Triton interpret its kernels on the CPU; Triton reads it on import."""


def missing(name: str) -> str:
    """Return which requirement of a GPU back end ("triton" or "flex") this installation misses; empty if none."""
    if torch.version.hip is not None:
        return "it supports NVIDIA cards only, and this torch was built for AMD cards"
    if name == "flex" and torch.__version__ < LEAST_TORCH:
        return f"FlexAttention returns log-sums from torch {LEAST_TORCH} on, and this is torch {torch.__version__}"
    if find_spec("triton") is None and (name == "triton" or torch.cuda.is_available()):
        return "triton is not installed; on Linux, pip install 'softmaxkit[triton]' installs it"
    if name == "triton" and is_interpreted() and TorchVersion(numpy.__version__) >= "2.4":
        has = TorchVersion(version("triton"))
        if has < INTERPRETS_ANY_NUMPY:
            return (
                f"Triton's interpreter runs with NumPy {numpy.__version__} from Triton {INTERPRETS_ANY_NUMPY} on, and "
                f"this is Triton {has}; pip install 'numpy<2.4'"
            )
    return ""


def reasons_against(device: torch.device) -> list[str]:
    """Return the reasons why GPU kernels cannot run on a device."""
    if device.type != "cuda":
        return [f"it runs on CUDA, but the tensors are on {device}"]
    reason = _reason_against(device.index)
    return [reason] if reason else []


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _reason_against(index: int | None) -> str:
    """Return why a card is too old; empty if it is not. A string, as Dynamo cannot treat a tuple as a constant."""
    has = capability(index)
    if has >= LEAST_CAPABILITY:
        return ""
    least, own = (".".join(map(str, numbers)) for numbers in (LEAST_CAPABILITY, has))
    return f"it needs compute capability {least} or higher, and this card has {own}"


@cache
def capability(index: int | None) -> tuple[int, int]:
    """Return the compute capability of a card."""
    return torch.cuda.get_device_capability(index)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_interpreted() -> bool:
    """Return whether the environment tells Triton to interpret its kernels."""
    return os.environ.get(INTERPRETER) == "1"


def is_captured(device: torch.device) -> bool:
    """Return whether calls are being captured in a CUDA graph.

    Nothing is computed then until the graph is replayed, the host cannot wait for the GPU, and memory that is allocated
    belongs to the graph, so it must not be kept for later calls.
    """
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
