"""Reading a record: what the report takes from it and what it refuses."""

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from softmaxkit.report.methods import Method, read_methods

SCHEMA = 1
MODES = ("float", "integer")

Result = Mapping[str, Any]


class Variant(NamedTuple):
    """One variant of one method, with its result in each mode that was run."""

    method: Method
    name: str
    results: Mapping[str, Result]

    @property
    def label(self) -> str:
        """Title and name as Plotly's markup: the title in bold, long texts shortened."""
        return self.shortened()

    def shortened(self, most: int = 40) -> str:
        """Return the label with title and name of at most so many characters each."""
        return labelled(self.method.title, self.name, most)

    def figure(self, key: str, mode: str) -> float | None:
        """Return a figure of one mode, or None where it is absent or not a finite number."""
        return finite(self.results.get(mode, {}).get(key))

    def series(self, part: str, mode: str) -> Mapping[str, Sequence[float | None]]:
        """Return the finite points of one part of the series of one mode, empty where there is none."""
        points = (self.results.get(mode, {}).get("series") or {}).get(part) or {}
        return {key: [finite(value) for value in values] for key, values in points.items() if values}


def labelled(title: str, name: str, most: int = 40) -> str:
    """Return a title and a name as Plotly's markup: the title in bold, each of at most so many characters."""
    title, name = (html.escape(shortened(text, most)) for text in (title, name))
    return f"<b>{title}</b> {name}" if name else f"<b>{title}</b>"


def shortened(text: str, most: int = 40) -> str:
    """Return a text as charts have room for it."""
    return textwrap.shorten(text, most, placeholder="…")


def finite(value: object) -> float | None:
    """Return the value if it is a finite number, otherwise None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def read_variants(record: Mapping[str, Any]) -> list[Variant]:
    """Check the record and gather its results by method and variant, methods in order of appearance."""
    if not isinstance(record, Mapping):
        raise ValueError(f"a record is a JSON object, but a {type(record).__name__} was given")
    schema = record.get("schema")
    if schema != SCHEMA:
        actual = "no schema" if schema is None else f"schema {schema!r}"
        raise ValueError(f"the record has {actual}, but this report reads schema {SCHEMA}: write the record again")
    results = record.get("results")
    if not isinstance(results, Sequence) or isinstance(results, str) or not results:
        raise ValueError(f"the record's results are {results!r}, but a report needs a list of at least one result")

    gathered: dict[str, dict[str, dict[str, Result]]] = {}
    for position, result in enumerate(results):
        method, name, mode = _identity(result, position)
        modes = gathered.setdefault(method, {}).setdefault(name, {})
        if mode in modes:
            raise ValueError(
                f"result {position} is a second {method!r} {name!r} in mode {mode!r}: each may appear once"
            )
        modes[mode] = result
    methods = read_methods(record, gathered)
    return [
        Variant(methods[method], name, modes) for method, names in gathered.items() for name, modes in names.items()
    ]


def _identity(result: object, position: int) -> tuple[str, str, str]:
    if not isinstance(result, Mapping):
        raise ValueError(f"result {position} is a {type(result).__name__}, but each result is a JSON object")
    method, name, mode = result.get("method"), result.get("variant") or "", result.get("mode")
    if not isinstance(method, str) or not method:
        raise ValueError(f"result {position} has method {method!r}, but a method is a name")
    if mode not in MODES:
        raise ValueError(f"result {position} has mode {mode!r}, but a mode is 'float' or 'integer'")
    return method, str(name), str(mode)
