"""Calibration of ConSmax: the score scale and the output range of each head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from softmaxkit.methods.consmax.module import ConSmaxModule

STEPS_PER_OCTAVE = 4
SCALE_OCTAVES = (-9, 1)
"""Score scales that are tried at 8 bits, as powers of two; at 16 bits 256 times as fine."""


class ConSmaxCalibrator:
    """Tries a grid of score scales and takes, for each head, the one of least squared error of the probabilities."""

    def __init__(self, module: ConSmaxModule) -> None:
        self.module = module
        low, high = SCALE_OCTAVES
        octaves = torch.arange(low * STEPS_PER_OCTAVE, high * STEPS_PER_OCTAVE + 1) / STEPS_PER_OCTAVE
        self.scales = [2.0 ** (octave - (module.spec.bits - 8)) for octave in octaves.tolist()]
        self.errors: list[Tensor] = []
        self.largest: Tensor | None = None

    def observe(self, scores: Tensor, attended: Tensor) -> None:
        """Add the error of each scale on these scores."""
        truth = self.module.float_forward(scores, attended)
        low, high = self.module.spec.score_range()
        errors = []
        for scale in self.scales:
            coded = torch.clamp(torch.round(scores / scale), low, high) * scale
            errors.append(self._reduce((self.module.float_forward(coded, attended) - truth).square(), torch.sum))
        self.errors.append(torch.stack(errors))
        largest = self._reduce(truth, torch.amax)
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)

    def _reduce(self, values: Tensor, reduction: Any) -> Tensor:
        """Reduce all but the heads, to shape (heads,) or (1,)."""
        rows = values.movedim(-3, 0).flatten(1) if self.module.per_head else values.reshape(1, -1)
        reduced: Tensor = reduction(rows.double(), dim=1)
        return reduced

    def finish(self) -> dict[str, Any]:
        """Return `scale` and `largest`, one a head."""
        if self.largest is None:
            raise ValueError("calibration saw no scores; give it at least one batch")
        best = torch.stack(self.errors).sum(dim=0).argmin(dim=0)
        found = {"scale": [self.scales[index] for index in best.tolist()], "largest": self.largest.tolist()}
        return found if self.module.per_head else {key: values[0] for key, values in found.items()}
