"""The torch module of sigmoid attention, with a learned bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.integers import CodeTableCall
from softmaxkit.kernels.row_call import RowCall
from softmaxkit.methods.base.code_table import code_table_call
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.log_sums import LogSumCalibrator
from softmaxkit.methods.base.metadata import DEFAULT_KEYS
from softmaxkit.methods.base.module import SoftmaxModule, at_least_float32
from softmaxkit.methods.base.numbers import Real, learned_parameter, real_values
from softmaxkit.methods.sigmoid.spec import SigmoidConstants

if TYPE_CHECKING:
    from softmaxkit.methods.sigmoid.spec import Sigmoid


class SigmoidModule(SoftmaxModule):
    """Computes `sigmoid(score + bias)`, or in integer mode looks it up in the table.

    The integer mode has the gradient of the float form, and none where a score's code saturates.

    Args:
        spec: the spec.
        heads: size of axis -3 of the scores, or None.
        mode: "float", "integer" or "fused".
        bias: initial value, a single number or one per head; the default is that for 256 keys.

    Attributes:
        bias: learned; float32, shape (heads,), or () if shared. Exclude it from weight decay.

    Raises:
        ValueError: the bias is not finite or has the wrong shape.
    """

    spec: Sigmoid

    def __init__(
        self,
        spec: Sigmoid,
        heads: int | None = None,
        mode: str = "float",
        bias: Real | None = None,
    ) -> None:
        super().__init__(spec, heads, mode)
        shape = (heads,) if heads is not None and spec.share == "head" else ()
        initial = real_values("bias", spec.start(DEFAULT_KEYS)["bias"] if bias is None else bias, shape)
        if not np.isfinite(initial).all():
            raise ValueError(f"Sigmoid requires a finite bias, such as -log(512) = -6.24, got {initial}")
        self.bias = learned_parameter(initial, shape, bias)

    @property
    def per_head(self) -> bool:
        """Whether each head has its own bias."""
        return self.bias.ndim == 1

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute the sigmoid."""
        bias = self.bias.to(scores.dtype)
        return torch.where(attended, torch.sigmoid(scores + (bias[:, None, None] if self.per_head else bias)), 0.0)

    def row_call(self, device: torch.device) -> RowCall:
        """Return the kernel of the logistic function."""
        return RowCall("logistic", (self.bias,))

    def attention_call(self, **learned: Tensor) -> AttentionCall:
        """Return attention with the logistic function and no sum."""
        return AttentionCall.by_logistic(-learned.get("bias", self.bias).float())

    def learned(self, numbers: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the tensor `bias`, if present, in the shape of the parameter."""
        return {key: at_least_float32(x).expand(self.bias.shape) for key, x in numbers.items()}

    def nan_reach(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Return a mask of what becomes NaN: only NaN itself, since elements are independent."""
        return scores.isnan() & attended

    def build_constants(self) -> Constants:
        """Build the constants, stacked by head if each has its own bias."""
        if not self.per_head:
            return self.spec.constants(bias=self.bias.item())
        return SigmoidConstants.stack([self.spec.constants(bias=bias) for bias in self.bias.tolist()])

    def integer_call(self, constants: Any) -> CodeTableCall:
        """Return a table of the probability of every score code."""
        return code_table_call(self.spec, constants)

    def calibrator(self) -> LogSumCalibrator | None:
        """Return a calibrator that sets the bias to minus the mean log-sum of softmax; None with bias="length"."""
        if self.spec.bias == "length":
            return None
        return LogSumCalibrator(self, lambda mean: {"bias": -mean})
