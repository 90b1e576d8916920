"""What the formats of a method take from real rows: their sum, and probability that falls on outputs of 0."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from softmaxkit.models.calibration import Batch, inputs_of
from softmaxkit.models.evaluation import RealScores, watching_scores
from softmaxkit.models.patch import layers, set_mode
from softmaxkit.models.running import evaluating, run

ALLOWED_PERCENT = 1.0
"""More than this of a layer's probability, lost on the way to integers, is warned of."""


def report_format_loss(model: PreTrainedModel, batch: Batch) -> None:
    """Run a batch in integers, compare with each method's float form, and warn, once, where its formats lose much.

    Each layer's `statistics` get `row_sum_change_percent`, how much larger the mean sum of a row is in integers;
    `dead_outputs_percent`, the share of outputs of attended keys that are 0; `dead_probability_percent`, the
    probability that these have in float; and `longest_row`, the keys of the longest row that was seen.

    Args:
        model: with a calibrated method in it; its mode stays what it was.
        batch: as for `calibrate`.
    """
    modules = layers(model)
    modes = {name: module.mode for name, module in modules.items()}
    lost: dict[str, dict[str, Any]] = {}

    def see(name: str, seen: RealScores) -> None:
        lost[name] = _losses(seen)

    set_mode(model, "integer")
    try:
        with evaluating(model), watching_scores(model, see):
            run(model, inputs_of(batch))
    finally:
        for name, mode in modes.items():
            modules[name].mode = mode
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
    much = [name for name in worst if worst[name] > ALLOWED_PERCENT]
    if not much:
        return
    name = max(much, key=lambda layer: worst[layer])
    losses = lost[name]
    warnings.warn(
        f"the formats of {layers(model)[name].spec.title} are narrow for rows of {losses['longest_row']:,}: in "
        f"integers the sums of {name} change by {losses['row_sum_change_percent']:+.1f}%, and "
        f"{losses['dead_probability_percent']:.1f}% of its probability is in outputs that are 0; in {len(much)} of "
        f"{len(lost)} layers either is more than {ALLOWED_PERCENT:g}%. 'softmaxkit recommend' finds formats that hold; "
        "the figures of each layer are in softmaxkit.layers(model)[name].statistics",
        stacklevel=3,
    )
