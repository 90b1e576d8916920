"""The builds of the native kernels: which of them are installed and run on this processor, and which one is taken."""

from __future__ import annotations

import platform
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

VARIABLE = "SOFTMAXKIT_KERNELS"
"""Environment variable that selects a build or another back end, see `softmaxkit.kernels.backends`; "none" is torch."""
_PLAIN = "softmaxkit.kernels._plain"
"""The build that runs anywhere, which knows what the processor supports."""
_X86 = {
    "amx": "AMX with int8 and bfloat16",
    "avx512": "AVX-512 F, BW, DQ, VL, VNNI and VBMI",
    "avx512_vnni": "AVX-512 F, BW, DQ, VL and VNNI",
    "avx512_bw": "AVX-512 F, BW, DQ and VL",
    "avx_vnni": "AVX-VNNI",
    "avx2": "AVX2, FMA and F16C",
}
_ARM = {"neon": "NEON with dot products (Armv8.2)"}
NATIVE = {**(_ARM if platform.machine() in ("aarch64", "arm64") else _X86), "plain": "any CPU"}
"""Builds of the native kernels for this architecture in order of preference, with the instructions that each needs.
Unless the environment selects amx, it has to pass a trial first, see `softmaxkit.kernels.trial`."""


def supported() -> list[str]:
    """Return the native builds that are installed and that this processor supports, in order of preference."""
    if absence():
        return []
    runs_here = import_module(_PLAIN).supported()
    return [name for name in NATIVE if name in runs_here and find_spec(f"softmaxkit.kernels._{name}")]


def absence() -> str:
    """Return why there are no native builds; empty if there are."""
    if find_spec(_PLAIN) is None:
        return "no compiler that builds the native kernels (GCC or clang) was there at installation"
    try:
        import_module(_PLAIN)
    except ImportError as error:
        return f"the native kernels cannot be loaded ({error}); install softmaxkit again on this machine"
    return ""


def refusal(name: str, selected: str) -> str:
    """Return why a build is not the one that runs; empty if it is.

    Args:
        name: of the build.
        selected: the build that the environment selects; empty if none.

    Raises:
        ValueError: the selected build does not run here.
    """
    if reason := absence():
        return reason
    built = supported()
    if selected and selected not in built:
        raise ValueError(f"{VARIABLE}={selected}, but {why_not(selected)}; here it can be {', '.join(built)}")
    if name not in built:
        return why_not(name)
    if selected:
        return "" if name == selected else f"{VARIABLE}={selected} selects another build"
    chosen = next(build for build in built if not objection(build))
    return "" if name == chosen else objection(name) or f"{chosen} is preferred"


def why_not(name: str) -> str:
    """Return why a native build does not run here although others do."""
    plain = import_module(_PLAIN)
    if name in plain.supported():
        return f"the compiler that built softmaxkit does not support {NATIVE[name]}"
    return str(plain.refused().get(name, f"this processor does not have {NATIVE[name]}"))


@cache
def objection(name: str) -> str:
    """Return why a build that runs here is not taken unless selected: what the trial of amx says; "" for the others."""
    if name != "amx":
        return ""
    from softmaxkit.kernels.trial import objection_to_tiles  # it runs kernels, which import this module

    return objection_to_tiles(*(import_module(f"softmaxkit.kernels._{build}") for build in ("amx", "avx512")))


@cache
def objection_to_softmax(name: str, dtype: torch.dtype) -> str:
    """Return why a build does not run softmax attention of many queries: what its trial says; "" if it does.

    There is a trial on processors with AMX, which torch uses too. Without it torch was slower in 16 bits wherever it
    was measured: on a Xeon with AVX-512, and with AVX2 there.
    """
    if "amx" not in supported():
        return ""
    from softmaxkit.kernels import trial

    return trial.objection_to_softmax(import_module(f"softmaxkit.kernels._{name}"), dtype)
