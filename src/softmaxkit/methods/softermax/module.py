"""Softermax as a torch module."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.kernels.backends import runs_on_gpu
from softmaxkit.kernels.integers import IntegerCall
from softmaxkit.kernels.operators import RowCall
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import masked_softmax
from softmaxkit.methods.softermax.kernels import integer_call

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

    @property
    def softmax_base(self) -> float:
        """The float form is softmax to the base of the powers."""
        return self.spec.base

    def row_call(self, device: torch.device) -> RowCall | None:
        """Return softmax to the base, which has a kernel on GPUs alone."""
        return RowCall("softmax_to_base", (self.spec.base,)) if runs_on_gpu(device) else None

    def integer_call(self, constants: Any) -> IntegerCall | None:
        """Return the kernel of the fixed-point integers; None where products are too wide for it."""
        return integer_call(self.spec, constants)
