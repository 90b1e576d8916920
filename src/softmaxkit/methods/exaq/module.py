"""The torch module of EXAQ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.integers import IntegerCall
from softmaxkit.kernels.row_call import RowCall
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import masked_softmax, quantised_distance
from softmaxkit.methods.exaq.calibrate import ExaqCalibrator
from softmaxkit.methods.exaq.constants import ExaqConstants
from softmaxkit.methods.exaq.kernels import integer_call
from softmaxkit.methods.exaq.parameters import required_clip

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.spec import Exaq


class ExaqModule(SoftmaxModule):
    """Computes softmax of the quantised `score - maximum`, or in integer mode the integers of the unit.

    Gradients pass straight through the rounding, but not below the clip, and treat the row's maximum as a constant. In
    integer mode, scores whose code saturates get no gradient either.

    Args:
        spec: the spec.
        heads: size of axis -3 of the scores; with share="layer" the heads share one clip.
        mode: "float", "integer" or "fused".
        clip: the lowest level, negative, a single number or one per head; set by calibration if omitted.
        scale: real value of one step of the score code, likewise; that of the score format if omitted.

    Raises:
        ValueError: the clip or scale is out of range, or its length is not the number of heads.
    """

    spec: Exaq
    calibrated_numbers: ClassVar[tuple[str, ...]] = ("clip", "scale")

    def __init__(
        self,
        spec: Exaq,
        heads: int | None = None,
        mode: str = "float",
        clip: float | Sequence[float] | None = None,
        scale: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(spec, heads, mode)
        self._kept_call: tuple[Mapping[str, Any], AttentionCall] | None = None
        calibration = {"clip": clip, "scale": scale}
        self.set_calibration({key: value for key, value in calibration.items() if value is not None})
        if clip is not None:
            _ = self.constants  # checks clip and scale at once

    @property
    def per_head(self) -> bool:
        """Whether each head has its own clip."""
        return self.spec.share == "head" and self.heads is not None

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Quantise with a straight-through gradient, then apply softmax.

        Raises:
            ValueError: the clip is not set yet.
        """
        if not self.per_head:
            return self._of_clip(scores, attended, required_clip(self._calibration))
        heads = [
            self._of_clip(of_head, seen, required_clip(self.calibration_of(head)))
            for head, (of_head, seen) in enumerate(zip(scores.unbind(-3), attended.unbind(-3), strict=True))
        ]
        return torch.stack(heads, dim=-3)

    def _of_clip(self, scores: Tensor, attended: Tensor, clip: float) -> Tensor:
        quantised, _ = quantised_distance(scores, attended, clip, self.spec.levels)
        return masked_softmax(quantised, attended)

    def build_constants(self) -> Constants:
        """Build the constants, stacked by head if each has its own clip."""
        if not self.per_head:
            return super().build_constants()
        numbers = [self.calibration_of(head) for head in range(self.heads or 0)]
        return ExaqConstants.stack([self.spec.constants(**of_head) for of_head in numbers])

    def row_call(self, device: torch.device) -> RowCall:
        """Return the kernel of evenly spaced levels, with the clip and the exponentials, per head if clips are."""
        if self.per_head:
            calls = tuple(self._row_call(self.calibration_of(head)) for head in range(self.heads or 0))
            return RowCall("levels", heads=calls)
        return self._row_call(self._calibration)

    def _row_call(self, calibration: Mapping[str, Any]) -> RowCall:
        clip = required_clip(calibration)
        return RowCall("levels", (clip, self.spec.exponentials(clip)))

    def attention_call(self, **learned: Tensor) -> AttentionCall | None:
        """Return attention with evenly spaced levels, per head if clips are."""
        if torch.compiler.is_dynamo_compiling():  # a graph would depend on what is kept
            return self._attention_call()
        if self._kept_call is None or self._kept_call[0] is not self._calibration:
            self._kept_call = self._calibration, self._attention_call()
        return self._kept_call[1]

    def _attention_call(self) -> AttentionCall:
        if self.per_head:
            clips = [required_clip(self.calibration_of(head)) for head in range(self.heads or 0)]
            return AttentionCall.by_levels_of_heads(clips, [self.spec.exponentials(clip) for clip in clips])
        clip = required_clip(self._calibration)
        return AttentionCall.by_levels(clip, self.spec.exponentials(clip))

    def calibrator(self) -> ExaqCalibrator:
        """Return a calibrator of the clip, and of the score scale with scale="calibrated"."""
        return ExaqCalibrator(self.spec, self.heads if self.per_head else None)

    def integer_call(self, constants: Any) -> IntegerCall | None:
        """Return the kernel of the integer form; None if its products are too wide."""
        return integer_call(self.spec, constants)
