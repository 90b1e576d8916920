"""Sigmoid attention as a torch module, with its bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from softmaxkit.kernels.integers import CodeTableCall
from softmaxkit.methods.base.code_table import code_table_call
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.log_sums import LogSumCalibrator
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.sigmoid.spec import DEFAULT_KEYS, SigmoidConstants

if TYPE_CHECKING:
    from softmaxkit.methods.sigmoid.spec import Sigmoid


class SigmoidModule(SoftmaxModule):
    """`sigmoid(score + bias)`; in integer mode the table.

    Gradients of the integer mode are those of the float form, and none where a score's code saturates.

    Args:
        spec: the method.
        heads: size of the axis -3 of the scores, or None.
        mode: "float" or "integer".
        bias: start value, one or one a head; left out, that for 256 keys.

    Attributes:
        bias: learned; float32, shape (heads,), or () where shared. Keep it out of weight decay.
    """

    spec: Sigmoid

    def __init__(
        self,
        spec: Sigmoid,
        heads: int | None = None,
        mode: str = "float",
        bias: float | Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__(spec, heads, mode)
        number = spec.start(DEFAULT_KEYS)["bias"] if bias is None else bias
        value = torch.as_tensor(number, dtype=torch.float64).detach()
        shape = (heads,) if heads is not None and spec.share == "head" else ()
        if value.ndim and value.shape != shape:
            raise ValueError(f"bias is a number, or of shape {shape}, not {tuple(value.shape)}")
        if not value.isfinite().all():
            raise ValueError(f"Sigmoid takes a finite bias, such as -log(512) = -6.24, not {number}")
        self.bias = nn.Parameter(value.expand(shape).float().clone())

    @property
    def per_head(self) -> bool:
        """Is there a bias for each head?"""
        return self.bias.ndim == 1

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Compute the sigmoid."""
        bias = self.bias.to(scores.dtype)
        return torch.where(attended, torch.sigmoid(scores + (bias[:, None, None] if self.per_head else bias)), 0.0)

    def learned(self, numbers: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the bias."""
        return {key: x.float().expand(self.bias.shape) for key, x in numbers.items()}

    def nan_reach(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Return what becomes NaN: NaN itself, since no element knows of another."""
        return scores.isnan() & attended

    def build_constants(self) -> Constants:
        """Build the constants of each head, or of the layer."""
        if not self.per_head:
            return self.spec.constants(bias=self.bias.item())
        return SigmoidConstants.stack([self.spec.constants(bias=bias) for bias in self.bias.tolist()])

    def integer_call(self, constants: Any) -> CodeTableCall:
        """Return the table of all score codes."""
        return code_table_call(self.spec, constants)

    def calibrator(self) -> LogSumCalibrator | None:
        """Return what sets the bias to minus the mean log-sum of exact softmax; None where it is that of the length."""
        if self.spec.bias == "length":
            return None
        return LogSumCalibrator(self, lambda mean: {"bias": -mean})
