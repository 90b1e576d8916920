"""Charts with a small panel per variant: the function itself, and its error on real scores."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped, unused-ignore]

from softmaxkit.report.record import MODES, Variant
from softmaxkit.report.style import (
    AXIS_COLOUR,
    DISTRIBUTION_COLOUR,
    REFERENCE_BAND_COLOUR,
    axis,
    base_layout,
)

Points = Mapping[str, Sequence[float | None]]

_HEIGHT = 210
_MARGIN = {"l": 52, "r": 10, "t": 6, "b": 40}
_DECADES = 6
_LINES: Mapping[str, dict[str, Any]] = {
    "float": {"width": 1.6, "dash": "dot"},
    # Each value extends halfway to its neighbours, so that integers appear as steps.
    "integer": {"width": 1.8, "shape": "hvh"},
}


class Panel(NamedTuple):
    """A variant and its small chart; the page places as many next to each other as fit."""

    variant: Variant
    figure: go.Figure


def function(variants: Sequence[Variant]) -> list[Panel]:
    """Draw each variant's probability as one score is swept, on top of that of exact softmax."""
    panels = []
    probabilities: list[float | None] = []
    for variant, series in _shown(variants, "function"):
        figure = go.Figure()
        swept = series[0][1]
        figure.add_scatter(
            x=swept.get("score", []),
            y=swept.get("exact_probability", []),
            name="exact softmax",
            mode="lines",
            line={"color": REFERENCE_BAND_COLOUR, "width": 6},
        )
        for mode, points in series:
            figure.add_scatter(
                x=points.get("score", []),
                y=points.get("probability", []),
                name=mode,
                mode="lines",
                line={**_LINES[mode], "color": variant.method.colour},
            )
            probabilities += points.get("probability", [])
        panels.append(Panel(variant, figure))
    _lay_out(panels, "score", "yaxis", probabilities)
    return panels


def error(variants: Sequence[Variant]) -> list[Panel]:
    """Draw each variant's error against the distance from the row's maximum, on top of the score distribution."""
    panels = []
    errors: list[float | None] = []
    for variant, series in _shown(variants, "error"):
        figure = go.Figure()
        scores = series[0][1]
        figure.add_bar(
            x=scores.get("score_below_maximum", []),
            y=scores.get("share_of_scores", []),
            name="share of scores",
            marker={"color": DISTRIBUTION_COLOUR, "line": {"width": 0}},
        )
        for mode, points in series:
            figure.add_scatter(
                x=points.get("score_below_maximum", []),
                y=points.get("mean_absolute_error", []),
                name=mode,
                mode="lines",
                line={**_LINES[mode], "color": variant.method.colour, "shape": "linear"},
                yaxis="y2",
            )
            errors += points.get("mean_absolute_error", [])
        figure.update_layout(bargap=0, yaxis={"visible": False, "fixedrange": True})
        panels.append(Panel(variant, figure))
    _lay_out(panels, "score below the row's maximum", "yaxis2", errors)
    return panels


def _shown(variants: Sequence[Variant], part: str) -> list[tuple[Variant, list[tuple[str, Points]]]]:
    """Return the variants with this part of the series, each with the modes that have it."""
    return [(variant, series) for variant in variants if (series := _series(variant, part))]


def _series(variant: Variant, part: str) -> list[tuple[str, Points]]:
    """Return the modes with this part, except the baseline in floating point, which is the reference itself."""
    modes = [mode for mode in MODES if not (variant.method.is_baseline and mode == "float")]
    return [(mode, points) for mode in modes if (points := variant.series(part, mode))]


def _lay_out(panels: Sequence[Panel], across: str, scaled: str, values: Sequence[float | None]) -> None:
    """Give all panels a common vertical scale, initially logarithmic, and label the horizontal axes."""
    ranges = {"log": _log_range(values), "linear": _linear_range(values)}
    vertical = axis(
        type="log", range=ranges["log"], dtick=1, exponentformat="power", side="left", automargin=False, nticks=5
    )
    if scaled == "yaxis2":
        vertical["overlaying"] = "y"
    for _, figure in panels:
        figure.update_layout(
            base_layout(
                height=_HEIGHT,
                margin=_MARGIN,
                hovermode="x unified",
                xaxis=axis(
                    showgrid=False,
                    showline=True,
                    linecolor=AXIS_COLOUR,
                    ticks="outside",
                    automargin=False,
                    title={"text": across, "standoff": 6, "font": {"size": 12}},
                ),
                meta={"scales": {"axis": scaled, **ranges}},
                **{scaled: vertical},
            )
        )


def _log_range(values: Sequence[float | None]) -> list[float] | None:
    """Return the range of the positive values as powers of ten, limited to the top six decades."""
    positive = [math.log10(value) for value in values if value is not None and value > 0]
    if not positive:
        return None
    top = max(positive) + 0.1
    return [max(min(positive) - 0.1, top - _DECADES), top]


def _linear_range(values: Sequence[float | None]) -> list[float] | None:
    top = max((value for value in values if value is not None), default=0)
    return [0, 1.05 * top] if top > 0 else None
