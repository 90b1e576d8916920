"""Calibration of EXAQ: the clip by the paper's fits, by NAIVE, or by search; and the score scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.methods.base.rows import masked_softmax, some_rows

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.spec import Exaq

GAUSSIAN_FIT = {2: (-1.66, -1.85), 3: (-1.75, -2.06), 4: (-1.83, -2.27)}
"""Clip = slope * sigma + offset, by bits (the paper's published code)."""
LAPLACE_FIT = {2: (-4.01, -1.77), 4: (-6.82, -0.15)}
"""Clip = slope * mean absolute deviation + offset, by bits (likewise)."""

CANDIDATES = [-0.5 * step for step in range(2, 33)]
"""Clips that the search tries: -1 to -16."""


class ExaqCalibrator:
    """Gathers, over batches, the mean of the fitted clips, the smallest score, and the error of each candidate."""

    def __init__(self, spec: Exaq) -> None:
        self.spec = spec
        self.clips: list[float] = []
        self.spreads: list[float] = []
        self.smallest = 0.0
        self.largest_score = 0.0
        self.errors = torch.zeros(len(CANDIDATES), dtype=torch.float64)

    def observe(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Take in one batch; the model goes on with exact softmax."""
        from softmaxkit.methods.exaq.module import distance_to_maximum

        exact = masked_softmax(scores, attended)
        if not attended.any():
            return exact
        distance = distance_to_maximum(scores, attended)
        seen = distance[attended].double()
        self.smallest = min(self.smallest, seen.min().item())
        self.largest_score = max(self.largest_score, scores[attended].abs().max().item())
        if self.spec.clip == "laplace":
            slope, offset = LAPLACE_FIT[self.spec.bits]
            spread = (seen - seen.mean()).abs().mean()
        else:
            slope, offset = GAUSSIAN_FIT[self.spec.bits]
            spread = seen.std(correction=0)
        self.spreads.append(spread.item())
        self.clips.append(slope * spread.item() + offset)
        if self.spec.clip == "searched":
            self._search(some_rows(distance), some_rows(attended), some_rows(exact))
        return exact

    def _search(self, distance: Tensor, attended: Tensor, truth: Tensor) -> None:
        """Add each candidate's summed absolute error of the probabilities."""
        for index, clip in enumerate(CANDIDATES):
            step = -clip / (self.spec.levels - 1)
            coded = torch.round((distance.clamp(min=clip) - clip) / step) * step
            self.errors[index] += (masked_softmax(coded, attended) - truth).abs().sum().double().cpu()

    def finish(self) -> dict[str, Any]:
        """Return `clip`, and `scale` where it is calibrated; and `statistics` of `score - maximum`.

        These are `spread`, the standard deviation (the mean absolute deviation with the Laplace clip); `smallest`; and
        `largest_score`, of the scores themselves.
        """
        if not self.clips:
            raise ValueError("calibration saw no scores; give it at least one batch")
        smallest = min(self.smallest, -(2.0**-8))  # rows of equal scores only: any clip serves
        fitted = sum(self.clips) / len(self.clips)
        clip = {
            "naive": smallest,
            "searched": max(CANDIDATES[int(self.errors.argmin())], smallest),
        }.get(self.spec.clip, max(fitted, smallest))
        spread = sum(self.spreads) / len(self.spreads)
        statistics = {"spread": spread, "smallest": self.smallest, "largest_score": self.largest_score}
        if self.spec.scale == "format":
            return {"clip": clip, "statistics": statistics}
        return {
            "clip": clip,
            "statistics": statistics,
            "scale": max(self.largest_score, 2.0**-8) / self.spec.score_range()[1],
        }
