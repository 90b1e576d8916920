"""Charts of a simulation: figures against the context, an engine's stages over time, and energy by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped, unused-ignore]

from softmaxkit.report.methods import Method
from softmaxkit.report.style import FURTHER_COLOURS, REFERENCE_COLOUR, axis, base_layout

Result = Mapping[str, Any]

DASHES = {"token": "solid", "deferred": "dash", "element": "dot"}
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
"""Markers of a method's specs; its colour is that of all of them."""
LOGARITHMIC = {"type": "log", "dtick": "D2", "tickformat": ",~r"}
"""An axis with ticks at 1, 2 and 5 times each power of ten, written in full."""

STAGES = {"qk": ("QK", "#0072b2"), "unit": ("row in the unit", "#e69f00"), "pv": ("PV", "#009e73")}
BAR = 0.26
"""Height of a stage's bar, with three bars below each other per query."""

PART_COLOURS = ("#0072b2", "#009e73", "#d55e00", *FURTHER_COLOURS, "#f0e442", REFERENCE_COLOUR)


def curve(results: Sequence[Result], names: Sequence[str], methods: Mapping[str, Method], key: str) -> go.Figure | None:
    """Draw a figure against the context, a line per method and pipeline; None if no result has the figure.

    Colour stands for the method, the dash for the pipeline, and the marker for the spec.
    """
    figure = go.Figure()
    specs: dict[str, list[Any]] = {}
    for result in results:
        if result.get("spec") not in specs.setdefault(result["method"], []):
            specs[result["method"]].append(result.get("spec"))
    for name in dict.fromkeys(names):
        own = [result for result, other in zip(results, names, strict=True) if other == name and key in result]
        if own:
            figure.add_scatter(
                x=[result["context"] for result in own],
                y=[result[key] for result in own],
                name=name,
                mode="lines+markers",
                line={"color": methods[own[0]["method"]].colour, "dash": DASHES[own[0]["pipeline"]]},
                marker={"symbol": SYMBOLS[specs[own[0]["method"]].index(own[0].get("spec")) % len(SYMBOLS)]},
            )
    if not figure.data:
        return None
    contexts = sorted({result["context"] for result in results})
    ticks = {"tickvals": contexts, "ticktext": [f"{context:,}" for context in contexts]}
    figure.update_layout(
        base_layout(
            height=320,
            showlegend=True,
            xaxis=axis(title="context, tokens", type="log", **ticks),
            yaxis=axis(**({"rangemode": "tozero"} if key.endswith("percent") else LOGARITHMIC)),
        )
    )
    return figure


def gantt(timeline: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Draw when an engine's stages work on the last queries of a head: a row per query, a bar per stage."""
    figure = go.Figure()
    for place, (stage, (title, colour)) in enumerate(STAGES.items()):
        figure.add_bar(
            x=[query[stage][1] - query[stage][0] for query in timeline],
            base=[query[stage][0] for query in timeline],
            y=[f"query {query['query']}" for query in timeline],
            name=title,
            orientation="h",
            width=BAR,
            offset=(place - len(STAGES) / 2) * BAR,
            marker={"color": colour},
        )
    figure.update_layout(
        base_layout(
            height=60 + 36 * len(timeline),
            showlegend=True,
            barmode="overlay",
            xaxis=axis(title="cycles"),
            yaxis=axis(autorange="reversed", showgrid=False),
        )
    )
    return figure


def by_part(results: Sequence[Result], names: Sequence[str]) -> go.Figure | None:
    """Draw the energy per token by part, a bar per result; None if there are no results."""
    if not results:
        return None
    figure = go.Figure()
    parts = list(dict.fromkeys(part for result in results for part in result["energy_uj_by_part"]))
    for place, part in enumerate(parts):
        share = [
            result["energy_uj_by_part"].get(part, 0.0) * result["energy_uj_per_token"] / result["energy_uj"]
            for result in results
        ]
        colour = PART_COLOURS[place % len(PART_COLOURS)]
        figure.add_bar(x=share, y=names, name=part, orientation="h", marker={"color": colour})
    figure.update_layout(
        base_layout(
            height=80 + 40 * len(names),
            showlegend=True,
            barmode="stack",
            xaxis=axis(title="energy per token, µJ"),
            yaxis=axis(autorange="reversed", showgrid=False),
        )
    )
    return figure
