"""The builds whose kernels multiply by tiles, AMX's or emulated in C++, or 16-bit integers, and inputs for them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from torch import Tensor

from softmaxkit.kernels import attention, backends, builds, launch

BUILDS = ("amx", "portable_tiles")
WORDS = [name for name in builds.NATIVE if name not in ("amx", "neon", "plain")]
"""The builds whose softmax attention multiplies 16-bit integers."""


def kernels_of(build: str) -> ModuleType:
    """Return the kernels of a build; skip the test if they are not built or do not run here."""
    if "amx" not in builds.NATIVE:
        pytest.skip("this processor's architecture has no AMX")
    if build in builds.NATIVE:
        if build not in builds.supported():
            pytest.skip(builds.why_not(build))
    elif "avx512" not in builds.supported() or find_spec(f"softmaxkit.kernels._{build}") is None:
        pytest.skip("tiles in C++ are only built by an editable install, and run only with AVX-512")
    return import_module(f"softmaxkit.kernels._{build}")


def softmax_by(build: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run softmax attention by a build's kernels, however small the problem, for as long as a fixture lasts."""
    kernels = kernels_of(build)

    def products(dtype: torch.dtype) -> str:
        return "16-bit integers" if build in WORDS or dtype == torch.float16 else "bfloat16"

    monkeypatch.setattr(launch, "native", lambda: kernels)
    monkeypatch.setattr(attention, "softmax_products", products)
    for least in (attention.LEAST_QUERIES, attention.LEAST_MULTIPLIED):
        for dtype in least:
            monkeypatch.setitem(least, dtype, 0)
    yield build
    backends.reset()


def inputs(queries: int, keys: int, channels: int, values: int, heads: int = 2, key_heads: int = 2) -> list[Tensor]:
    """Return random queries, keys and values of two sequences."""
    random = torch.Generator().manual_seed(queries + keys + channels)
    sizes = (heads, queries, channels), (key_heads, keys, channels), (key_heads, keys, values)
    query, key, value = (torch.randn(2, *size, generator=random) for size in sizes)
    return [query * 2, key + 0.5, value]
