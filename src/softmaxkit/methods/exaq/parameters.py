"""The real parameters of an EXAQ layer or head, from calibration: which there are, and what they may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from softmaxkit.tables import constant, heads_of

PARAMETERS = ("clip", "scale")

GAUSSIAN_FIT = {2: (-1.66, -1.85), 3: (-1.75, -2.06), 4: (-1.83, -2.27)}
"""Clip = slope * sigma + offset, by bits (from the paper's published code)."""
LAPLACE_FIT = {2: (-4.01, -1.77), 4: (-6.82, -0.15)}
"""Clip = slope * mean absolute deviation + offset, by bits (from the paper's published code)."""

SAMPLE_CLIPS = {2: -2.5, 3: -3.0, 4: -3.5}
"""Sample clips by bits, in standard deviations of the scores: roughly those of the paper's analysis."""


def required_clip(parameters: Mapping[str, Any]) -> float:
    """Return the clip from the parameters.

    Raises:
        ValueError: it is missing, or not negative and finite, or there is one per head.
    """
    clip = parameters.get("clip")
    if clip is None:
        raise ValueError(
            "Exaq requires clip: run softmaxkit.calibrate(model, batches) first, or pass one, e.g. clip=-6.0"
        )
    if (heads := heads_of(clip)) is not None:
        raise ValueError(f"clip must be a single number here, got one for each of {heads} heads")
    clip = constant(clip)
    if not (math.isfinite(clip) and clip < 0):
        raise ValueError(f"the clip of Exaq must be negative and finite, such as -6.0, got {clip}")
    return clip
