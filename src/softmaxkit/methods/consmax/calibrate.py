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
"""Range of the candidate score scales at 8 bits, as log2; at 16 bits they are 256 times finer."""
FEW_SCORES = 1 << 20
"""Largest batch, in scores, of which all rows are evaluated; beyond, one row in four and each head's largest score."""


class ConSmaxCalibrator:
    """Searches a grid of score scales for the one with the least squared error of the probabilities, for each head.

    A scale at which a head's largest score saturates has most of its error there, so the row of that score is always
    evaluated.
    """

    def __init__(self, module: ConSmaxModule) -> None:
        self.module = module
        self.scales = scale_grid(module.spec)
        self.errors: list[Tensor] = []
        self.largest: Tensor | None = None

    def observe(self, scores: Tensor, attended: Tensor, values: Tensor | None = None) -> Tensor:
        """Accumulate the error of each scale on these scores; return ConSmax in float, used to continue the model."""
        probabilities = self.module.float_forward(scores, attended)
        largest = by_head(probabilities, self.module.per_head).double().amax(dim=1)
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)
        if scores.numel() <= FEW_SCORES:
            self.errors.append(self._errors(scores, attended, probabilities))
        else:
            self.errors.append(self._errors(*(some_rows(tensor) for tensor in (scores, attended, probabilities))))
            self.errors.append(self._errors(*_largest_rows(scores, attended, probabilities)))
        return probabilities

    def _errors(self, scores: Tensor, attended: Tensor, truth: Tensor) -> Tensor:
        """Return the sum of squared errors of each scale, (scales, heads or 1)."""
        low, high = self.module.spec.score_range()
        errors = []
        for scale in self.scales:
            coded = torch.clamp(torch.round(scores / scale), low, high) * scale
            error = (self.module.float_forward(coded, attended) - truth).square()
            errors.append(by_head(error, self.module.per_head).double().sum(dim=1))
        return torch.stack(errors)

    def finish(self) -> dict[str, Any]:
        """Return `scale` and `largest`, with one entry per head if the module has parameters per head.

        Raises:
            ValueError: nothing was observed.
        """
        if self.largest is None:
            raise ValueError("calibration saw no scores; pass at least one batch")
        best = torch.stack(self.errors).sum(dim=0).argmin(dim=0)
        results = {"scale": [self.scales[index] for index in best.tolist()], "largest": self.largest.tolist()}
        return results if self.module.per_head else {key: values[0] for key, values in results.items()}


def _largest_rows(scores: Tensor, attended: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Select the row with the largest score of each head: (..., heads, queries, keys) to (heads, 1, keys)."""

    def rows(values: Tensor) -> Tensor:
        return values.movedim(-3, 0).flatten(1, -2) if values.ndim > 2 else values.reshape(1, -1, values.shape[-1])

    best = torch.where(rows(attended), rows(scores), -torch.inf).amax(dim=-1).argmax(dim=-1)
    return tuple(  # type: ignore[return-value]
        rows(values).take_along_dim(best[:, None, None], dim=1) for values in (scores, attended, truth)
    )


def scale_grid(spec: ConSmax) -> list[float]:
    """Return the candidate score scales; tables="shift" has exactly one."""
    if spec.tables == "shift":
        return [spec.default_scale]
    low, high = SCALE_OCTAVES
    octaves = torch.arange(low * STEPS_PER_OCTAVE, high * STEPS_PER_OCTAVE + 1) / STEPS_PER_OCTAVE
    return [2.0 ** (octave - (spec.bits - 8)) for octave in octaves.tolist()]
