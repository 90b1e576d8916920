"""Charts with a small panel for each variant: the function itself, and its error on real scores."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped, unused-ignore]
from plotly.subplots import make_subplots  # type: ignore[import-untyped, unused-ignore]

from softmaxkit.report.record import MODES, Variant
from softmaxkit.report.style import (
    AXIS_COLOUR,
    DISTRIBUTION_COLOUR,
    REFERENCE_BAND_COLOUR,
    axis,
    base_layout,
)

Points = Mapping[str, Sequence[float | None]]
Place = dict[str, int]

_COLUMNS = 3
_PANEL_HEIGHT = 170
_PANEL_GAP = 74
_MARGIN = {"l": 64, "r": 12, "t": 28, "b": 52}
_DECADES = 6
_LINES: Mapping[str, dict[str, Any]] = {
    "float": {"width": 1.6, "dash": "dot"},
    # A value holds to halfway to its neighbours, so that the steps of the integers show as steps.
    "integer": {"width": 1.8, "shape": "hvh"},
}


def function(variants: Sequence[Variant]) -> go.Figure | None:
    """Draw the probability that each variant gives as one score is swept, over that of real softmax."""
    panels = _panels(variants, "function")
    if not panels:
        return None
    figure = _grid(panels)
    probabilities: list[float | None] = []
    for variant, place in panels:
        series = _series(variant, "function")
        swept = series[0][1]
        figure.add_scatter(
            x=swept.get("score", []),
            y=swept.get("exact_probability", []),
            name="real softmax",
            mode="lines",
            line={"color": REFERENCE_BAND_COLOUR, "width": 6},
            **place,
        )
        for mode, points in series:
            figure.add_scatter(
                x=points.get("score", []),
                y=points.get("probability", []),
                name=mode,
                mode="lines",
                line={**_LINES[mode], "color": variant.method.colour},
                **place,
            )
            probabilities += points.get("probability", [])
    _share_scale(figure, panels, "probability", probabilities)
    _finish(figure, panels, "score")
    return figure


def error(variants: Sequence[Variant]) -> go.Figure | None:
    """Draw each variant's error against the distance from the row's maximum, over the distribution of the scores."""
    panels = _panels(variants, "error")
    if not panels:
        return None
    figure = _grid(panels, distribution=True)
    errors: list[float | None] = []
    for variant, place in panels:
        series = _series(variant, "error")
        scores = series[0][1]
        figure.add_bar(
            x=scores.get("score_below_maximum", []),
            y=scores.get("share_of_scores", []),
            name="share of scores",
            marker={"color": DISTRIBUTION_COLOUR, "line": {"width": 0}},
            **place,
            secondary_y=False,
        )
        for mode, points in series:
            figure.add_scatter(
                x=points.get("score_below_maximum", []),
                y=points.get("mean_absolute_error", []),
                name=mode,
                mode="lines",
                line={**_LINES[mode], "color": variant.method.colour, "shape": "linear"},
                **place,
                secondary_y=True,
            )
            errors += points.get("mean_absolute_error", [])
    figure.update_layout(bargap=0)
    figure.update_yaxes(secondary_y=False, visible=False, fixedrange=True)
    _share_scale(figure, panels, "mean absolute error", errors, secondary_y=True)
    _finish(figure, panels, "score below the row's maximum")
    return figure


def _series(variant: Variant, part: str) -> list[tuple[str, Points]]:
    """Return the modes that have this part; the baseline in floating point would be compared with itself."""
    modes = [mode for mode in MODES if not (variant.method.is_baseline and mode == "float")]
    return [(mode, points) for mode in modes if (points := variant.series(part, mode))]


def _panels(variants: Sequence[Variant], part: str) -> list[tuple[Variant, Place]]:
    """Return the variants that have this part of the series, each with its place in the grid."""
    shown = [variant for variant in variants if _series(variant, part)]
    return [
        (variant, {"row": position // _COLUMNS + 1, "col": position % _COLUMNS + 1})
        for position, variant in enumerate(shown)
    ]


def _grid(panels: Sequence[tuple[Variant, Place]], distribution: bool = False) -> go.Figure:
    """Return a figure with a titled panel for each variant, with a second vertical axis if a distribution is shown."""
    rows = panels[-1][1]["row"]
    occupied = {(place["row"], place["col"]) for _, place in panels}
    height = rows * _PANEL_HEIGHT + (rows - 1) * _PANEL_GAP
    figure = make_subplots(
        rows=rows,
        cols=_COLUMNS,
        specs=[
            [{"secondary_y": distribution} if (row, column) in occupied else None for column in range(1, _COLUMNS + 1)]
            for row in range(1, rows + 1)
        ],
        horizontal_spacing=0.04,
        vertical_spacing=_PANEL_GAP / height if rows > 1 else 0,
    )
    for variant, place in panels:
        title = {"text": variant.label, "x": 0, "y": 1, "xref": "x domain", "yref": "y domain", "showarrow": False}
        figure.add_annotation(**title, xanchor="left", yanchor="bottom", yshift=4, **place)
    figure.update_layout(
        base_layout(height=height + _MARGIN["t"] + _MARGIN["b"], margin=_MARGIN, hovermode="x unified")
    )
    return figure


def _share_scale(
    figure: go.Figure,
    panels: Sequence[tuple[Variant, Place]],
    title: str,
    values: Sequence[float | None],
    secondary_y: bool | None = None,
) -> None:
    """Give all panels one logarithmic scale, named and numbered at the left edge only."""
    first = "y2" if secondary_y else "y"
    figure.update_yaxes(
        axis(
            type="log",
            range=_log_range(values),
            rangemode="tozero",
            dtick=1,
            exponentformat="power",
            showticklabels=False,
            side="left",
        ),
        secondary_y=secondary_y,
    )
    for _, place in panels:
        figure.update_yaxes(matches=first, secondary_y=secondary_y, **place)
        if place["col"] == 1:
            figure.update_yaxes(title=title, showticklabels=True, secondary_y=secondary_y, **place)


def _finish(figure: go.Figure, panels: Sequence[tuple[Variant, Place]], title: str) -> None:
    """Draw the horizontal axes, named only where no panel follows below."""
    figure.update_xaxes(axis(showgrid=False, showline=True, linecolor=AXIS_COLOUR, ticks="outside"))
    for _, place in panels[-_COLUMNS:]:
        figure.update_xaxes(title=title, **place)


def _log_range(values: Sequence[float | None]) -> list[float] | None:
    """Return the exponents of ten that enclose the positive values, at most six decades below the greatest."""
    positive = [math.log10(value) for value in values if value is not None and value > 0]
    if not positive:
        return None
    top = max(positive) + 0.1
    return [max(min(positive) - 0.1, top - _DECADES), top]
