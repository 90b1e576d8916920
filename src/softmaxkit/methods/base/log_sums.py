"""What the rows of exact softmax sum to on average, for methods with a constant in place of the sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.methods.base.rows import by_head, masked_softmax

if TYPE_CHECKING:
    from softmaxkit.methods.base.module import SoftmaxModule


class LogSumCalibrator:
    """Gathers the geometric mean of the rows' denominators, of each head or of all.

    The arithmetic mean would be ruled by a few outlier rows. A model still has to be fine-tuned: denominators differ
    from row to row by orders of magnitude.

    Args:
        module: of a layer.
        adopted: turns the mean log-sums, float64, (heads,) or () where all heads share, into what the module adopts.
    """

    def __init__(self, module: SoftmaxModule, adopted: Callable[[Tensor], dict[str, Any]]) -> None:
        self.module, self.adopted = module, adopted
        self.total: Tensor | float = 0.0
        self.rows: Any = 0.0

    def observe(self, scores: Tensor, attended: Tensor, values: Tensor | None = None) -> Tensor:
        """Add the log-sums of these rows; the model goes on with exact softmax."""
        row = attended.any(dim=-1, keepdim=True)
        log_sum = torch.where(attended, scores, -torch.inf).logsumexp(dim=-1, keepdim=True)
        self.total = self.total + by_head(torch.where(row, log_sum, 0.0), self.module.per_head).double().sum(dim=1)
        self.rows = self.rows + by_head(row, self.module.per_head).double().sum(dim=1)
        return masked_softmax(scores, attended)

    def finish(self) -> dict[str, Any]:
        """Return what the module adopts."""
        if not isinstance(self.total, Tensor) or not self.rows.all():
            raise ValueError("conversion saw no scores; give it at least one batch")
        mean = self.total / self.rows
        return self.adopted(mean if self.module.per_head else mean[0])
