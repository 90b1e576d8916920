"""Tables for copying and downloading: unrounded figures behind those that the page shows."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup


class Sheet(NamedTuple):
    """A table for CSV: the column headings, and the rows."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]


def script_text(text: str) -> Markup:
    """Escape JSON so that no text in it can close the surrounding script element."""
    return Markup(text.translate({ord(character): f"\\u{ord(character):04x}" for character in "<>&"}))


def sheet_json(sheet: Sheet) -> Markup:
    """Return a sheet as JSON for the page's script, with every cell as its CSV text."""
    rows = [[_written(value) for value in row] for row in sheet.rows]
    return script_text(json.dumps({"headings": list(sheet.headings), "rows": rows}))


def _written(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, default=str)
    return str(value)
