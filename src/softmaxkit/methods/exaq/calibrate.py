"""Calibration of EXAQ: the clip by the paper's fits, by NAIVE, or by search; and the score scale."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.methods.base.rows import by_head, distance_to_maximum, masked_softmax, some_rows

if TYPE_CHECKING:
    from softmaxkit.methods.exaq.spec import Exaq

GAUSSIAN_FIT = {2: (-1.66, -1.85), 3: (-1.75, -2.06), 4: (-1.83, -2.27)}
"""Clip = slope * sigma + offset, by bits (the paper's published code)."""
LAPLACE_FIT = {2: (-4.01, -1.77), 4: (-6.82, -0.15)}
"""Clip = slope * mean absolute deviation + offset, by bits (likewise)."""

CANDIDATES = [-0.5 * step for step in range(2, 41)]
"""Clips that a search tries: -1 to -20."""


class ExaqCalibrator:
    """Gathers what the clips need to know of a layer, or of each of its heads.

    Attributes:
        clips, spreads: summed over batches, one a part; a part is the layer, or a head of it.
        batches: in which a part had scores.
        smallest: `score - maximum` that was seen.
        largest_score: magnitude of the scores themselves.
        errors: of each candidate, (candidates, parts).
    """

    def __init__(self, spec: Exaq, heads: int | None = None) -> None:
        self.spec, self.heads = spec, heads
        parts = heads or 1
        self.clips, self.spreads, self.batches, self.smallest, self.largest_score = torch.zeros(
            (5, parts), dtype=torch.float64
        ).unbind()
        self.errors = torch.zeros((len(CANDIDATES), parts), dtype=torch.float64)

    def observe(self, scores: Tensor, attended: Tensor, values: Tensor | None = None) -> Tensor:
        """Take in one batch; the model goes on with exact softmax.

        Raises:
            ValueError: the clip is searched on attention's output, and there are no values.
        """
        exact = masked_softmax(scores, attended)
        if attended.any():
            self._fit(scores, attended)
            if self.spec.clip == "searched":
                self._search(scores, attended, exact, None)
            elif self.spec.clip == "output":
                if values is None:
                    raise ValueError(
                        "Exaq.clip='output' is searched on attention's output, which takes its values: calibrate a "
                        "model with softmaxkit.calibrate, or take clip='searched'"
                    )
                self._search(scores, attended, exact, values.to(scores.dtype))
        return exact

    def finish(self) -> dict[str, Any]:
        """Return `clip`, and `scale` where it is calibrated, one or one a head; and `statistics` of `score - maximum`.

        These are `spread`, the standard deviation (the mean absolute deviation with the Laplace clip), of heads the
        mean; `smallest`; and `largest_score`, of the scores themselves.
        """
        if not self.batches.all():
            raise ValueError("calibration saw no scores; give it at least one batch")
        smallest = self.smallest.clamp(max=-(2.0**-8))  # rows of equal scores only: any clip serves
        best = torch.tensor(CANDIDATES, dtype=torch.float64)[self.errors.argmin(dim=0)]
        clip = {"naive": smallest, "searched": best, "output": best}.get(self.spec.clip, self.clips / self.batches)
        numbers = {"clip": torch.maximum(clip, smallest)}
        if self.spec.scale == "calibrated":
            numbers["scale"] = self.largest_score.clamp(min=2.0**-8) / self.spec.score_range()[1]
        statistics = {
            "spread": (self.spreads / self.batches).mean().item(),
            "smallest": self.smallest.min().item(),
            "largest_score": self.largest_score.max().item(),
        }
        found = {key: x.tolist() if self.heads else x.item() for key, x in numbers.items()}
        return found | {"statistics": statistics}

    def _by_part(self, values: Tensor) -> Tensor:
        return by_head(values, self.heads is not None)

    def _fit(self, scores: Tensor, attended: Tensor) -> None:
        """Add the clips that the paper's fit gives for one batch, and what else is seen in it."""
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
        """Add each candidate's error over some rows: of the probabilities, or, with values, of attention's output."""
        scores, attended, exact = (some_rows(x).contiguous() for x in (scores, attended, exact))
        of_layer = replace(self.spec, share="layer")
        for index, clip in enumerate(CANDIDATES):
            difference = of_layer.module(clip=clip)(scores, attended) - exact
            if values is None:
                error = difference.abs().sum(dim=-1, keepdim=True)
            else:
                error = torch.linalg.vector_norm(difference @ values, dim=-1, keepdim=True)
            self.errors[index] += self._by_part(error).sum(dim=1).double().cpu()
