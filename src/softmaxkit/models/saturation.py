"""How many scores of a layer are beyond what its score codes can say, so that they saturate in integer mode."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.methods.base.rows import attended_keys, some_rows
from softmaxkit.methods.base.spec import Spec

ALLOWED_PERCENT = 0.01
"""More saturated scores than these, of a layer's, are warned of."""

UNREACHED = 1e4
"""Scores of real models stay below: with codes that reach it, there is nothing to count."""

CUT = 18
"""Bits of a float32 that are cut off for its bin, sign first: 32 bins a doubling, so that a score counts as saturated
where it is more than 3% beyond its limit."""
BINS = 1 << (31 - CUT)
"""Bins of either sign."""

COUNTED_SCORES = 1 << 22
"""Scores of a call that are all counted; of more, those of some rows are."""


class Magnitudes:
    """Counts a layer's scores by head, sign and magnitude, so that any limits can be asked for afterwards."""

    def __init__(self) -> None:
        self.counts: Tensor | None = None
        """(heads, 2, bins): positive scores, then negative ones; what is masked counts as 0."""
        self.attended = 0
        """Scores that were counted: those that are not masked."""

    def add(self, scores: Tensor, mask: Tensor | None) -> None:
        """Take in scores, (batch, heads, queries, keys), and what is masked of them."""
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
        """Return how many scores are beyond two limits, numbers or one a head, in percent; 0 where none were seen."""
        if self.counts is None or not self.attended:
            return 0.0
        edges = (torch.arange(BINS, dtype=torch.int32) << CUT).view(torch.float32).double().nan_to_num(torch.inf)
        limits = [torch.as_tensor(limit, dtype=torch.float64).abs().reshape(-1, 1) for limit in (high, low)]
        beyond = sum(
            (self.counts[:, sign] * (edges > limit * (1 + 1e-6))).sum().item() for sign, limit in enumerate(limits)
        )
        return 100 * beyond / self.attended


def may_saturate(module: SoftmaxModule) -> bool:
    """Can real scores be beyond a module's codes? That of one without its calibration has to be seen."""
    try:
        low, high = module.spec.score_limits(module.constants)
    except ValueError:
        return True
    return bool(torch.as_tensor([low, high]).abs().min() < UNREACHED)


def report(modules: Mapping[str, SoftmaxModule], seen: Mapping[str, Magnitudes], fitted: set[str]) -> None:
    """Put `saturated_scores_percent` into the statistics of modules, and warn, once, where it is much.

    Args:
        modules: by layer, calibrated.
        seen: what scores they had.
        fitted: layers whose score scale was fitted to these scores, some of which it may leave out with reason.
    """
    much = {}
    for name, module in modules.items():
        if name not in seen:
            continue
        percent = seen[name].percent_beyond(*module.spec.score_limits(module.constants))
        module.statistics = {**module.statistics, "saturated_scores_percent": percent}
        if percent > ALLOWED_PERCENT and name not in fitted:
            much[name] = percent
    if much:
        worst = max(much, key=lambda name: much[name])
        spec = modules[worst].spec
        high = float(torch.as_tensor(spec.score_limits(modules[worst].constants)[1]).max())
        warnings.warn(
            f"{much[worst]:.2g}% of the scores of {worst} are beyond what {spec.title}'s score codes can say, about "
            f"±{high:g}; in {len(much)} of {len(modules)} layers it is more than {ALLOWED_PERCENT}%. These scores "
            f"saturate in integer mode: {_remedy(spec)}. The share of each layer is in "
            "softmaxkit.layers(model)[name].statistics",
            stacklevel=4,
        )


def _remedy(spec: Spec) -> str:
    """Return what to do about saturated scores."""
    specs = [_changes(spec, other) for other in spec.reaching_further()]
    if not specs:
        return "take another form of the method, whose scores reach further"
    return f"take {', or '.join(specs)}, and calibrate again"


def _changes(spec: Spec, other: Spec) -> str:
    """Return how to write the change from a spec to another one of its method, as `Exaq(scale='calibrated')`."""
    changed = ", ".join(f"{name}={getattr(other, name)!r}" for name in other.unlike(spec))
    return f"{type(other).__name__}({changed})"
