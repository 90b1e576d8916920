"""The table with which a native kernel computes ConSmax's golden: all score codes and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from softmaxkit.kernels.integers import ConsmaxKernel

if TYPE_CHECKING:
    from softmaxkit.methods.consmax.constants import ConSmaxConstants
    from softmaxkit.methods.consmax.spec import ConSmax


def kernel(spec: ConSmax, constants: ConSmaxConstants) -> ConsmaxKernel:
    """Tabulate golden over every score code, for each head."""
    lowest, highest = spec.score_range()
    codes = torch.arange(lowest, highest + 1, device="cpu").expand(constants.heads or 1, 1, -1)
    probabilities = spec.decode(spec.golden(codes, None, constants), constants)
    scale = constants.real_scale
    return ConsmaxKernel(
        scales=scale if isinstance(scale, tuple) else (scale,),
        lowest=lowest,
        highest=highest,
        probabilities=probabilities.float().contiguous(),
    )
