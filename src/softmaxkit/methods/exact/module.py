"""Exact softmax as a torch module."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.kernels.integers import IntegerCall
from softmaxkit.kernels.operators import RowCall
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import masked_softmax
from softmaxkit.methods.exact.kernels import integer_call

if TYPE_CHECKING:
    from softmaxkit.methods.exact.spec import Exact


class ExactModule(SoftmaxModule):
    """`torch.softmax` with a mask; in integer mode the FP16 unit.

    Gradients of the integer mode are those of softmax at the same scores.
    """

    spec: Exact

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute masked softmax."""
        return masked_softmax(scores, attended)

    @property
    def softmax_base(self) -> float:
        """The float form is softmax itself."""
        return math.e

    def row_call(self, device: torch.device) -> RowCall:
        """Return softmax's kernel."""
        return RowCall("softmax")

    def integer_call(self, constants: Any) -> IntegerCall:
        """Return the kernel of the small float's integers."""
        return integer_call(self.spec, constants)
