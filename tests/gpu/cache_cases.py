"""What tests of caches on a GPU share: methods, tolerances, float64 over the same codes, and which kernels ran."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_cases import FROM_ZERO, LOGISTIC, WEIGHTS, Case, float64_attention
from torch import Tensor

from softmaxkit import Exact, Softermax, Spec
from softmaxkit.kernels.codes import Cached

METHODS: list[tuple[Spec, dict[str, Any]]] = [*WEIGHTS[:3], (Exact(), {}), (Softermax(), {}), LOGISTIC]
KINDS = [METHODS[0], METHODS[1], METHODS[3], LOGISTIC, FROM_ZERO]
"""One method for each form of weights: exponentials, levels, softmax, the logistic function, levels from 0."""
KEY_HEADS = 2
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Of products and sums in float32; in 16 bits weights and results are rounded to 8 or 11."""


def watched_kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list to which the names of the decoding kernels go that are launched from now on."""
    from softmaxkit.kernels.triton import decode

    monkeypatch.setattr(decode, "INTERPRETED_PROCESSORS", 1)  # parts that are few, and take the less time
    seen: list[str] = []

    class Watched:  # launched by kernel[grid](...)
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(decode, name)

        def __getitem__(self, grid: Any) -> Any:
            seen.append(self.name)
            return self.kernel[grid]

    for name in ("decode_single", "decode_split"):
        monkeypatch.setattr(decode, name, Watched(name))
    return seen


def expected(
    query: Tensor, codes: tuple[Cached, Cached], spec: Spec, numbers: dict[str, Any], mask: Tensor | None
) -> Tensor:
    keys, values = (x.decoded(torch.float64) for x in codes)
    return float64_attention([query.double(), keys, values], spec, numbers, mask, Case()).detach()


def assert_close(result: Tensor, exact: Tensor, dtype: torch.dtype, moves: bool = False) -> None:
    """Compare whole results, or where scores may cross a level (`moves`), the median row.

    The matrix unit reads keys of 4 bits in bfloat16, which rounds their 12 bits to 8: that moves scores by some 1e-3,
    and with levels one key in a thousand then takes the other of two, which shows in its whole row.
    """
    assert result.dtype == dtype
    difference = result.double() - exact
    rows = (-1, result.shape[-1]) if moves else (1, -1)
    sizes = exact.reshape(rows).norm(dim=-1)
    errors = difference.reshape(rows).norm(dim=-1) / sizes
    error = errors[sizes > 0].median()  # a fully masked row has no size
    assert error < TOLERANCE[dtype], error
