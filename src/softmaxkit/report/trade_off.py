"""The main picture: accuracy against energy, a point for each method and variant, with the Pareto front."""

from collections.abc import Sequence
from math import log10
from typing import NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped, unused-ignore]

from softmaxkit.report.charts import percent_ticks, squeezed
from softmaxkit.report.columns import change, number
from softmaxkit.report.record import REFERENCE, Variant
from softmaxkit.report.style import AXIS_COLOUR, Colours, axis, base_layout, label

ENERGY, LOSS = "energy_pj_per_element", "loss_change_percent"
_energy = number(",.3g", " pJ")
_TICKS = [digit * 10.0**power for power in range(-2, 4) for digit in (1, 2, 5)]


class Point(NamedTuple):
    """Where a variant stands: energy of one score in pJ, and change in loss in percent."""

    variant: Variant
    energy: float
    loss: float


def points(variants: Sequence[Variant]) -> list[Point]:
    """Return the points of those variants whose hardware was synthesised."""
    found = []
    for variant in variants:
        energy, loss = variant.figure(ENERGY, "integer"), variant.figure(LOSS, "integer")
        if energy is not None and loss is not None and energy > 0:
            found.append(Point(variant, energy, loss))
    return found


def pareto_front(given: Sequence[Point]) -> list[Point]:
    """Return the points than which none has both less energy and less loss, by rising energy."""
    front: list[Point] = []
    for point in sorted(given, key=lambda each: (each.energy, each.loss)):
        if not front or point.loss < front[-1].loss:
            front.append(point)
    return front


def trade_off(variants: Sequence[Variant], colours: Colours) -> go.Figure | None:
    """Draw each variant's change in loss against the energy of its unit."""
    shown = points(variants)
    if len(shown) < 2:
        return None
    figure = go.Figure()
    front = pareto_front(shown)
    figure.add_scatter(
        x=[each.energy for each in front],
        y=[squeezed(each.loss) for each in front],
        mode="lines",
        line={"color": AXIS_COLOUR, "width": 1.5, "shape": "hv"},
        hoverinfo="skip",
    )
    for point in shown:
        colour, place = colours[point.variant.method], squeezed(point.loss)
        figure.add_scatter(
            x=[point.energy],
            y=[place],
            mode="markers",
            marker={"symbol": "circle", "size": 12, "color": colour},
            name=label(point.variant),
            text=f"{change(point.loss)}, {_energy(point.energy)}",
            hovertemplate="%{fullData.name}: %{text}<extra></extra>",
        )
    for point in _named(shown, front):
        figure.add_annotation(
            x=log10(point.energy),
            y=squeezed(point.loss),
            text=label(point.variant),
            showarrow=False,
            xanchor="left",
            xshift=10,
            yshift=11,
            font={"size": 11, "color": colours[point.variant.method]},
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


def _named(shown: Sequence[Point], front: Sequence[Point]) -> list[Point]:
    """Return the points that get a name: the front, the reference, and the best of each method."""
    best = {point.variant.method: point for point in sorted(shown, key=lambda each: -each.loss)}
    return [each for each in shown if each in front or each in best.values() or each.variant.method == REFERENCE]
