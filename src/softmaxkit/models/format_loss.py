"""What a method's number formats cost on real rows: changed row sums, and probability rounded to 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.models.calibration import Batch, inputs_of
from softmaxkit.models.evaluation import RealScores, watching_scores
from softmaxkit.models.patch import layers, set_mode
from softmaxkit.models.running import evaluating, run
from softmaxkit.warning import warn

ALLOWED_PERCENT = 1.0
"""A layer in which integers lose a higher percentage of the probability causes a warning."""


def report_format_loss(model: PreTrainedModel, batch: Batch) -> None:
    """Run a batch in integer mode, compare it with each method's float form, and warn once if formats are too narrow.

    Each layer's `statistics` get `row_sum_change_percent`, the change of the mean row sum in integers;
    `dead_outputs_percent`, the share of attended keys whose output is 0; `dead_probability_percent`, the probability
    of these keys in float; and `longest_row`, the number of attended keys in the longest row.

    Args:
        model: a model with a calibrated method in it; its mode is restored at the end.
        batch: as for `calibrate`.
    """
    modules = layers(model)
    modes = {module: module.mode for module in model.modules() if isinstance(module, SoftmaxModule)}
    lost: dict[str, dict[str, Any]] = {}

    def see(name: str, seen: RealScores) -> None:
        lost[name] = _losses(seen)

    set_mode(model, "integer")
    try:
        with evaluating(model), watching_scores(model, see):
            run(model, inputs_of(batch))
    finally:
        for module, mode in modes.items():
            module.mode = mode
    for name, losses in lost.items():
        modules[name].statistics = {**modules[name].statistics, **losses}
    _warn(model, lost)


def _losses(seen: RealScores) -> dict[str, Any]:
    with torch.no_grad():
        real = seen.module.float_forward(seen.scores, seen.attended)
    total, integers = real.sum(dtype=torch.float64), seen.probabilities.sum(dtype=torch.float64)
    dead = seen.attended & (seen.probabilities == 0)
    return {
        "row_sum_change_percent": 100 * (integers / total - 1).item() if total else 0.0,
        "dead_outputs_percent": 100 * (dead.sum() / seen.attended.sum().clamp(min=1)).item(),
        "dead_probability_percent": 100 * (real[dead].sum(dtype=torch.float64) / total).item() if total else 0.0,
        "longest_row": int(seen.attended.sum(-1).max()),
    }


def _warn(model: PreTrainedModel, lost: Mapping[str, Mapping[str, Any]]) -> None:
    worst = {name: max(abs(x["row_sum_change_percent"]), x["dead_probability_percent"]) for name, x in lost.items()}
    excessive = [name for name in worst if worst[name] > ALLOWED_PERCENT]
    if not excessive:
        return
    name = max(excessive, key=lambda layer: worst[layer])
    losses = lost[name]
    warn(
        f"the formats of {layers(model)[name].spec.title} are too narrow for rows of {losses['longest_row']:,} keys: "
        f"in integers the row sums of {name} change by {losses['row_sum_change_percent']:+.1f}%, and "
        f"{losses['dead_probability_percent']:.1f}% of its probability is rounded to 0; in {len(excessive)} of "
        f"{len(lost)} layers one of the two exceeds {ALLOWED_PERCENT:g}%. 'softmaxkit recommend' finds formats that "
        "are wide enough; the figures of each layer are in softmaxkit.layers(model)[name].statistics"
    )
