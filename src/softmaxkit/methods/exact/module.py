"""Exact softmax as a torch module."""

from __future__ import annotations

from torch import Tensor

from softmaxkit.methods.module import SoftmaxModule, masked_softmax


class ExactModule(SoftmaxModule):
    """`torch.softmax` with a mask; in integer mode the FP16 unit.

    Gradients of the integer mode are those of softmax at the same scores.
    """

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute masked softmax."""
        return masked_softmax(scores, attended)
