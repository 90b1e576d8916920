"""The main picture: accuracy against energy, a point for each method and variant, with the Pareto front."""

from collections.abc import Sequence
from math import log10
from typing import NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped, unused-ignore]

from softmaxkit.report.charts import percent_ticks, squeezed
from softmaxkit.report.columns import change, number
from softmaxkit.report.record import Variant
from softmaxkit.report.style import AXIS_COLOUR, axis, base_layout

ENERGY, LOSS = "energy_pj_per_element", "loss_change_percent"
_energy = number(",.3g", " pJ")
_TICKS = [digit * 10.0**power for power in range(-2, 4) for digit in (1, 2, 5)]


class Point(NamedTuple):
    """Where a variant stands: energy of one score in pJ, and change in loss in percent."""

    variant: Variant
    energy: float
    loss: float


def points(variants: Sequence[Variant]) -> list[Point]:
    """Return the points of the variants whose hardware was synthesised."""
    synthesised = []
    for variant in variants:
        energy, loss = variant.figure(ENERGY, "integer"), variant.figure(LOSS, "integer")
        if energy is not None and loss is not None and energy > 0:
            synthesised.append(Point(variant, energy, loss))
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
        figure.add_scatter(
            x=[point.energy],
            y=[place],
            mode="markers",
            marker={"symbol": "circle", "size": 12, "color": colour},
            name=point.variant.label,
            text=f"{change(point.loss)}, {_energy(point.energy)}",
            hovertemplate="%{fullData.name}: %{text}<extra></extra>",
        )
    for point in _labelled(shown, front):
        figure.add_annotation(
            x=log10(point.energy),
            y=squeezed(point.loss),
            text=point.variant.label,
            showarrow=False,
            xanchor="left",
            xshift=10,
            yshift=11,
            font={"size": 11, "color": point.variant.method.colour},
        )
    losses = [point.loss for point in shown]
    ticks = percent_ticks(min(losses), max(losses))
    margin = 0.06 * (squeezed(ticks[-1]) - squeezed(ticks[0]))
    figure.update_layout(
        base_layout(
            height=460,
            hovermode="closest",
            xaxis=axis(
                title="energy of one score, pJ", type="log", tickvals=_TICKS, ticktext=[f"{tick:g}" for tick in _TICKS]
            ),
            yaxis=axis(
                title="change in loss",
                tickvals=[squeezed(tick) for tick in ticks],
                ticktext=["0" if tick == 0 else f"{tick:+g}%".replace("-", "−") for tick in ticks],
                range=[squeezed(ticks[0]) - margin, squeezed(ticks[-1]) + margin],
            ),
        )
    )
    return figure


def _labelled(shown: Sequence[Point], front: Sequence[Point]) -> list[Point]:
    """Return the points that get a label: the front, the baseline, and the best of each method."""
    best = {point.variant.method.name: point for point in sorted(shown, key=lambda point: -point.loss)}
    return [point for point in shown if point in front or point in best.values() or point.variant.method.is_baseline]
