"""The main picture: accuracy against energy, a point for each method and variant, with the Pareto front."""

from collections.abc import Sequence
from math import log10
from typing import Any, NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped, unused-ignore]

from softmaxkit.report.charts import error_bar, percent_ticks, squeezed
from softmaxkit.report.columns import change, number, spread_of
from softmaxkit.report.record import Variant, shortened
from softmaxkit.report.style import AXIS_COLOUR, axis, base_layout, percent

ENERGY, LOSS = "energy_pj_per_element", "loss_change_percent"
_energy = number(",.3g", " pJ")
_TICKS = [digit * 10.0**power for power in range(-2, 4) for digit in (1, 1.5, 2, 3, 5, 7)]


class Point(NamedTuple):
    """Where a variant stands: energy of one score in pJ, change in loss in percent, and its spread over seeds."""

    variant: Variant
    energy: float
    loss: float
    spread: float | None = None


def points(variants: Sequence[Variant]) -> list[Point]:
    """Return the points of the variants whose hardware was synthesised."""
    synthesised = []
    for variant in variants:
        energy, loss = variant.figure(ENERGY, "integer"), variant.figure(LOSS, "integer")
        if energy is not None and loss is not None and energy > 0:
            synthesised.append(Point(variant, energy, loss, spread_of(variant.results["integer"], LOSS)))
    return synthesised


def pareto_front(candidates: Sequence[Point]) -> list[Point]:
    """Return the points of the Pareto front: by rising energy, and with less loss than all before them."""
    front: list[Point] = []
    for point in sorted(candidates, key=lambda point: (point.energy, point.loss)):
        if not front or point.loss < front[-1].loss:
            front.append(point)
    return front


def trade_off(variants: Sequence[Variant]) -> go.Figure | None:
    """Draw each variant's change in loss against the energy of its unit."""
    shown = points(variants)
    if len(shown) < 2:
        return None
    figure = go.Figure()
    front = pareto_front(shown)
    figure.add_scatter(
        x=[point.energy for point in front],
        y=[squeezed(point.loss) for point in front],
        mode="lines",
        line={"color": AXIS_COLOUR, "width": 1.5, "shape": "hv"},
        hoverinfo="skip",
    )
    for point in shown:
        colour, place = point.variant.method.colour, squeezed(point.loss)
        spread = "" if point.spread is None else f" ± {point.spread:.2f}%"
        figure.add_scatter(
            x=[point.energy],
            y=[place],
            error_y=error_bar(point.loss, point.spread, colour),
            mode="markers",
            marker={"symbol": "circle", "size": 12, "color": colour},
            name=point.variant.label,
            text=f"{change(point.loss)}{spread}, {_energy(point.energy)}",
            hovertemplate="%{fullData.name}: %{text}<extra></extra>",
        )
    reach = [point.loss + sign * (point.spread or 0) for point in shown for sign in (-1, 1)]
    ticks = percent_ticks(min(reach), max(reach))
    margin = 0.06 * (squeezed(ticks[-1]) - squeezed(ticks[0]))
    decades = [log10(point.energy) for point in shown]
    beside = 0.08 * (max(decades) - min(decades)) + 0.02
    figure.update_layout(
        base_layout(
            height=480,
            hovermode="closest",
            xaxis=axis(
                title="energy of one score, pJ",
                type="log",
                tickvals=_TICKS,
                ticktext=[f"{tick:g}" for tick in _TICKS],
                range=[min(decades) - beside, max(decades) + beside],
                automargin=False,
            ),
            yaxis=axis(
                title={"text": "change in loss", "standoff": 4},
                tickvals=[squeezed(tick) for tick in ticks],
                ticktext=[percent(tick) for tick in ticks],
                range=[squeezed(ticks[0]) - margin, squeezed(ticks[-1]) + margin],
                automargin=False,
            ),
            meta={
                "labels": [_label(point) for point in _in_order(shown, front)],
                "line": {"x": [log10(point.energy) for point in front], "y": [squeezed(point.loss) for point in front]},
                "narrow": {"height": 500, "margin": {"l": 62, "r": 6, "t": 16, "b": 48}},
            },
        )
    )
    return figure


def _label(point: Point) -> dict[str, Any]:
    """Return what the page's script needs to place a point's label; `x` and `y` are as the axes have them."""
    return {
        "x": log10(point.energy),
        "y": squeezed(point.loss),
        "title": shortened(point.variant.method.title),
        "name": shortened(point.variant.name),
        "colour": point.variant.method.colour,
    }


def _in_order(shown: Sequence[Point], front: Sequence[Point]) -> list[Point]:
    """Return the points in the order in which labels are placed: those that matter most have the first choice."""
    best = {point.variant.method.name: point for point in sorted(shown, key=lambda point: -point.loss)}
    first = [point for point in shown if point in front or point in best.values() or point.variant.method.is_baseline]
    return first + [point for point in shown if point not in first]
