"""Tables as they are copied and downloaded: plain figures with all their digits, beside what the page shows."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup


class Sheet(NamedTuple):
    """A table as CSV has it: a heading for each column, and the rows."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]


def script_text(text: str) -> Markup:
    """Return JSON in which no text can end the surrounding script element."""
    return Markup(text.translate({ord(character): f"\\u{ord(character):04x}" for character in "<>&"}))


def sheet_json(sheet: Sheet) -> Markup:
    """Return a sheet as JSON for the page's script, every cell as the text that CSV has there."""
    rows = [[_written(value) for value in row] for row in sheet.rows]
    return script_text(json.dumps({"headings": list(sheet.headings), "rows": rows}))


def _written(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, default=str)
    return str(value)
