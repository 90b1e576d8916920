"""Published hardware figures compared with ours."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from softmaxkit.report.columns import number
from softmaxkit.report.record import Variant, finite
from softmaxkit.report.sheets import Sheet

PROCESS, TOOLS = "sky130", "open"
"""Our units are mapped to this process with open-source tools, so only such figures are comparable."""


class Figure(NamedTuple):
    """A figure that is compared.

    Attributes:
        name: its name in the table.
        unit: its unit on both sides.
        paper: its key in published figures.
        ours: its key in results.
        format: formats a value.
        ratio: name of the ratio between two methods; empty if none is shown.
    """

    name: str
    unit: str
    paper: str
    ours: str
    format: Callable[[Any], str]
    ratio: str = ""


FIGURES = (
    Figure("area", "µm²", "area_um2", "area_um2", number(",.0f", " µm²"), ratio="area"),
    Figure("energy per score", "pJ", "energy_pj", "energy_pj_per_element", number(",.3g", " pJ"), ratio="energy"),
    Figure("clock", "MHz", "fmax_mhz", "fmax_mhz", number(",.0f", " MHz")),
)
HEADINGS = ("paper", "ours")
_ratio = number(".3g", "×")


class Unit(NamedTuple):
    """A method's unit with its published and our figures, by name."""

    title: str
    source: str
    paper: Mapping[str, float]
    ours: Mapping[str, float]


class Comparison(NamedTuple):
    """A line of the table: its label, the paper's figure and ours as text, and both as numbers."""

    what: str
    cells: Sequence[str]
    values: Sequence[float]
    unit: str


def against_papers(variants: Sequence[Variant]) -> list[Comparison]:
    """Return the lines of the table; empty if fewer than two published units were synthesised here."""
    units = _units(variants)
    if len(units) < 2:
        return []
    lines = [
        _line(f"{unit.title}, {figure.name}", figure, unit.paper[figure.name], unit.ours[figure.name])
        for unit in units
        for figure in FIGURES
    ]
    smallest, *larger = units
    for unit in larger:
        for figure in FIGURES:
            if figure.ratio:
                paper, ours = (
                    above[figure.name] / below[figure.name]
                    for above, below in ((unit.paper, smallest.paper), (unit.ours, smallest.ours))
                )
                what = f"{unit.title} over {smallest.title}, {figure.ratio}"
                lines.append(Comparison(what, (_ratio(paper), _ratio(ours)), (paper, ours), "×"))
    return lines


def _line(what: str, figure: Figure, *values: float) -> Comparison:
    return Comparison(what, [figure.format(value) for value in values], values, figure.unit)


def sheet(lines: Sequence[Comparison]) -> Sheet:
    """Return the table for export, with all digits and a column for the units."""
    return Sheet(["figure", "unit", *HEADINGS], [[line.what, line.unit, *line.values] for line in lines])


def sources(variants: Sequence[Variant]) -> str:
    """Return the sources of the published figures."""
    return "; ".join(dict.fromkeys(unit.source for unit in _units(variants) if unit.source))


def _units(variants: Sequence[Variant]) -> list[Unit]:
    """Return the published units that were synthesised here, by increasing published area."""
    units = [unit for variant in variants if not variant.name and (unit := _unit(variant))]
    return sorted(units, key=lambda unit: unit.paper["area"])


def _unit(variant: Variant) -> Unit | None:
    """Return a variant's unit; None if the paper or the result lacks a figure or uses another process."""
    published = next(
        (entry for entry in variant.method.published if (entry.get("process"), entry.get("tools")) == (PROCESS, TOOLS)),
        None,
    )
    if published is None or variant.results.get("integer", {}).get("cells") != PROCESS:
        return None
    paper = {figure.name: value for figure in FIGURES if (value := finite(published.get(figure.paper)))}
    ours = {figure.name: value for figure in FIGURES if (value := variant.figure(figure.ours, "integer"))}
    if len(paper) < len(FIGURES) or len(ours) < len(FIGURES):
        return None
    title = str(published.get("title") or variant.method.title)
    return Unit(title, str(published.get("source") or ""), paper, ours)
