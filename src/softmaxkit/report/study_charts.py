"""The pictures of a study: a figure against a setting or the training step, and where learned constants go."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped, unused-ignore]

from softmaxkit.report.style import FURTHER_COLOURS, REFERENCE_COLOUR, axis, base_layout
from softmaxkit.report.summary import Result, full_name, setting, summary

TITLES = {
    "loss_change_percent": "change in loss against exact softmax, %",
    "perplexity_change_percent": "change in perplexity against exact softmax, %",
    "loss_nats": "held-out loss, nats per token",
    "row_sum_mean": "mean row sum",
    "step": "training step",
}
LINES = ("#0072b2", "#d55e00", "#009e73", *FURTHER_COLOURS, "#000000")


def picture(results: Sequence[Result], config: Mapping[str, Any], baseline: str | None = None) -> go.Figure | None:
    """Draw a figure against a setting or against the training step: means over seeds, with their spread.

    Args:
        results: those of the record.
        config: the study's picture: `x`, `y` and, where a paper has such a curve, `published`, its name, with
            `published_x` and `published_y`.
        baseline: the method that the others are compared with; None takes that of the first result.

    Returns:
        The picture; None where the study has none, or nothing to draw.
    """
    if not config or not results:
        return None
    by_step = config["x"] == "step"
    baseline = baseline or results[0]["method"]
    lines = _curves(results, baseline) if by_step else _against(results, config["x"], config["y"], baseline)
    if not lines:
        return None
    figure = go.Figure()
    for place, (name, points) in enumerate(lines.items()):
        figure.add_scatter(
            x=[x for x, *_ in points],
            y=[y for _, y, _ in points],
            error_y={"array": [spread or 0 for *_, spread in points], "thickness": 1, "width": 3},
            name=name,
            mode="lines+markers",
            line_color=LINES[place % len(LINES)],
        )
    if "published" in config:
        figure.add_scatter(
            x=config["published_x"],
            y=config["published_y"],
            name=config["published"],
            mode="lines+markers",
            line={"color": REFERENCE_COLOUR, "dash": "dash"},
        )
    settings = [] if by_step else _in_order(x for points in lines.values() for x, *_ in points)
    figure.update_layout(
        base_layout(
            height=420,
            showlegend=True,
            xaxis=axis(
                fixedrange=False,
                title=TITLES.get(config["x"], setting({config["x"]: ""})),
                type="-" if by_step else _axis_type(settings),
                categoryorder="array",
                categoryarray=settings,
                tickvals=settings or None,
            ),
            yaxis=axis(fixedrange=False, title=TITLES.get(config["y"], config["y"])),
        )
    )
    return figure


def _in_order(values: Iterable[Any]) -> list[Any]:
    """Return the distinct values: numbers by size, anything else in order of appearance."""
    distinct = list(dict.fromkeys(values))
    return sorted(distinct) if all(isinstance(value, int | float) for value in distinct) else distinct


def _axis_type(values: Sequence[Any]) -> str:
    """Return "log" for numbers of different magnitudes; with a 0 among them, which has no logarithm, "category"."""
    if not all(isinstance(x, int | float) and x >= 0 for x in values):
        return "-"
    positive = [x for x in values if x] or [1]
    wide = max(positive) >= 8 * min(positive)
    return "-" if not wide else "log" if len(positive) == len(values) else "category"


def _against(
    results: Sequence[Result], x: str, y: str, baseline: str
) -> dict[str, list[tuple[Any, float, float | None]]]:
    """Return the points of integer results against a setting, a line for every combination of the other settings.

    Points where any seed diverged are left out: their mean would be of the lucky seeds alone. A method without this
    setting, but with settings of its own, is drawn as a level line.
    """
    lines: dict[str, list[tuple[Any, float, float | None]]] = {}
    x_values = _in_order(result["settings"][x] for result in results if x in result["settings"])
    if "change" in y:  # the baseline itself is the line at 0
        results = [result for result in results if result["method"] != baseline or _of_spec(result["settings"])]
    for group in summary(results, y):
        settings = group["settings"]
        if group["mean"] is None or group["diverged"] or group["mode"] == "float":
            continue
        own = {key: value for key, value in _of_spec(settings).items() if key != x}
        if x not in settings and not own:
            continue
        others = {key: value for key, value in settings.items() if key != x and key not in own}
        # The variant says what the spec's settings say; it is needed only where those do not vary.
        name = group["method"] if x.startswith("spec.") or own else full_name(group)
        line = lines.setdefault(f"{name} {setting({**others, **own})}".strip(), [])
        line.extend((place, group["mean"], group["spread"]) for place in ([settings[x]] if x in settings else x_values))
    return lines


def _of_spec(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are fields of the method's spec."""
    return {key: value for key, value in settings.items() if key.startswith("spec.")}


def _curves(results: Sequence[Result], baseline: str) -> dict[str, list[tuple[Any, float, float | None]]]:
    """Return the change in held-out loss against the baseline, trained alike, at each step that both curves have."""
    trained = [result for result in results if "training" in result.get("series", {})]
    curves: dict[str, dict[float, list[float]]] = {}
    for result in trained:
        if result["method"] == baseline:
            continue
        shared = {key: value for key, value in result["settings"].items() if not key.startswith("spec.")}
        alike = (baseline, result["seed"], shared)
        rival = next((other for other in trained if (other["method"], other["seed"], other["settings"]) == alike), None)
        if rival is None:  # the baseline's own training diverged
            continue
        losses = dict(zip(*(rival["series"]["training"][key] for key in CURVE), strict=True))
        name = f"{result['method']} {setting(result['settings']) or result['variant']}".strip()
        for step, loss in zip(*(result["series"]["training"][key] for key in CURVE), strict=True):
            if step in losses:
                curves.setdefault(name, {}).setdefault(step, []).append(100 * (loss / losses[step] - 1))
    return {
        name: [
            (step, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)
            for step, values in sorted(points.items())
        ]
        for name, points in curves.items()
    }


CURVE = ("held_out_step", "held_out_loss_nats")


def constants(results: Sequence[Result]) -> list[tuple[str, go.Figure]]:
    """Draw how each learned constant of the best point moves: means over each layer's heads; [] without any."""
    moving = [result for result in results if result.get("series", {}).get("training", {}).get("constants")]
    if not moving:
        return []
    series = min(moving, key=lambda result: result["loss_nats"])["series"]["training"]
    panels = []
    for name in next(iter(series["constants"][0].values())):
        figure = go.Figure()
        for place, layer in enumerate(series["constants"][0]):
            values = [statistics.fmean(entry[layer][name]) for entry in series["constants"]]
            figure.add_scatter(
                x=series["held_out_step"],
                y=[math.exp(value) for value in values] if name.startswith("log_") else values,
                name=f"layer {place}",
                mode="lines",
                line_color=LINES[place % len(LINES)],
            )
        figure.update_layout(
            base_layout(height=280, showlegend=True, xaxis=axis(title=TITLES["step"]), yaxis=axis(nticks=6))
        )
        panels.append((name.removeprefix("log_"), figure))
    return panels
