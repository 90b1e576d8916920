"""Native kernels of the CPU, the best that the processor has; without them the package works through torch."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch

SETS = ("avx512", "avx2", "plain")
"""Instruction sets that kernels are built for, the best first."""


@cache
def native() -> ModuleType | None:
    """Return the kernels for this processor, or None where they were not built.

    The environment's SOFTMAXKIT_KERNELS asks for one of `SETS`, or for "none".

    Raises:
        ValueError: it asks for something else, or for what this processor does not have.
    """
    asked = os.environ.get("SOFTMAXKIT_KERNELS", "")
    if asked == "none":
        return None
    if asked and asked not in SETS:
        raise ValueError(f"SOFTMAXKIT_KERNELS is {', '.join(SETS)} or none, not {asked!r}")
    try:
        plain = import_module("softmaxkit.kernels._plain")
    except ImportError:
        return None
    has = [name for name in SETS if name in plain.supported()]
    if asked and asked not in has:
        raise ValueError(f"SOFTMAXKIT_KERNELS={asked}, but this processor has {', '.join(has)}")
    kernels = import_module(f"softmaxkit.kernels._{asked or has[0]}")
    kernels.share_threads(torch_threads())
    return kernels


def torch_threads() -> int:
    """Return the address of `GOMP_parallel` in the OpenMP library that torch runs on; 0 where it is not found."""
    packages = Path(torch.__file__).parent.parent
    libraries = (*packages.glob("torch/lib/libgomp*"), *packages.glob("torch.libs/libgomp*"), "libgomp.so.1")
    for library in libraries:
        with suppress(OSError, AttributeError):
            found = ctypes.CDLL(str(library), mode=os.RTLD_NOLOAD).GOMP_parallel
            return ctypes.cast(found, ctypes.c_void_p).value or 0
    return 0
