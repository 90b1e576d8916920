"""EXAQ as a torch module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.integers import IntegerCall
from softmaxkit.kernels.operators import RowCall
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import masked_softmax
from softmaxkit.methods.exaq.calibrate import ExaqCalibrator
from softmaxkit.methods.exaq.kernels import integer_call

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.spec import Exaq


class ExaqModule(SoftmaxModule):
    """Softmax of a quantised `score - maximum`; in integer mode the table sums.

    Gradients pass straight through the rounding, and not where the score is below the clip; the row's maximum counts
    as a constant. In integer mode the same, and not where a score's code saturates.

    Args:
        spec: the method.
        heads: size of the axis -3 of the scores; a layer has one clip for all of them.
        mode: "float" or "integer".
        clip: the lowest level, negative; from calibration if left out.
        scale: real value of one step of the score code; the score format's if left out.
    """

    spec: Exaq

    def __init__(
        self,
        spec: Exaq,
        heads: int | None = None,
        mode: str = "float",
        clip: float | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__(spec, heads, mode)
        given = {"clip": clip, "scale": scale}
        self.set_calibration({key: value for key, value in given.items() if value is not None})
        if self.calibration:
            _ = self.constants if clip is not None else None  # refuses an impossible clip at once

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Quantise straight-through, then take softmax.

        Raises:
            ValueError: there is no clip yet.
        """
        clip = self.spec.required_clip(self.calibration)
        step = -clip / (self.spec.levels - 1)
        distance = distance_to_maximum(scores, attended)
        clipped = torch.clamp(distance, min=clip)
        exact = distance.detach().double()  # where ties are what they are
        level = torch.zeros_like(distance)
        for least in self.spec.least_values(clip):
            level = level + (exact >= least)
        quantised = clip + step * level
        # NaN has no level; it is added back so that it reaches the result.
        return masked_softmax(clipped + (quantised - clipped).detach(), attended)

    def row_call(self, device: torch.device) -> RowCall:
        """Return the kernel of even levels, with the clip and the levels' exponentials."""
        clip = self.spec.required_clip(self.calibration)
        return RowCall("levels", (clip, self.spec.exponentials(clip)), differentiable=False)

    def attention_call(self) -> AttentionCall:
        """Return attention whose scores take even levels."""
        clip = self.spec.required_clip(self.calibration)
        return AttentionCall.by_levels(clip, self.spec.exponentials(clip))

    def calibrator(self) -> ExaqCalibrator:
        """Return a calibrator of the clip, and of the score scale where the spec asks for it."""
        return ExaqCalibrator(self.spec)

    def integer_call(self, constants: Any) -> IntegerCall | None:
        """Return the kernel of the integers; None where products are too wide for it."""
        return integer_call(self.spec, constants)


def distance_to_maximum(scores: Tensor, attended: Tensor) -> Tensor:
    """Return `score - row maximum`, at most 0, with the maximum as a constant; 0 where not attended."""
    lowest = torch.finfo(scores.dtype).min
    highest = torch.where(attended, scores, lowest).detach().amax(dim=-1, keepdim=True) if scores.shape[-1] else 0.0
    return torch.where(attended, scores - highest, 0.0)
