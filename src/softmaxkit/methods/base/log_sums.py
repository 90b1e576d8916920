"""Mean log-sum-exp of rows, for methods that replace the row sum of softmax with a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.methods.base.rows import by_head, masked_softmax

if TYPE_CHECKING:
    from softmaxkit.methods.base.module import SoftmaxModule


class LogSumCalibrator:
    """Collects the geometric mean of the rows' denominators, per head or over all heads.

    An arithmetic mean would be dominated by a few outlier rows. The model still has to be fine-tuned, because
    denominators differ between rows by orders of magnitude.

    Args:
        module: the module of one layer.
        adopted: maps the mean log-sums, float64 of shape (heads,), or () if heads share one, to what
            `SoftmaxModule.adopt` takes.
    """

    def __init__(self, module: SoftmaxModule, adopted: Callable[[Tensor], dict[str, Any]]) -> None:
        self.module, self.adopted = module, adopted
        self.total: Tensor | float = 0.0
        self.rows: Any = 0.0

    def observe(self, scores: Tensor, attended: Tensor, values: Tensor | None = None) -> Tensor:
        """Accumulate the log-sums of these rows; return exact softmax, with which the model continues."""
        row = attended.any(dim=-1, keepdim=True)
        log_sum = torch.where(attended, scores, -torch.inf).logsumexp(dim=-1, keepdim=True)
        self.total = self.total + by_head(torch.where(row, log_sum, 0.0), self.module.per_head).double().sum(dim=1)
        self.rows = self.rows + by_head(row, self.module.per_head).double().sum(dim=1)
        return masked_softmax(scores, attended)

    def finish(self) -> dict[str, Any]:
        """Return the results for `SoftmaxModule.adopt`.

        Raises:
            ValueError: nothing was observed, or no row of some head had an attended key.
        """
        if not isinstance(self.total, Tensor) or not self.rows.all():
            raise ValueError("conversion saw no scores; pass at least one batch")
        mean = self.total / self.rows
        return self.adopted(mean if self.module.per_head else mean[0])
