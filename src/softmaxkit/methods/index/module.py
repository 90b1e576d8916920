"""IndexSoftmax as a torch module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import masked_softmax, quantised_distance

if TYPE_CHECKING:
    from softmaxkit.methods.index.spec import Index


class IndexModule(SoftmaxModule):
    """Softmax of a rounded distance to the row's maximum, 0 at the clip; in integer mode the table.

    Gradients pass straight through the rounding, and not where the result is 0 by the clip; the row's maximum counts
    as a constant. In integer mode the same, and not where a score's code saturates.
    """

    spec: Index

    def float_forward(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Round straight-through, then take softmax of what is not at the clip."""
        quantised, level = quantised_distance(scores, attended, -self.spec.clip, self.spec.levels)
        invalid = quantised.isnan().any(dim=-1, keepdim=True)  # the whole row becomes NaN
        return masked_softmax(quantised, attended & ((level > 0) | invalid))
