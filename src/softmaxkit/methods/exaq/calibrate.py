"""Calibration of EXAQ: the clip by the paper's fits, by NAIVE, or by search; and the score scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.methods.base.rows import SEARCHED_SCORES, masked_softmax, some_rows

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.spec import Exaq

GAUSSIAN_FIT = {2: (-1.66, -1.85), 3: (-1.75, -2.06), 4: (-1.83, -2.27)}
"""Clip = slope * sigma + offset, by bits (the paper's published code)."""
LAPLACE_FIT = {2: (-4.01, -1.77), 4: (-6.82, -0.15)}
"""Clip = slope * mean absolute deviation + offset, by bits (likewise)."""

CANDIDATES = [-0.5 * step for step in range(2, 33)]
"""Clips that the search tries: -1 to -16."""


class ExaqCalibrator:
    """Gathers what the clips need to know of a layer, or of each of its heads."""

    def __init__(self, spec: Exaq, heads: int | None = None) -> None:
        self.parts = [_Part(spec, SEARCHED_SCORES // (heads or 1)) for _ in range(heads or 1)]
        self.heads = heads

    def observe(self, scores: Tensor, attended: Tensor) -> Tensor:
        """Take in one batch; the model goes on with exact softmax."""
        exact = masked_softmax(scores, attended)
        whole = (scores, attended, exact)
        parts = [whole] if self.heads is None else zip(*(x.unbind(-3) for x in whole), strict=True)
        for part, seen in zip(self.parts, parts, strict=True):
            part.see(*seen)
        return exact

    def finish(self) -> dict[str, Any]:
        """Return `clip`, and `scale` where it is calibrated, one or one a head; and `statistics` of `score - maximum`.

        These are `spread`, the standard deviation (the mean absolute deviation with the Laplace clip), of heads the
        mean; `smallest`; and `largest_score`, of the scores themselves.
        """
        found = [part.finish() for part in self.parts]
        statistics = {
            "spread": sum(part.spread for part in self.parts) / len(self.parts),
            "smallest": min(part.smallest for part in self.parts),
            "largest_score": max(part.largest_score for part in self.parts),
        }
        numbers = {key: [of_part[key] for of_part in found] for key in found[0]}
        return {key: x if self.heads else x[0] for key, x in numbers.items()} | {"statistics": statistics}


class _Part:
    """Gathers, over batches, the mean of the fitted clips, the smallest score, and the error of each candidate."""

    def __init__(self, spec: Exaq, searched: int) -> None:
        self.spec, self.searched = spec, searched
        self.clips: list[float] = []
        self.spreads: list[float] = []
        self.smallest = 0.0
        self.largest_score = 0.0
        self.errors = torch.zeros(len(CANDIDATES), dtype=torch.float64)

    @property
    def spread(self) -> float:
        """The mean spread of the batches."""
        return sum(self.spreads) / len(self.spreads)

    def see(self, scores: Tensor, attended: Tensor, exact: Tensor) -> None:
        """Take in one batch, with its exact probabilities."""
        from softmaxkit.methods.exaq.module import distance_to_maximum

        if not attended.any():
            return
        distance = distance_to_maximum(scores, attended)  # 0 where not attended
        self.smallest = min(self.smallest, distance.min().item())
        self.largest_score = max(self.largest_score, torch.where(attended, scores, 0.0).abs().max().item())
        if self.spec.clip == "laplace":
            slope, offset = LAPLACE_FIT[self.spec.bits]
            seen = distance[attended].double()
            spread = (seen - seen.mean()).abs().mean().item()
        else:
            slope, offset = GAUSSIAN_FIT[self.spec.bits]
            count = int(attended.sum())
            mean = distance.sum(dtype=torch.float64).item() / count
            square = torch.linalg.vector_norm(distance, dtype=torch.float64).item() ** 2 / count
            spread = math.sqrt(max(square - mean**2, 0.0))
        self.spreads.append(spread)
        self.clips.append(slope * spread + offset)
        if self.spec.clip == "searched":
            self._search(*(some_rows(values, self.searched) for values in (distance, attended, exact)))

    def _search(self, distance: Tensor, attended: Tensor, truth: Tensor) -> None:
        """Add each candidate's summed absolute error of the probabilities."""
        for index, clip in enumerate(CANDIDATES):
            step = -clip / (self.spec.levels - 1)
            coded = torch.round((distance.clamp(min=clip) - clip) / step) * step
            self.errors[index] += (masked_softmax(coded, attended) - truth).abs().sum().double().cpu()

    def finish(self) -> dict[str, float]:
        """Return `clip`, and `scale` where it is calibrated."""
        if not self.clips:
            raise ValueError("calibration saw no scores; give it at least one batch")
        smallest = min(self.smallest, -(2.0**-8))  # rows of equal scores only: any clip serves
        fitted = sum(self.clips) / len(self.clips)
        clip = {
            "naive": smallest,
            "searched": max(CANDIDATES[int(self.errors.argmin())], smallest),
        }.get(self.spec.clip, max(fitted, smallest))
        if self.spec.scale == "format":
            return {"clip": clip}
        return {"clip": clip, "scale": max(self.largest_score, 2.0**-8) / self.spec.score_range()[1]}
