"""Charts over all methods: the change in loss, and training."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped, unused-ignore]

from softmaxkit.report.columns import change, spread_of
from softmaxkit.report.record import MODES, Variant
from softmaxkit.report.style import LABEL_BACKGROUND, REFERENCE_COLOUR, axis, base_layout, percent

_KEY = "loss_change_percent"
_LINEAR_PERCENT = 0.1
_MARKERS = {"float": "circle-open", "integer": "circle"}
_MODE_NAMES = {"float": "floating point", "integer": "integer"}
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_POINTS_OF_A_CURVE = 400


def loss_change(variants: Sequence[Variant]) -> go.Figure | None:
    """Draw each variant's change in loss as dots on an axis that is linear near zero and logarithmic far from it."""
    shown = [variant for variant in variants if any(variant.figure(_KEY, mode) is not None for mode in MODES)]
    if not shown:
        return None
    heights = _spaced(shown)
    figure = go.Figure()
    for variant, height in zip(shown, heights, strict=True):
        changes = {mode: value for mode in MODES if (value := variant.figure(_KEY, mode)) is not None}
        colour = variant.method.colour
        places = [squeezed(value) for value in changes.values()]
        figure.add_scatter(x=places, y=[height] * len(places), mode="lines", line_color=colour, hoverinfo="skip")
        for mode, value in changes.items():
            figure.add_scatter(
                x=[squeezed(value)],
                y=[height],
                error_x=error_bar(value, spread_of(variant.results[mode], _KEY), colour),
                mode="markers",
                marker={"symbol": _MARKERS[mode], "size": 11, "color": colour, "line": {"width": 2, "color": colour}},
                name=f"{variant.label}, {_MODE_NAMES[mode]}",
                text=_written(variant, mode),
                hovertemplate="%{fullData.name}: %{text}<extra></extra>",
            )

    ticks = percent_ticks(*_reach(shown))
    span = squeezed(ticks[-1]) - squeezed(ticks[0])
    beside = 0.3 if any(_spread(variant, mode) for variant in shown for mode in MODES) else 0.15
    figure.add_vline(x=0, line={"color": REFERENCE_COLOUR, "width": 1.5}, layer="below")
    places, names = [squeezed(tick) for tick in ticks], [percent(tick) for tick in ticks]
    rows = {"tickvals": heights, "showgrid": False}
    figure.update_layout(
        base_layout(
            height=70 + round(26 * (heights[0] - heights[-1] + 1)),
            hovermode="closest",
            xaxis=axis(
                title="change in loss from exact softmax in floating point",
                tickvals=places,
                ticktext=names,
                range=[squeezed(ticks[0]) - beside * span, squeezed(ticks[-1]) + beside * span],
            ),
            yaxis=axis(
                **rows, ticktext=[variant.label for variant in shown], range=[heights[-1] - 0.7, heights[0] + 0.7]
            ),
            annotations=[_value_beside(variant, height) for variant, height in zip(shown, heights, strict=True)],
            meta={
                "narrow_below": 820,
                # On a phone, names and figures go above the dots, because there is no room next to them.
                "narrow": {
                    "height": 80 + round(42 * (heights[0] - heights[-1] + 1)),
                    "margin": {"l": 10, "r": 10, "t": 16, "b": 48},
                    "xaxis": axis(
                        title="change in loss",
                        tickvals=places[::2],
                        ticktext=names[::2],
                        range=[squeezed(ticks[0]) - 0.06 * span, squeezed(ticks[-1]) + 0.06 * span],
                    ),
                    "yaxis": axis(**rows, showticklabels=False, range=[heights[-1] - 0.7, heights[0] + 0.9]),
                    "annotations": [_above(variant, height) for variant, height in zip(shown, heights, strict=True)],
                },
            },
        )
    )
    return figure


def training(variants: Sequence[Variant]) -> go.Figure | None:
    """Draw the smoothed loss of each training run as a line and its held-out losses as dots."""
    figure = go.Figure()
    curves_of_method: dict[str, int] = {}
    for variant in variants:
        for points in (variant.series("training", mode) for mode in MODES):
            if not points:
                continue
            curve = curves_of_method.setdefault(variant.method.name, 0)
            curves_of_method[variant.method.name] += 1
            line = {"color": variant.method.colour, "width": 1.8, "dash": _DASHES[curve % len(_DASHES)]}
            shared = {"name": variant.label, "legendgroup": variant.label, "hovertemplate": _TRAINING_HOVER}
            steps, losses = smoothed(points.get("step", ()), points.get("loss_nats", ()))
            figure.add_scatter(x=steps, y=losses, mode="lines", line=line, **shared)
            figure.add_scatter(
                x=points.get("held_out_step", []),
                y=points.get("held_out_loss_nats", []),
                mode="markers",
                marker={"color": variant.method.colour, "size": 7},
                showlegend=not losses,
                **shared,
            )
    if not figure.data:
        return None
    figure.update_layout(
        base_layout(
            height=420,
            hovermode="closest",
            showlegend=True,
            xaxis=axis(title="training step", rangemode="tozero", fixedrange=False),
            yaxis=axis(title="loss, nats", fixedrange=False),
        )
    )
    return figure


