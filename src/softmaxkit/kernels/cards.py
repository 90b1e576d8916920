"""What the back ends of GPUs need: packages, and a card that kernels are compiled for."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import torch

LEAST_CAPABILITY = (8, 0)
"""Compute capability of the oldest cards that kernels are compiled for: Ampere, the first with bfloat16."""
LEAST_TORCH = "2.9"
"""The first torch whose FlexAttention returns log-sums beside its result."""
INTERPRETER = "TRITON_INTERPRET"
"""Environment variable with which Triton interprets kernels, on the CPU; read when triton is imported."""


def missing(name: str) -> str:
    """Say what a back end of GPUs, "triton" or "flex", lacks here; empty where it lacks nothing."""
    if torch.version.hip is not None:
        return "it is for NVIDIA's cards, and this torch is for AMD's"
    if name == "flex" and torch.__version__ < LEAST_TORCH:
        return f"FlexAttention returns log-sums from torch {LEAST_TORCH} on, and this is {torch.__version__}"
    if find_spec("triton") is None and (name == "triton" or torch.cuda.is_available()):
        return "triton is not installed; pip install 'softmaxkit[triton]' brings it on Linux"
    return ""


def reasons_against(device: torch.device) -> list[str]:
    """Return why kernels of GPUs do not run on a device."""
    if device.type != "cuda":
        return [f"it runs on CUDA, and the tensors are on {device}"]
    reason = _reason_against(device.index)
    return [reason] if reason else []


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _reason_against(index: int | None) -> str:
    """Say why a card's kind is too old; empty where it is not. Dynamo takes a string for a constant, and no tuple."""
    has = capability(index)
    if has >= LEAST_CAPABILITY:
        return ""
    least, own = (".".join(map(str, numbers)) for numbers in (LEAST_CAPABILITY, has))
    return f"it needs compute capability {least}, and this card has {own}"


@cache
def capability(index: int | None) -> tuple[int, int]:
    """Return the compute capability of a card."""
    return torch.cuda.get_device_capability(index)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_interpreted() -> bool:
    """Is Triton asked to interpret its kernels?"""
    return os.environ.get(INTERPRETER) == "1"
