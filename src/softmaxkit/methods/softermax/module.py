"""Softermax as a torch module."""

from __future__ import annotations

import math

from torch import Tensor

from softmaxkit.methods.module import SoftmaxModule, masked_softmax


class SoftermaxModule(SoftmaxModule):
    """Softmax to base 2; in integer mode the fixed-point unit.

    Gradients of the integer mode are those of base-2 softmax at the scores clamped to the input format, so that a
    saturated score gets none (Softermax-aware fine-tuning, section 4 of the paper).
    """

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute masked softmax to base 2, or e where log2(e) is folded."""
        return masked_softmax(scores * math.log(self.spec.base), attended)
