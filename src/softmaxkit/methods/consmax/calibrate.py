"""Calibration of ConSmax: score scale and output range of each head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softmaxkit.methods.base.rows import by_head, some_rows

if TYPE_CHECKING:
    from softmaxkit.methods.consmax.module import ConSmaxModule
    from softmaxkit.methods.consmax.spec import ConSmax

STEPS_PER_OCTAVE = 4
SCALE_OCTAVES = (-9, 1)
"""Score scales that are tried at 8 bits, as powers of two; at 16 bits 256 times as fine."""
FEW_SCORES = 1 << 20
"""Up to so many scores of a batch, all its rows count; of more, one row in four, and those of the largest scores."""


class ConSmaxCalibrator:
    """Tries a grid of score scales and takes, for each head, the one of least squared error of the probabilities.

    A scale that cuts off a head's largest score has most of its error there: the row of it always counts.
    """

    def __init__(self, module: ConSmaxModule) -> None:
        self.module = module
        self.scales = scale_grid(module.spec)
        self.errors: list[Tensor] = []
        self.largest: Tensor | None = None

    def observe(self, scores: Tensor, attended: Tensor, values: Tensor | None = None) -> Tensor:
        """Add the error of each scale on these scores; the model goes on with ConSmax in float."""
        given = self.module.float_forward(scores, attended)
        largest = by_head(given, self.module.per_head).double().amax(dim=1)
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)
        if scores.numel() <= FEW_SCORES:
            self.errors.append(self._errors(scores, attended, given))
        else:
            self.errors.append(self._errors(*(some_rows(values) for values in (scores, attended, given))))
            self.errors.append(self._errors(*_largest_rows(scores, attended, given)))
        return given

    def _errors(self, scores: Tensor, attended: Tensor, truth: Tensor) -> Tensor:
        """Return the summed squared error of each scale, (scales, heads)."""
        low, high = self.module.spec.score_range()
        errors = []
        for scale in self.scales:
            coded = torch.clamp(torch.round(scores / scale), low, high) * scale
            error = (self.module.float_forward(coded, attended) - truth).square()
            errors.append(by_head(error, self.module.per_head).double().sum(dim=1))
        return torch.stack(errors)

    def finish(self) -> dict[str, Any]:
        """Return `scale` and `largest`, one a head."""
        if self.largest is None:
            raise ValueError("calibration saw no scores; give it at least one batch")
        best = torch.stack(self.errors).sum(dim=0).argmin(dim=0)
        found = {"scale": [self.scales[index] for index in best.tolist()], "largest": self.largest.tolist()}
        return found if self.module.per_head else {key: values[0] for key, values in found.items()}


def _largest_rows(scores: Tensor, attended: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows of the largest score of each head, (heads, 1, keys), of scores (..., heads, queries, keys)."""

    def rows(values: Tensor) -> Tensor:
        return values.movedim(-3, 0).flatten(1, -2) if values.ndim > 2 else values.reshape(1, -1, values.shape[-1])

    best = torch.where(rows(attended), rows(scores), -torch.inf).amax(dim=-1).argmax(dim=-1)
    return tuple(  # type: ignore[return-value]
        rows(values).take_along_dim(best[:, None, None], dim=1) for values in (scores, attended, truth)
    )


def scale_grid(spec: ConSmax) -> list[float]:
    """Return the score scales to try; tables="shift" has one alone."""
    if spec.tables == "shift":
        return [spec.default_scale]
    low, high = SCALE_OCTAVES
    octaves = torch.arange(low * STEPS_PER_OCTAVE, high * STEPS_PER_OCTAVE + 1) / STEPS_PER_OCTAVE
    return [2.0 ** (octave - (spec.bits - 8)) for octave in octaves.tolist()]
