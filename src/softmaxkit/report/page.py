"""The HTML page of a comparison, and the parts that all pages share."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import plotly.graph_objects as go  # type: ignore[import-untyped, unused-ignore]
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped, unused-ignore]

from softmaxkit.report import charts, columns, panels, papers, provenance
from softmaxkit.report.advice import advice
from softmaxkit.report.finding import finding, leaders
from softmaxkit.report.ledger import Ledger
from softmaxkit.report.record import MODES, Variant, read_variants
from softmaxkit.report.sheets import script_text, sheet_json
from softmaxkit.report.style import DARK_COLOURS
from softmaxkit.report.trade_off import has_memory, trade_off

TEMPLATES = files("softmaxkit.report") / "templates"
SCRIPTS = ("labels.js", "tables.js", "page.js")


class Plot(NamedTuple):
    """A chart for the page's script to draw; if a section has several, each has a title or a variant."""

    figure: Markup
    title: str = ""
    variant: Variant | None = None

    @classmethod
    def of(cls, figure: go.Figure, title: str = "", variant: Variant | None = None) -> "Plot":
        """Convert a Plotly figure to a chart of the page."""
        return cls(script_text(figure.to_json()), title, variant)


def render(record: Mapping[str, Any], claims: Mapping[str, Any] | None = None) -> str:
    """Render the record of a comparison as a self-contained HTML page.

    Args:
        record: the JSON object that `softmaxkit compare` writes.
        claims: the JSON object that `softmaxkit claims` writes, for a section on the papers' claims; None omits it.

    Returns:
        The HTML, including the charts and the library that draws them; it loads no other resources.

    Raises:
        ValueError: the record has another schema or no results, or a result has no method or mode.
    """
    variants = read_variants(record)
    shown = columns.shown(variants)
    whole = {
        "trade_off": trade_off(variants),
        "loss_change": charts.loss_change(variants),
        "training": charts.training(variants),
    }
    divided = {"function": panels.function(variants), "error": panels.error(variants)}
    lines = papers.against_papers(variants)
    return fill(
        "page.html.j2",
        record,
        subject=provenance.subject(record),
        finding=finding(variants),
        advice=advice(variants),
        columns=shown,
        modes=MODES,
        rows=[(variant, columns.cells(variant, shown)) for variant in variants],
        sheet=sheet_json(columns.sheet(variants, shown)),
        leaders=leaders(variants),
        spreads=columns.have_spread(variants),
        papers=lines,
        paper_headings=papers.HEADINGS,
        paper_sources=papers.sources(variants),
        paper_sheet=sheet_json(papers.sheet(lines)),
        ledger=None if claims is None else Ledger.of(claims),
        plots={name: [Plot.of(figure)] if figure else [] for name, figure in whole.items()}
        | {name: [Plot.of(figure, variant=variant) for variant, figure in drawn] for name, drawn in divided.items()},
        without_memory=Plot.of(trade_off(variants, memory=False)) if has_memory(variants) else None,
        recorded=[(variant, provenance.recorded(variant)) for variant in variants],
    )


def fill(template: str, record: Mapping[str, Any], **content: Any) -> str:
    """Render a template with its content and the parts of every page: provenance, scripts and chart library."""
    return (
        templates()
        .get_template(template)
        .render(
            **content,
            command=provenance.command(record),
            sections=provenance.sections(record),
            plotly_js=Markup(get_plotlyjs()),
            script=Markup("".join(TEMPLATES.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)),
            dark_colours=script_text(json.dumps(DARK_COLOURS)),
        )
    )


@cache
def templates() -> Environment:
    """Return the environment of the page templates."""
    return Environment(
        loader=PackageLoader("softmaxkit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
