"""Golden of element-wise methods by a native kernel: a probability depends only on its score code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from softmaxkit.kernels.integers import CodeTableCall

if TYPE_CHECKING:
    from softmaxkit.methods.base.constants import Constants
    from softmaxkit.methods.base.spec import Spec


def code_table_call(spec: Spec, constants: Constants) -> CodeTableCall:
    """Tabulate golden over every score code, for each head.

    Args:
        spec: an element-wise method of up to 16 score bits.
        constants: of it, stacked or of one head.
    """
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
