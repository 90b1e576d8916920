"""Calibration of EXAQ: the clip by the paper's fits, NAIVE or search, and the score scale."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.methods.base.rows import by_head, distance_to_maximum, masked_softmax, some_rows
from softmaxkit.methods.exaq.parameters import GAUSSIAN_FIT, LAPLACE_FIT

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.module import ExaqModule
    from softmaxkit.methods.exaq.spec import Exaq

CANDIDATES = [-0.5 * step for step in range(2, 41)]
"""Candidate clips of a search: -1 to -20."""


class ExaqCalibrator:
    """Collects the statistics that determine the clip of a layer, or of each of its heads.

    All attributes are float64 on the CPU, with one entry per part; a part is the whole layer or one head.

    Attributes:
        clips, spreads: sums over batches of the fitted clip and of the spread, (parts,).
        batches: number of batches with scores, (parts,).
        smallest: smallest `score - maximum` observed, (parts,).
        largest_score: largest magnitude of a score, (parts,).
        errors: summed error of each candidate clip, (candidates, parts).
    """

    def __init__(self, spec: Exaq, heads: int | None = None) -> None:
        self.spec, self.heads = spec, heads
        parts = heads or 1
        self.clips, self.spreads, self.batches, self.smallest, self.largest_score = torch.zeros(
            (5, parts), dtype=torch.float64
        ).unbind()
        self.errors = torch.zeros((len(CANDIDATES), parts), dtype=torch.float64)

    def observe(self, scores: Tensor, attended: Tensor, values: Tensor | None = None) -> Tensor:
        """Observe one batch; return exact softmax, with which the model continues.

        Raises:
            ValueError: clip="output" without values.
        """
        exact = masked_softmax(scores, attended)
        if attended.any():
            self._fit(scores, attended)
            if self.spec.clip == "searched":
                self._search(scores, attended, exact, None)
            elif self.spec.clip == "output":
                if values is None:
                    raise ValueError(
                        "Exaq.clip='output' is searched on the attention output and requires values: calibrate a model "
                        "with softmaxkit.calibrate, or use clip='searched'"
                    )
                self._search(scores, attended, exact, values.to(scores.dtype))
        return exact

    def finish(self) -> dict[str, Any]:
        """Return `clip`, `scale` if it is calibrated, and `statistics`.

        Clip and scale are single numbers, or lists with one per head. The statistics are `spread`, the standard
        deviation of `score - maximum` (the mean absolute deviation with the Laplace clip), averaged over heads;
        `smallest`, its minimum; and `largest_score`, the largest magnitude of a score.

        Raises:
            ValueError: nothing was observed, or some head had no attended scores.
        """
        if not self.batches.all():
            raise ValueError("calibration saw no scores; pass at least one batch")
        smallest = self.smallest.clamp(max=-(2.0**-8))  # 0 if all rows have equal scores; then any clip will do
        best = torch.tensor(CANDIDATES, dtype=torch.float64)[self.errors.argmin(dim=0)]
        clip = {"naive": smallest, "searched": best, "output": best}.get(self.spec.clip, self.clips / self.batches)
        calibrated = {"clip": torch.maximum(clip, smallest)}
        if self.spec.scale == "calibrated":
            calibrated["scale"] = self.largest_score.clamp(min=2.0**-8) / self.spec.score_range()[1]
        statistics = {
            "spread": (self.spreads / self.batches).mean().item(),
            "smallest": self.smallest.min().item(),
            "largest_score": self.largest_score.max().item(),
        }
        results = {key: x.tolist() if self.heads else x.item() for key, x in calibrated.items()}
        return results | {"statistics": statistics}

    @cached_property
    def _candidates(self) -> list[ExaqModule]:
        """A module with each candidate clip."""
        of_layer = replace(self.spec, share="layer")
        return [of_layer.module(clip=clip) for clip in CANDIDATES]

    def _by_part(self, values: Tensor) -> Tensor:
        return by_head(values, self.heads is not None)

    def _fit(self, scores: Tensor, attended: Tensor) -> None:
        """Accumulate the clips of the paper's fit for one batch, and its other statistics."""
        distance = self._by_part(distance_to_maximum(scores, attended))  # 0 where not attended
        seen = self._by_part(attended)
        count = seen.sum(dim=1).double()
        used = count > 0
        count = count.clamp(min=1)
        mean = distance.sum(dim=1, dtype=torch.float64) / count
        if self.spec.clip == "laplace":
            slope, offset = LAPLACE_FIT[self.spec.bits]
            deviation = torch.where(seen, (distance - mean[:, None]).abs(), 0.0)
            spread = deviation.sum(dim=1, dtype=torch.float64) / count
        else:
            slope, offset = GAUSSIAN_FIT[self.spec.bits]
            square = torch.linalg.vector_norm(distance, dim=1, dtype=torch.float64).square() / count
            spread = (square - mean.square()).clamp(min=0.0).sqrt()
        self.clips += torch.where(used, slope * spread + offset, 0.0).cpu()
        self.spreads += torch.where(used, spread, 0.0).cpu()
        self.batches += used.cpu()
        self.smallest = torch.minimum(self.smallest, distance.amin(dim=1).double().cpu())
        largest = self._by_part(torch.where(attended, scores, 0.0)).abs().amax(dim=1)
        self.largest_score = torch.maximum(self.largest_score, largest.double().cpu())

    def _search(self, scores: Tensor, attended: Tensor, exact: Tensor, values: Tensor | None) -> None:
        """Accumulate the error of each candidate over some rows: of the probabilities, or with values of the output."""
        scores, attended, exact = (some_rows(x).contiguous() for x in (scores, attended, exact))
        for index, candidate in enumerate(self._candidates):
            difference = candidate(scores, attended) - exact
            if values is None:
                error = difference.abs().sum(dim=-1, keepdim=True)
            else:
                error = torch.linalg.vector_norm(difference @ values, dim=-1, keepdim=True)
            self.errors[index] += self._by_part(error).sum(dim=1).double().cpu()