_TRAINING_HOVER = "%{fullData.name}, step %{x}: %{y:.4f} nats<extra></extra>"


def smoothed(
    steps: Sequence[float | None], values: Sequence[float | None]
) -> tuple[list[float | None], list[float | None]]:
    """Return a curve's running mean over a window of about 1% of its length, thinned to a few hundred points."""
    length = min(len(steps), len(values))
    reach = length // 200
    positions = range(0, length, max(1, length // _POINTS_OF_A_CURVE))
    means: list[float | None] = []
    for position in positions:
        near = [value for value in values[max(0, position - reach) : position + reach + 1] if value is not None]
        means.append(sum(near) / len(near) if near else None)
    return [steps[position] for position in positions], means


def _spaced(variants: Sequence[Variant]) -> list[float]:
    """Return a vertical position for each variant, the first on top, with a wider gap between methods."""
    heights = [0.0]
    for above, below in pairwise(variants):
        heights.append(heights[-1] - (1.0 if above.method == below.method else 1.4))
    return heights


def squeezed(value: float) -> float:
    """Return the position of a percentage on an axis that is linear near zero and logarithmic far from it."""
    return math.asinh(value / _LINEAR_PERCENT)


def percent_ticks(least: float, greatest: float) -> list[float]:
    """Return ticks at 0 and at plus and minus 0.1, 0.3, 1, 3, … percent, just enough to enclose the values."""

    def up_to(limit: float) -> list[float]:
        ticks: list[float] = []
        while limit > 0 and (not ticks or ticks[-1] < limit):
            ticks.append((1, 3)[len(ticks) % 2] * 10.0 ** (len(ticks) // 2 - 1))
        return ticks

    return [-tick for tick in reversed(up_to(-least))] + [0.0] + up_to(max(greatest, 0.1))


def _reach(variants: Sequence[Variant]) -> tuple[float, float]:
    """Return the smallest and largest change in loss, including spreads."""
    ends = [
        value + sign * (_spread(variant, mode) or 0)
        for variant in variants
        for mode in MODES
        if (value := variant.figure(_KEY, mode)) is not None
        for sign in (-1, 1)
    ]
    return min(ends), max(ends)


def error_bar(value: float, spread: float | None, colour: str) -> dict[str, Any]:
    """Return a figure's spread as an error bar on the squeezed axis; invisible if the spread is unknown."""
    if not spread:
        return {"visible": False}
    place = squeezed(value)
    return {
        "type": "data",
        "array": [squeezed(value + spread) - place],
        "arrayminus": [place - squeezed(value - spread)],
        "thickness": 1.2,
        "width": 3,
        "color": colour,
    }


def _spread(variant: Variant, mode: str) -> float | None:
    return spread_of(variant.results.get(mode, {}), _KEY)


def _written(variant: Variant, mode: str) -> str:
    """Return a change in loss as text, with its spread if known."""
    value, spread = variant.figure(_KEY, mode), _spread(variant, mode)
    return change(value) if spread is None else f"{change(value)} ± {spread:.2f}%"


def _labelled(variant: Variant) -> str:
    """Return the mode whose figure is printed: integer, or the only one."""
    return "integer" if variant.figure(_KEY, "integer") is not None else "float"


def _value_beside(variant: Variant, height: float) -> dict[str, Any]:
    """Return the label of the integer dot, or the only dot, placed away from the other dot and its bar."""
    mode = _labelled(variant)
    values = {mode: value for mode in MODES if (value := variant.figure(_KEY, mode)) is not None}
    right = values[mode] >= max(values.values())
    ends = [value + (1 if right else -1) * (_spread(variant, mode) or 0) for mode, value in values.items()]
    return {
        "x": squeezed(max(ends) if right else min(ends)),
        "y": height,
        "text": _written(variant, mode),
        "showarrow": False,
        "xanchor": "left" if right else "right",
        "xshift": 9 if right else -9,
        "font": {"size": 12},
    }


def _above(variant: Variant, height: float) -> dict[str, Any]:
    """Return a label with a variant's name and figure, placed above its dots at the left edge."""
    return {
        "x": 0,
        "xref": "paper",
        "xanchor": "left",
        "y": height,
        "yshift": 17,
        "showarrow": False,
        "bgcolor": LABEL_BACKGROUND,
        "text": f"{variant.shortened(22)}  {_written(variant, _labelled(variant))}",
        "font": {"size": 12},
    }
