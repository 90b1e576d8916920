"""The torch module of Softermax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.kernels.integers import IntegerCall
from softmaxkit.kernels.row_call import RowCall
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import masked_softmax
from softmaxkit.methods.softermax.kernels import integer_call

if TYPE_CHECKING:
    from softmaxkit.methods.softermax.spec import Softermax


class SoftermaxModule(SoftmaxModule):
    """Computes softmax to base 2, or in integer mode the integers of the fixed-point unit.

    The integer mode has the gradient of base-2 softmax at the scores clamped to the input format, so that a saturated
    score gets none (Softermax-aware fine-tuning, section 4 of the paper).
    """

    spec: Softermax

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute masked softmax to base 2, or e with `log2e`."""
        return masked_softmax(scores, attended, self.spec.base)

    @property
    def softmax_base(self) -> float:
        """Base of the float form: 2, or e with `log2e`."""
        return self.spec.base

    def row_call(self, device: torch.device) -> RowCall:
        """Return the kernel of softmax to this base."""
        return RowCall("softmax_to_base", (self.spec.base,))

    def integer_call(self, constants: Any) -> IntegerCall | None:
        """Return the kernel of the integer form; None if its products are too wide."""
        return integer_call(self.spec, constants)
