"""Count the scores of a layer that lie outside the range of its score codes, and so saturate in integer mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import attended_keys, some_rows
from softmaxkit.methods.base.spec import Spec
from softmaxkit.warning import warn

ALLOWED_PERCENT = 0.01
"""A layer with a higher percentage of saturated scores causes a warning."""

UNREACHED = 1e4
"""Scores of real models stay below this; if the codes reach it, no score can saturate and none is counted."""

CUT = 18
"""Low bits of a float32 dropped to get its histogram bin. With the 32 bins that remain for each power of two, a score
up to 3% beyond its limit may not yet count as saturated."""
BINS = 1 << (31 - CUT)
"""Bins for each sign."""

COUNTED_SCORES = 1 << 22
"""A call with more scores than this is sampled: only some of its rows are counted."""


class Magnitudes:
    """A histogram of a layer's scores by head, sign and magnitude, which can be compared with any limits later."""

    def __init__(self) -> None:
        self.counts: Tensor | None = None
        """(heads, 2, bins): positive scores, then negative ones; masked scores count as 0."""
        self.attended = 0
        """Number of scores counted that are not masked."""

    def add(self, scores: Tensor, mask: Tensor | None) -> None:
        """Add scores, (batch, heads, queries, keys), with their mask."""
        attended = attended_keys(scores, mask)
        if scores.numel() > COUNTED_SCORES:
            scores, attended = (some_rows(values, COUNTED_SCORES) for values in (scores, attended))
        self.attended += int(attended.sum())
        bits = torch.where(attended, scores.detach().float(), 0.0).movedim(1, 0).contiguous().view(torch.int32)
        bins = (bits >> CUT) & (2 * BINS - 1)
        counts = torch.stack([torch.bincount(head.flatten(), minlength=2 * BINS) for head in bins])
        counts = counts.reshape(-1, 2, BINS).cpu()
        self.counts = counts if self.counts is None else self.counts + counts

    def percent_beyond(self, low: Any, high: Any) -> float:
        """Return the percentage of scores outside two limits, each a number or one per head; 0 without any scores."""
        if self.counts is None or not self.attended:
            return 0.0
        edges = (torch.arange(BINS, dtype=torch.int32) << CUT).view(torch.float32).double().nan_to_num(torch.inf)
        limits = [torch.as_tensor(limit, dtype=torch.float64).abs().reshape(-1, 1) for limit in (high, low)]
        beyond = sum(
            (self.counts[:, sign] * (edges > limit * (1 + 1e-6))).sum().item() for sign, limit in enumerate(limits)
        )
        return 100 * beyond / self.attended


def may_saturate(module: SoftmaxModule) -> bool:
    """Return whether real scores can exceed a module's codes; True before calibration, when that is unknown."""
    try:
        low, high = module.spec.score_limits(module.constants)
    except ValueError:
        return True
    return bool(torch.as_tensor([low, high]).abs().min() < UNREACHED)


def report(modules: Mapping[str, SoftmaxModule], seen: Mapping[str, Magnitudes], fitted: set[str]) -> None:
    """Put `saturated_scores_percent` into the statistics of modules that ran, and warn once if it is high in any.

    Args:
        modules: calibrated modules, by layer.
        seen: the histogram of each layer's scores.
        fitted: layers whose score scale was fitted to these scores, and may clip some of them deliberately.
    """
    excessive = {}
    for name, module in modules.items():
        if name not in seen or not seen[name].attended:
            continue
        percent = seen[name].percent_beyond(*module.spec.score_limits(module.constants))
        module.statistics = {**module.statistics, "saturated_scores_percent": percent}
        if percent > ALLOWED_PERCENT and name not in fitted:
            excessive[name] = percent
    if excessive:
        worst = max(excessive, key=lambda name: excessive[name])
        spec = modules[worst].spec
        high = float(torch.as_tensor(spec.score_limits(modules[worst].constants)[1]).max())
        warn(
            f"{excessive[worst]:.2g}% of the scores of {worst} are outside the range of {spec.title}'s score codes, "
            f"about ±{high:g}; in {len(excessive)} of {len(modules)} layers it is more than {ALLOWED_PERCENT}%. These "
            f"scores saturate in integer mode: {_remedy(spec)}. The percentage of each layer is in "
            "softmaxkit.layers(model)[name].statistics"
        )


def _remedy(spec: Spec) -> str:
    """Return what to do about saturated scores."""
    specs = [_changes(spec, other) for other in spec.reaching_further()]
    if not specs:
        return "use another form of the method, with a wider range of scores"
    return f"use {', or '.join(specs)}, and calibrate again"


def _changes(spec: Spec, other: Spec) -> str:
    """Return a spec as code, with only the fields that differ from another one, e.g. `Exaq(scale='calibrated')`."""
    changed = ", ".join(f"{name}={getattr(other, name)!r}" for name in other.differing_fields(spec))
    return f"{type(other).__name__}({changed})"
