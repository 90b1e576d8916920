"""Tables of README and docs: their rows, the records that they show, and whether a cell shows a value."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def results(name: str) -> list[dict[str, Any]]:
    return list(json.loads((ROOT / "results" / name).read_text())["results"])


def rows(page: str, head: str, section: str = "") -> list[list[str]]:
    """Return the cells of every table of a page, or of a section of it, whose first line begins so, without the first
    two lines."""
    cells = []
    text = (ROOT / page).read_text(encoding="utf-8")
    if section:
        (text,) = (part for part in re.split(r"^#+ ", text, flags=re.MULTILINE) if part.startswith(f"{section}\n"))
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines and lines[0].startswith(head):
            cells += [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return cells


def shows(cell: str, value: float) -> bool:
    """Is a cell the value, rounded to the digits that it has?"""
    figure = cell.strip("*%").replace(",", "")
    digits = len(figure.partition(".")[2])
    return abs(float(figure) - value) <= 0.5001 * 10**-digits  # a value in the middle may be rounded either way


def wrong(cells: list[str], values: list[float]) -> list[tuple[str, float]]:
    """Return the cells that do not show their values, with these; both lists are of the same length."""
    return [(cell, value) for cell, value in zip(cells, values, strict=True) if not shows(cell, value)]
