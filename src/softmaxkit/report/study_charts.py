"""Charts of a study: a figure against a setting or the training step, and the course of learned constants."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped, unused-ignore]

from softmaxkit.report.style import FURTHER_COLOURS, REFERENCE_COLOUR, TEXT_COLOUR, axis, base_layout
from softmaxkit.report.summary import Result, setting, summary

TITLES = {
    "loss_change_percent": "change in loss from exact softmax, %",
    "perplexity_change_percent": "change in perplexity from exact softmax, %",
    "loss_nats": "held-out loss, nats per token",
    "row_sum_mean": "mean row sum",
    "step": "training step",
}
LINES = ("#0072b2", "#d55e00", "#009e73", *FURTHER_COLOURS, TEXT_COLOUR)


def picture(
    results: Sequence[Result],
    config: Mapping[str, Any],
    titles: Mapping[str, str],
    baseline: str | None = None,
) -> go.Figure | None:
    """Draw a figure against a setting or against the training step: means over seeds, with their spread.

    Args:
        results: the record's results.
        config: the chart's description: `x`, `y` and, if a paper has such a curve, its name `published` with
            `published_x` and `published_y`.
        titles: the name of each method as its authors write it, by its name in the results.
        baseline: the method that the others are compared with; None for that of the first result.

    Returns:
        The chart; None if the study describes none, or there is nothing to draw.
    """
    if not config or not results:
        return None
    by_step = config["x"] == "step"
    baseline = baseline or results[0]["method"]
    if by_step:
        lines = _curves(results, titles, baseline)
    else:
        lines = _against(results, config["x"], config["y"], titles, baseline)
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
    """Return the distinct values: sorted if all are numbers, else in order of appearance."""
    distinct = list(dict.fromkeys(values))
    return sorted(distinct) if all(isinstance(value, int | float) for value in distinct) else distinct


def _axis_type(values: Sequence[Any]) -> str:
    """Return "log" for positive numbers over a wide range, "category" if a 0 is among them, else "-"."""
    if not all(isinstance(x, int | float) and x >= 0 for x in values):
        return "-"
    positive = [x for x in values if x] or [1]
    wide_range = max(positive) >= 8 * min(positive)
    return "-" if not wide_range else "log" if len(positive) == len(values) else "category"


def _against(
    results: Sequence[Result], x: str, y: str, titles: Mapping[str, str], baseline: str
) -> dict[str, list[tuple[Any, float, float | None]]]:
    """Return the points of integer results against a setting, a line for every combination of the other settings.

    Points with a diverged seed are omitted, since the mean over the surviving seeds would be biased. A method that
    lacks this setting but has settings of its own becomes a horizontal line.
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
        # The variant repeats the spec's settings, so the name includes it only if those do not vary.
        variant = "" if x.startswith("spec.") or own else group["variant"]
        name = " ".join(filter(None, (titles[group["method"]], variant, setting({**others, **own}))))
        line = lines.setdefault(name, [])
        line.extend((place, group["mean"], group["spread"]) for place in ([settings[x]] if x in settings else x_values))
    return lines


def _of_spec(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are fields of the method's spec."""
    return {key: value for key, value in settings.items() if key.startswith("spec.")}


def _curves(
    results: Sequence[Result], titles: Mapping[str, str], baseline: str
) -> dict[str, list[tuple[Any, float, float | None]]]:
    """Return the change in held-out loss from the equally trained baseline, at each step that both curves have."""
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
        losses = dict(_curve(rival))
        name = f"{titles[result['method']]} {setting(result['settings']) or result['variant']}".strip()
        for step, loss in _curve(result):
            if step in losses:
                curves.setdefault(name, {}).setdefault(step, []).append(100 * (loss / losses[step] - 1))
    return {
        name: [
            (step, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)
            for step, values in sorted(points.items())
        ]
        for name, points in curves.items()
    }


def _curve(result: Result) -> list[tuple[int, float]]:
    """Return the steps of a training with their held-out losses, without those that were not finite."""
    series = result["series"]["training"]
    points = zip(series["held_out_step"], series["held_out_loss_nats"], strict=True)
    return [(step, loss) for step, loss in points if loss is not None]


def constants(results: Sequence[Result]) -> list[tuple[str, go.Figure]]:
    """Draw the course of each learned constant at the best point, averaged over each layer's heads; [] if none."""
    with_constants = [result for result in results if result.get("series", {}).get("training", {}).get("constants")]
    if not with_constants:
        return []
    series = min(with_constants, key=lambda result: result["loss_nats"])["series"]["training"]
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
