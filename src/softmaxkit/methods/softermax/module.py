"""Softermax as a torch module."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from softmaxkit.kernels.integers import IntegerKernel
from softmaxkit.methods.module import SoftmaxModule, masked_softmax
from softmaxkit.methods.softermax.native import kernel

if TYPE_CHECKING:
    from softmaxkit.methods.softermax.spec import Softermax


class SoftermaxModule(SoftmaxModule):
    """Softmax to base 2; in integer mode the fixed-point unit.

    Gradients of the integer mode are those of base-2 softmax at the scores clamped to the input format, so that a
    saturated score gets none (Softermax-aware fine-tuning, section 4 of the paper).
    """

    spec: Softermax

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute masked softmax to base 2, or e where log2(e) is folded."""
        return masked_softmax(scores * math.log(self.spec.base), attended)

    def build_kernel(self, constants: Any) -> IntegerKernel | None:
        """Build the native kernel; None where products are too wide for it."""
        return kernel(self.spec, constants)
