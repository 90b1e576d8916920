"""Softmax of rows as a call: which operator, its arguments, and which kinds of kernels support it."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from softmaxkit.kernels import operators
from softmaxkit.kernels.backends import Support
from softmaxkit.kernels.launch import DTYPES, run_heads
from softmaxkit.kernels.rows import are_exponentials


class RowCall(NamedTuple):
    """Softmax of rows by one of `softmaxkit.kernels.operators`.

    Attributes:
        kernel: name of the operator.
        arguments: its arguments between the scores and the mask.
        differentiable: whether the operator has a gradient.
        heads: calls of the same kernel, one per head, which replace `arguments`.
    """

    kernel: str
    arguments: tuple[Any, ...] = ()
    differentiable: bool = True
    heads: tuple[RowCall, ...] = ()

    def run(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run the operator on scores; see `softmaxkit.kernels.rows`."""
        if self.heads:
            return run_heads([call.run for call in self.heads], scores, mask)
        result: Tensor = getattr(operators, self.kernel)(scores, *self.arguments, mask)
        return result

    def support(self, kind: str) -> Support | None:
        """Return what the row kernels support, see `backends.Call`."""
        if kind == "native" and self.kernel in NATIVE_OPERATORS:
            return Support(DTYPES, self.differentiable, traceable=True)
        if kind == "triton" and self.kernel in TRITON_OPERATORS:
            by_levels = self.kernel in ("levels", "level_table")
            if by_levels and not all(are_exponentials(*call.arguments) for call in self.heads or (self,)):
                return None
            return Support(DTYPES, self.differentiable)
        return None


TRITON_OPERATORS = ("softmax", "softmax_to_base", "exponential", "logistic", "levels", "level_table")
NATIVE_OPERATORS = (*TRITON_OPERATORS, "topk")
"""The operators of rows that have kernels of each kind."""
