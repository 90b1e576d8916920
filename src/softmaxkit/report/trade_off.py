"""The main chart: accuracy against energy, a point per unit, with the Pareto front."""

from collections.abc import Sequence
from math import log10
from typing import Any, NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped, unused-ignore]

from softmaxkit.report.charts import error_bar, percent_ticks, squeezed
from softmaxkit.report.columns import change, number, spread_of
from softmaxkit.report.record import Variant, finite, labelled, shortened
from softmaxkit.report.style import AXIS_COLOUR, axis, base_layout, percent

ENERGY, AREA, LOSS = "energy_pj_per_element", "area_um2", "loss_change_percent"
_energy = number(",.3g", " pJ")
_TICKS, _FEW_TICKS = (
    [digit * 10.0**power for power in range(-2, 4) for digit in digits] for digits in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5))
)


class Point(NamedTuple):
    """A unit in the chart.

    Attributes:
        variant: the variant that it computes.
        energy: energy per score in pJ.
        loss: change in loss in percent.
        spread: standard deviation of `loss` over seeds.
        form: the form of the unit; empty for the one in the results table.
        area: area in um2; None if unknown.
        bounds: energy without glitches and with all of them, in pJ.
    """

    variant: Variant
    energy: float
    loss: float
    spread: float | None = None
    form: str = ""
    area: float | None = None
    bounds: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """Variant and form, joined by a comma."""
        return ", ".join(filter(None, (self.variant.name, self.form)))


def points(variants: Sequence[Variant], memory: bool = True) -> list[Point]:
    """Return a point for each synthesised unit of the variants; a variant's units compute the same integers.

    Args:
        variants: the record's variants.
        memory: include the row memory, if the record has its figures.
    """
    synthesised = []
    for variant in variants:
        loss, result = variant.figure(LOSS, "integer"), variant.results.get("integer", {})
        for unit in (result, *result.get("forms", ())):
            energy = finite(unit.get(ENERGY))
            if energy is None or loss is None or energy <= 0:
                continue
            further = (finite(unit.get(f"memory_{ENERGY}")) or 0.0) if memory else 0.0
            area = finite(unit.get(AREA))
            if area is not None and memory:
                area += finite(unit.get(f"memory_{AREA}")) or 0.0
            ends = [finite(unit.get(f"energy_{which}_glitches_pj_per_element")) for which in ("without", "with_all")]
            low, high = (None if end is None else end + further for end in ends)
            synthesised.append(
                Point(
                    variant,
                    energy + further,
                    loss,
                    spread_of(result, LOSS),
                    str(unit.get("form", "")),
                    area,
                    None if low is None or high is None else (low, high),
                )
            )
    return synthesised


def has_memory(variants: Sequence[Variant]) -> bool:
    """Return whether any unit has figures of a row memory."""
    return any(
        point.energy != alone.energy for point, alone in zip(points(variants), points(variants, False), strict=True)
    )


def pareto_front(candidates: Sequence[Point]) -> list[Point]:
    """Return the Pareto front by increasing energy: each point has less loss than all before it."""
    front: list[Point] = []
    for point in sorted(candidates, key=lambda point: (point.energy, point.loss)):
        if not front or point.loss < front[-1].loss:
            front.append(point)
    return front


def trade_off(variants: Sequence[Variant], memory: bool = True) -> go.Figure | None:
    """Draw each variant's change in loss against the energy of its units, with or without the row memory."""
    shown = points(variants, memory)
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
            error_x=_glitches(point),
            mode="markers",
            marker={"symbol": "circle", "size": 12, "color": colour},
            name=labelled(point.variant.method.title, point.name),
            text=f"{change(point.loss)}{spread}, {_energy(point.energy)}{_reach(point)}",
            hovertemplate="%{fullData.name}: %{text}<extra></extra>",
        )
    losses = [point.loss + sign * (point.spread or 0) for point in shown for sign in (-1, 1)]
    ticks = percent_ticks(min(losses), max(losses))
    margin = 0.06 * (squeezed(ticks[-1]) - squeezed(ticks[0]))
    decades = [log10(energy) for point in shown for energy in (point.energy, *(point.bounds or ()))]
    beside = 0.08 * (max(decades) - min(decades)) + 0.02
    counted = ", row memory included" if memory and has_memory(variants) else ""

    left, right = min(decades) - beside, max(decades) + beside

    def across(what: str, ticks: Sequence[float]) -> dict[str, Any]:
        few = sum(left <= log10(tick) <= right for tick in ticks) < 2  # then Plotly chooses finer ones
        fixed = {} if few else {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
        title = f"energy per score{what}, pJ"
        return axis(title=title, type="log", range=[left, right], automargin=False, **fixed)

    figure.update_layout(
        base_layout(
            height=480,
            hovermode="closest",
            xaxis=across(counted, _TICKS),
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
                "bars": [
                    {"x": log10(point.bounds[0]), "toX": log10(point.bounds[1]), "y": squeezed(point.loss)}
                    for point in shown
                    if point.bounds
                ],
                "narrow": {
                    "height": 500,
                    "margin": {"l": 62, "r": 6, "t": 16, "b": 48},
                    "xaxis": across("", _FEW_TICKS),
                },
            },
        )
    )
    return figure


def _glitches(point: Point) -> dict[str, Any]:
    """Return the bounds of a point's energy as an error bar; invisible if they are unknown."""
    if point.bounds is None:
        return {"visible": False}
    low, high = point.bounds
    lengths = {"array": [high - point.energy], "arrayminus": [point.energy - low]}
    return {"type": "data", **lengths, "thickness": 1, "width": 0, "color": point.variant.method.colour}


def _reach(point: Point) -> str:
    if point.bounds is None:
        return ""
    return f" ({_energy(point.bounds[0])} to {_energy(point.bounds[1])}, depending on glitches)"


def _label(point: Point) -> dict[str, Any]:
    """Return the data with which the page's script places a point's label; `x` and `y` are in axis coordinates."""
    return {
        "x": log10(point.energy),
        "y": squeezed(point.loss),
        "title": shortened(point.variant.method.title),
        "name": shortened(point.name),
        "colour": point.variant.method.colour,
    }


def _in_order(shown: Sequence[Point], front: Sequence[Point]) -> list[Point]:
    """Return the points in the order in which their labels are placed, the most important first."""
    best = {point.variant.method.name: point for point in sorted(shown, key=lambda point: -point.loss)}
    first = [point for point in shown if point in front or point in best.values() or point.variant.method.is_baseline]
    return first + [point for point in shown if point not in first]
