"""Exact softmax as a torch module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from softmaxkit.kernels.integers import IntegerKernel
from softmaxkit.kernels.launch import instructions
from softmaxkit.methods.exact.native import kernel
from softmaxkit.methods.module import SoftmaxModule, masked_softmax

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

    def native_arguments(self) -> tuple[Any, ...] | None:
        """Softmax's kernel takes nothing more; but for AVX-512, torch's own is faster."""
        return () if instructions() == "avx512" else None

    def build_kernel(self, constants: Any) -> IntegerKernel:
        """Build the native kernel."""
        return kernel(self.spec)
