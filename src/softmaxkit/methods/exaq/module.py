"""EXAQ as a torch module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.integers import IntegerCall
from softmaxkit.kernels.operators import RowCall
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import masked_softmax, quantised_distance
from softmaxkit.methods.exaq.calibrate import ExaqCalibrator
from softmaxkit.methods.exaq.kernels import integer_call
from softmaxkit.methods.exaq.spec import ExaqConstants

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.spec import Exaq


class ExaqModule(SoftmaxModule):
    """Softmax of a quantised `score - maximum`; in integer mode the table sums.

    Gradients pass straight through the rounding, and not where the score is below the clip; the row's maximum counts
    as a constant. In integer mode the same, and not where a score's code saturates.

    Args:
        spec: the method.
        heads: size of the axis -3 of the scores; with `share="layer"` they have one clip.
        mode: "float" or "integer".
        clip: the lowest level, negative, one or one a head; from calibration if left out.
        scale: real value of one step of the score code, likewise; the score format's if left out.
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
        given = {"clip": clip, "scale": scale}
        for name, value in given.items():
            if isinstance(value, Sequence) and (not self.per_head or len(value) != heads):
                raise ValueError(f"{name} is one number for these {heads or 'unnamed'} heads, not {len(value)}")
        self.set_calibration({key: value for key, value in given.items() if value is not None})
        if self.calibration:
            _ = self.constants if clip is not None else None  # refuses an impossible clip at once

    @property
    def per_head(self) -> bool:
        """Is there a clip for each head?"""
        return self.spec.share == "head" and self.heads is not None

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Quantise straight-through, then take softmax.

        Raises:
            ValueError: there is no clip yet.
        """
        if not self.per_head:
            return self._of_clip(scores, attended, self.spec.required_clip(self._calibration))
        heads = [
            self._of_clip(of_head, seen, self.spec.required_clip(self.calibration_of(head)))
            for head, (of_head, seen) in enumerate(zip(scores.unbind(-3), attended.unbind(-3), strict=True))
        ]
        return torch.stack(heads, dim=-3)

    def _of_clip(self, scores: Tensor, attended: Tensor, clip: float) -> Tensor:
        quantised, _ = quantised_distance(scores, attended, clip, self.spec.levels)
        return masked_softmax(quantised, attended)

    def build_constants(self) -> Constants:
        """Build the constants of the layer, or of each head."""
        if not self.per_head:
            return super().build_constants()
        numbers = [self.calibration_of(head) for head in range(self.heads or 0)]
        return ExaqConstants.stack([self.spec.constants(**of_head) for of_head in numbers])

    def row_call(self, device: torch.device) -> RowCall:
        """Return the kernel of even levels, with the clip and the levels' exponentials, or one of them a head."""
        if self.per_head:
            calls = tuple(self._row_call(self.calibration_of(head)) for head in range(self.heads or 0))
            return RowCall("levels", differentiable=False, heads=calls)
        return self._row_call(self._calibration)

    def _row_call(self, calibration: Mapping[str, Any]) -> RowCall:
        clip = self.spec.required_clip(calibration)
        return RowCall("levels", (clip, self.spec.exponentials(clip)), differentiable=False)

    def attention_call(self) -> AttentionCall | None:
        """Return attention whose scores take even levels; None for clips a head."""
        if self.per_head:
            return None
        clip = self.spec.required_clip(self._calibration)
        return AttentionCall.by_levels(clip, self.spec.exponentials(clip))

    def calibrator(self) -> ExaqCalibrator:
        """Return a calibrator of the clip, and of the score scale where the spec asks for it."""
        return ExaqCalibrator(self.spec, self.heads if self.per_head else None)

    def integer_call(self, constants: Any) -> IntegerCall | None:
        """Return the kernel of the integers; None where products are too wide for it."""
        return integer_call(self.spec, constants)
