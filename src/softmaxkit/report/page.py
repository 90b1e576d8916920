"""The page of a comparison: what its template is filled with."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped, unused-ignore]
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped, unused-ignore]

from softmaxkit.report import charts, panels, provenance
from softmaxkit.report.columns import cells, shown
from softmaxkit.report.finding import best, finding
from softmaxkit.report.papers import HEADINGS, against_papers, sources
from softmaxkit.report.record import MODES, read_variants
from softmaxkit.report.trade_off import trade_off


def render(record: Mapping[str, Any]) -> str:
    """Return a record of a comparison as one self-contained HTML page.

    Args:
        record: the JSON object that `softmaxkit compare` writes.

    Returns:
        The page, with its charts and the library that draws them; it loads nothing else.

    Raises:
        ValueError: the record has another schema or no results, or a result has no method or mode.
    """
    variants = read_variants(record)
    columns = shown(variants)
    chosen = best(variants)
    figures = {
        "trade_off": trade_off(variants),
        "loss_change": charts.loss_change(variants),
        "training": charts.training(variants),
        "function": panels.function(variants),
        "error": panels.error(variants),
    }
    page = templates().get_template("page.html.j2")
    return page.render(
        subject=provenance.subject(record),
        finding=finding(variants),
        columns=columns,
        modes=MODES,
        rows=[(variant, cells(variant, columns)) for variant in variants],
        best=chosen[0] if chosen else None,
        papers=against_papers(variants),
        paper_headings=HEADINGS,
        paper_sources=sources(variants),
        figures={name: script_json(figure) for name, figure in figures.items() if figure is not None},
        command=provenance.command(record),
        sections=provenance.sections(record),
        recorded=[(variant, provenance.recorded(variant)) for variant in variants],
        plotly_js=Markup(get_plotlyjs()),
    )


def templates() -> Environment:
    """Return the pages' templates."""
    return Environment(
        loader=PackageLoader("softmaxkit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def script_json(figure: go.Figure) -> Markup:
    """Return a figure as JSON in which no text can end the surrounding script element."""
    return Markup(figure.to_json().translate({ord(character): f"\\u{ord(character):04x}" for character in "<>&"}))
