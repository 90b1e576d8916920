"""Softmax of rows as a call: which operator, its arguments, and which kinds of kernels support it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor

from softmaxkit.kernels import operators
from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.backends import Support
from softmaxkit.kernels.launch import DTYPES, run_heads
from softmaxkit.kernels.rows import are_exponentials, are_few_levels


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

    @classmethod
    def of_attention(cls, call: AttentionCall) -> RowCall:
        """Return what computes the weights of attention, unless these are softmax."""
        if call.form == "levels":
            kernel = "levels" if all(map(are_few_levels, call.entries)) else "level_table"
            heads = tuple(cls(kernel, (clip, list(x))) for clip, x in zip(call.clips, call.entries, strict=True))
            return heads[0] if len(heads) == 1 else cls(kernel, heads=heads)
        assert call.offset is not None
        if call.form == "exponential":
            return cls("exponential", (call.offset, call.limit, math.e))
        return cls("logistic", (-call.offset,))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors among the arguments, which may require gradients."""
        return tuple(x for x in self.arguments if isinstance(x, Tensor))

    def of_heads(self, heads: slice) -> RowCall:
        """Return the call for some of the heads."""
        if self.heads:
            chosen = self.heads[heads]
            return chosen[0] if len(chosen) == 1 else self._replace(heads=chosen)
        chosen_arguments = (x[heads] if isinstance(x, Tensor) and x.ndim else x for x in self.arguments)
        return self._replace(arguments=tuple(chosen_arguments))

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
