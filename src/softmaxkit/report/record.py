"""Reading and validation of records for reports."""

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
    """A variant of a method, with its result in each mode that was run."""

    method: Method
    name: str
    results: Mapping[str, Result]

    @property
    def label(self) -> str:
        """Title and name in Plotly's markup: the title in bold, both shortened if long."""
        return self.shortened()

    def shortened(self, limit: int = 40) -> str:
        """Return the label with title and name of at most `limit` characters each."""
        return labelled(self.method.title, self.name, limit)

    def figure(self, key: str, mode: str) -> float | None:
        """Return a figure of one mode; None if it is absent or not a finite number."""
        return finite(self.results.get(mode, {}).get(key))

    def series(self, part: str, mode: str) -> Mapping[str, Sequence[float | None]]:
        """Return one part of a mode's series, with None for values that are not finite; empty if absent."""
        points = (self.results.get(mode, {}).get("series") or {}).get(part) or {}
        return {key: [finite(value) for value in values] for key, values in points.items() if values}


def labelled(title: str, name: str, limit: int = 40) -> str:
    """Return a title and a name in Plotly's markup: the title in bold, each of at most `limit` characters."""
    title, name = (html.escape(shortened(text, limit)) for text in (title, name))
    return f"<b>{title}</b> {name}" if name else f"<b>{title}</b>"


def shortened(text: str, limit: int = 40) -> str:
    """Return a text shortened to at most `limit` characters."""
    return textwrap.shorten(text, limit, placeholder="…")


def finite(value: object) -> float | None:
    """Return the value if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def read_variants(record: Mapping[str, Any]) -> list[Variant]:
    """Validate the record and group its results by method and variant, methods in order of appearance.

    Raises:
        ValueError: the record has another schema or no results, or a result has no method or mode or is a duplicate.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"a record must be a JSON object, got a {type(record).__name__}")
    schema = record.get("schema")
    if type(schema) is not int or schema != SCHEMA:  # True and 1.0 equal 1
        actual = "no schema" if schema is None else f"schema {schema!r}"
        raise ValueError(f"the record has {actual}, but this report reads schema {SCHEMA}: write the record again")
    results = record.get("results")
    if not isinstance(results, Sequence) or isinstance(results, str) or not results:
        raise ValueError(f"the record's results must be a list of at least one result, got {results!r}")

    gathered: dict[str, dict[str, dict[str, Result]]] = {}
    for position, result in enumerate(results):
        method, name, mode = _identity(result, position)
        modes = gathered.setdefault(method, {}).setdefault(name, {})
        if mode in modes:
            raise ValueError(
                f"result {position} is a second {method!r} {name!r} in mode {mode!r}; each may appear only once"
            )
        modes[mode] = result
    methods = read_methods(record, gathered)
    return [
        Variant(methods[method], name, modes) for method, names in gathered.items() for name, modes in names.items()
    ]


def _identity(result: object, position: int) -> tuple[str, str, str]:
    if not isinstance(result, Mapping):
        raise ValueError(f"result {position} must be a JSON object, got a {type(result).__name__}")
    method, name, mode = result.get("method"), result.get("variant") or "", result.get("mode")
    if not isinstance(method, str) or not method:
        raise ValueError(f"result {position} has method {method!r}, but a method must be a non-empty string")
    if mode not in MODES:
        raise ValueError(f"result {position} has mode {mode!r}, but a mode must be 'float' or 'integer'")
    return method, str(name), str(mode)
