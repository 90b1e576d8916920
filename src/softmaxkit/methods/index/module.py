"""The torch module of IndexSoftmax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.kernels.attention import MOST_LEVELS, AttentionCall
from softmaxkit.kernels.integers import IntegerCall
from softmaxkit.kernels.row_call import RowCall
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import masked_softmax, quantised_distance
from softmaxkit.methods.index.kernels import integer_call

if TYPE_CHECKING:
    from softmaxkit.methods.index.spec import Index


class IndexModule(SoftmaxModule):
    """Computes softmax of the rounded distance to the row's maximum, 0 at the clip, or in integer mode the integers.

    Gradients pass straight through the rounding, but not at the clip, where results are 0, and treat the row's maximum
    as a constant. In integer mode, scores whose code saturates get no gradient either.
    """

    spec: Index

    def row_call(self, device: torch.device) -> RowCall:
        """Return the kernel of a table by levels."""
        return RowCall("level_table", (-float(self.spec.clip), list(self.spec.powers)))

    def attention_call(self, **learned: Tensor) -> AttentionCall | None:
        """Return attention with a table by levels; None with more of them than 8-bit products tell apart."""
        if self.spec.levels > MOST_LEVELS:
            return None
        return AttentionCall.by_levels(-float(self.spec.clip), self.spec.powers)

    def integer_call(self, constants: Any) -> IntegerCall | None:
        """Return the kernel of the integer form."""
        return integer_call(self.spec, constants)

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Round with a straight-through gradient, then apply softmax to the keys that are not at the clip."""
        quantised, is_above = quantised_distance(scores, attended, -self.spec.clip, self.spec.levels)
        invalid = quantised.isnan().any(dim=-1, keepdim=True)  # the whole row becomes NaN
        return masked_softmax(quantised, attended & (is_above | invalid))
