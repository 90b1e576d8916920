"""Records of `softmaxkit synth` as Markdown tables, a row per netlist."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

ABSENT = "–"

Result = Mapping[str, Any]
Columns = Sequence[tuple[str, Callable[[Result], str]]]


def _figure(key: str, specification: str = ",.0f") -> Callable[[Result], str]:
    return lambda result: format(result[key], specification) if result.get(key) is not None else ABSENT


def _three_digits(key: str, specification: str, least: float) -> Callable[[Result], str]:
    """Return a formatter that uses a specification, or three significant digits for figures below `least`."""
    return lambda result: _figure(key, specification if (result.get(key) or 0.0) >= least else ".3g")(result)


_energy = partial(_three_digits, specification=",.1f", least=10)
_area = partial(_three_digits, specification=",.0f", least=100)


def unit_title(result: Result, methods: Mapping[str, Any]) -> str:
    """Return the name of a result: the method's title and the form."""
    title = methods.get(result["method"], {}).get("title", result["method"])
    return ", ".join(filter(None, (str(title), result["form"] or result["variant"])))


ENERGY: Columns = (
    ("energy per score, pJ", _energy("energy_pj_per_element")),
    ("without glitches", _energy("energy_without_glitches_pj_per_element")),
    ("with all", _energy("energy_with_all_glitches_pj_per_element")),
)
MEMORY: Columns = (
    ("memory, µm²", _figure("memory_area_um2")),
    ("its energy per score, pJ", _energy("memory_energy_pj_per_element")),
)
OPERATING_POINTS: Columns = (
    ("lanes", _figure("lanes", "d")),
    ("target clock, MHz", lambda result: f"{1e3 / result['clock_ns']:,.0f}"),
    ("reached", _figure("fmax_mhz")),
    ("area, µm²", _area("area_um2")),
    *ENERGY,
    *MEMORY,
)
PARTS: Columns = (
    ("area, µm²", _area("area_datapath_um2")),
    ("tables", lambda result: f"{result.get('area_tables_um2', 0):,.0f}"),
    ("row buffer", lambda result: f"{result.get('area_row_buffer_um2', 0):,.0f}"),
    ("clock, MHz", _figure("fmax_mhz")),
    ("energy per score, pJ", _energy("energy_without_row_buffer_pj_per_element")),
    ("row buffer", _energy("energy_row_buffer_pj_per_element")),
    ("all, without glitches", _energy("energy_without_glitches_pj_per_element")),
    ("with all glitches", _energy("energy_with_all_glitches_pj_per_element")),
    ("fastest netlist, MHz", _figure("fastest_mhz")),
    ("its area", _figure("area_of_fastest_um2")),
)


def operating_points(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the table of a Pareto record: a row per netlist, grouped by form."""
    titles = [unit_title(result, record["methods"]) for result in record["results"]]
    together = sorted(record["results"], key=lambda result: titles.index(unit_title(result, record["methods"])))
    yield from _lines(record, together, OPERATING_POINTS)


def parts(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the table of a record of units: their area and energy by part."""
    yield from _lines(record, record["results"], PARTS)


def _lines(record: Mapping[str, Any], results: Sequence[Result], columns: Columns) -> Iterator[str]:
    """Yield a table's lines, omitting columns without figures."""
    written = [[unit_title(result, record["methods"]), *(write(result) for _, write in columns)] for result in results]
    headings = ["unit", *(heading for heading, _ in columns)]
    filled = [place for place in range(len(headings)) if any(cells[place] != ABSENT for cells in written)]
    for cells in (headings, ["---"] * len(headings), *written):
        yield f"| {' | '.join(cells[place] for place in filled)} |"
