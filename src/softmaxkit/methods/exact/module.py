"""The torch module of exact softmax."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.kernels.integers import IntegerCall
from softmaxkit.kernels.row_call import RowCall
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import masked_softmax
from softmaxkit.methods.exact.kernels import integer_call

if TYPE_CHECKING:
    from softmaxkit.methods.exact.spec import Exact


class ExactModule(SoftmaxModule):
    """Computes `torch.softmax` with a mask, or in integer mode the integers of the FP16 unit.

    The integer mode has the gradient of softmax at the same scores.
    """

    spec: Exact

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute masked softmax."""
        return masked_softmax(scores, attended)

    @property
    def softmax_base(self) -> float:
        """Base of the float form: e."""
        return math.e

    def row_call(self, device: torch.device) -> RowCall:
        """Return the kernel of softmax."""
        return RowCall("softmax")

    def integer_call(self, constants: Any) -> IntegerCall:
        """Return the kernel of the integer form."""
        return integer_call(self.spec, constants)
