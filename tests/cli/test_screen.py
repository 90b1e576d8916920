"""Tables on screens of any width: whole numbers, in parts if need be."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import pytest
from rich.table import Table

from softmaxkit.cli.screen import Screen
from softmaxkit.cli.silicon_tables import cells_table

AREA = {"area_datapath_um2": 75779, "area_tables_um2": 12157, "area_row_buffer_um2": 204135}
RESULT: dict[str, Any] = {"method": "exaq", "form": "2 bits, constant clip", "fmax_mhz": 209, "fastest_mhz": 286} | AREA
SIZES = ("75,779", "12,157", "204,135", "209", "286")


def shown(table: Table, width: int) -> list[str]:
    screen = Screen(file=StringIO(), width=width)
    screen.print(table)
    lines = str(screen.file.getvalue()).splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    return lines


@pytest.mark.parametrize(("width", "parts"), [(70, 4), (80, 3), (100, 2), (120, 2), (160, 1)])
def test_a_table_that_is_too_wide_is_printed_in_parts(width: int, parts: int) -> None:
    lines = shown(cells_table([RESULT, RESULT | {"form": "3 bits"}]), width)
    text = "\n".join(lines)
    assert all(text.split().count(size) == 2 for size in SIZES)
    assert text.count("Standard cells") == 1
    assert len([line for line in lines if "─" in line]) == parts
    assert text.count("exaq 3 bits") == parts
    clock = next(place for place, line in enumerate(lines) if "209" in line)
    assert "clock" in "\n".join(lines[:clock])


def test_columns_stay_with_the_heading_that_they_share() -> None:
    table = Table("unit")
    for heading in ("first", "area\nunits", "\ntables", "\nrows", "last"):
        table.add_column(heading, justify="right")
    table.add_row("softermax", *["1,234,567,890"] * 5)
    text = "\n".join(shown(table, 62))
    heads = [re.sub(r"[┃┏━┳┓\s]+", " ", part) for part in text.split("┏")[1:]]
    assert [[word for word in ("first", "units", "tables", "rows", "last") if word in head] for head in heads] == [
        ["first"],
        ["units", "tables", "rows"],
        ["last"],
    ]


def test_names_become_narrower_if_that_keeps_a_table_whole() -> None:
    table = Table("unit")
    for heading in "abcd":
        table.add_column(heading, justify="right")
    table.add_row("exaq 2 bits, constant clip", *["1,234,567"] * 4)
    assert sum("unit" in line for line in shown(table, 70)) == 1
    assert sum("unit" in line for line in shown(table, 55)) == 2


@pytest.mark.parametrize("width", [40, 60, 160])
@pytest.mark.parametrize("justify", ["left", "right"])
def test_no_number_of_a_table_is_cut(width: int, justify: Any) -> None:
    table = Table("method")
    for heading in "abcdef":
        table.add_column(heading, justify=justify)
    table.columns[0].no_wrap = True
    table.add_row("exaq 2 bits, gaussian clip", *["1,119,307"] * 6)
    text = "\n".join(shown(table, width))
    assert "…" not in text
    assert len(re.findall(r"[013579]", text)) == 6 * 7
