"""The methods of a record: titles, colours, published figures, and the baseline."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

from softmaxkit.report.style import FURTHER_COLOURS, REFERENCE_COLOUR

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


class Method(NamedTuple):
    """A method as the report shows it.

    Attributes:
        name: its name in the record's results.
        title: its name as its authors write it.
        colour: e.g. "#0072b2", the same in every chart.
        is_baseline: whether the other methods are compared with this one.
        published: figures of its hardware from papers, as in the record.
    """

    name: str
    title: str
    colour: str
    is_baseline: bool = False
    published: Sequence[Mapping[str, Any]] = ()


def read_methods(record: Mapping[str, Any], names: Iterable[str]) -> dict[str, Method]:
    """Return the methods with these names, in order of appearance.

    A method without metadata, as in older records, gets its name as title and a colour from the palette.
    """
    described = _mapping(record.get("methods"))
    baseline = baseline_name(record)
    palette = cycle(FURTHER_COLOURS)
    methods = {}
    for name in dict.fromkeys(names):
        about = _mapping(described.get(name))
        colour = str(about.get("colour"))
        if not _COLOUR.fullmatch(colour):  # the colour goes into the page's CSS: prevent injection
            colour = REFERENCE_COLOUR if name == baseline else next(palette)
        published = about.get("published")
        entries = published if isinstance(published, list | tuple) else ()
        methods[name] = Method(
            name,
            title=str(about.get("title") or name),
            colour=colour,
            is_baseline=name == baseline,
            published=[entry for entry in entries if isinstance(entry, Mapping)],
        )
    return methods


def baseline_name(record: Mapping[str, Any]) -> str | None:
    """Return the method that the others are compared with; in older records without metadata, that of result 0."""
    described = record.get("methods")
    if not isinstance(described, Mapping):
        return next((str(result["method"]) for result in record["results"]), None)
    return next((name for name, about in described.items() if _mapping(about).get("baseline") is True), None)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
