"""Native integer kernel of element-wise methods: a table from score code to probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from softmaxkit.kernels.integers import CodeTableCall

if TYPE_CHECKING:
    from softmaxkit.methods.base.constants import Constants
    from softmaxkit.methods.base.spec import Spec


def code_table_call(spec: Spec, constants: Constants) -> CodeTableCall:
    """Tabulate the golden model over all score codes, for each head.

    Args:
        spec: spec of an element-wise method with at most 16 score bits.
        constants: constants of that spec, for one head or stacked.
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
