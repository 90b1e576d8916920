"""Native kernels of the CPU, the best that the processor has; without them the package works through torch."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from types import ModuleType

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
    return import_module(f"softmaxkit.kernels._{asked or has[0]}")
