"""Random scores for the row kernels, and lengths on either side of a vector's width."""

from __future__ import annotations

import torch
from torch import Tensor

LENGTHS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 63, 64, 65, 100, 257, 1000)


def tolerances(dtype: torch.dtype, computed: float = 0.0) -> dict[str, float]:
    """Return `rtol` and `atol` of a result in a dtype whose computation in float32 errs by `computed`, relatively.

    In 16 bits the polynomial for 2^r has an error of 3e-6, and the result is rounded.
    """
    if dtype == torch.float32:
        return {"rtol": computed, "atol": 0.0}
    of = torch.finfo(dtype)
    return {"rtol": of.eps / 2 + computed + 4e-6, "atol": of.smallest_normal * of.eps / 2}


def scores_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 6
