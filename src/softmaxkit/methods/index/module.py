"""The torch module of IndexSoftmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import masked_softmax, quantised_distance

if TYPE_CHECKING:
    from softmaxkit.methods.index.spec import Index


class IndexModule(SoftmaxModule):
    """Computes softmax of the rounded distance to the row's maximum, 0 at the clip, or in integer mode the integers.

    Gradients pass straight through the rounding, but not at the clip, where results are 0, and treat the row's maximum
    as a constant. In integer mode, scores whose code saturates get no gradient either.
    """

    spec: Index

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Round with a straight-through gradient, then apply softmax to the keys that are not at the clip."""
        quantised, is_above = quantised_distance(scores, attended, -self.spec.clip, self.spec.levels)
        invalid = quantised.isnan().any(dim=-1, keepdim=True)  # the whole row becomes NaN
        return masked_softmax(quantised, attended & (is_above | invalid))
