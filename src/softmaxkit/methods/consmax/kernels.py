"""Golden of ConSmax by a native kernel: a probability depends only on its score code, and so a table holds them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from softmaxkit.kernels.integers import CodeTableCall

if TYPE_CHECKING:
    from softmaxkit.methods.consmax.constants import ConSmaxConstants
    from softmaxkit.methods.consmax.spec import ConSmax


def integer_call(spec: ConSmax, constants: ConSmaxConstants) -> CodeTableCall:
    """Tabulate golden over every score code, for each head."""
    lowest, highest = spec.score_range()
    codes = torch.arange(lowest, highest + 1, device="cpu").expand(constants.heads or 1, 1, -1)
    probabilities = spec.decode(spec.golden(codes, None, constants), constants)
    scale = constants.real_scale
    return CodeTableCall(
        scales=scale if isinstance(scale, tuple) else (scale,),
        lowest=lowest,
        highest=highest,
        probabilities=probabilities.float().contiguous(),
    )
