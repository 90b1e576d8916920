"""The threads that the native kernels share with torch: the pool of the OpenMP library that torch has loaded."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

import torch


def torch_threads() -> int:
    """Return the address of `GOMP_parallel` in the OpenMP library that torch has loaded; 0 if there is none."""
    packages = Path(torch.__file__).parent.parent
    libraries = (*packages.glob("torch/lib/libgomp*"), *packages.glob("torch.libs/libgomp*"), "libgomp.so.1")
    for library in libraries:
        with suppress(OSError, AttributeError):
            function = ctypes.CDLL(str(library), mode=os.RTLD_NOLOAD).GOMP_parallel
            return ctypes.cast(function, ctypes.c_void_p).value or 0
    return 0
