"""A console on which tables can be read however narrow it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from rich.console import Console
from rich.measure import measure_renderables
from rich.table import Column, Table

UNFOLDED = 10_000
"""Room, in characters, in which every column has its longest line."""


class Screen(Console):
    """A console that prints a table that is too wide in parts, each with as many columns as there is room for.

    What does not fit even so is folded: of a number that is cut short, nobody sees that it is.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `rich.console.Console.print` does."""
        parts = (self._fitting(shown) if isinstance(shown, Table) else [shown] for shown in objects)
        super().print(*(part for shown in parts for part in shown), **options)

    def _fitting(self, table: Table) -> list[Table]:
        """Return a table in parts that fit."""
        for column in table.columns:
            column.overflow, column.no_wrap = "fold", False
        if self._width_of(table) <= self.width:
            return [table]
        parts, narrow = (self._parts(table, self.width // share) for share in (3, 5))
        return narrow if len(narrow) == 1 else parts

    def _parts(self, table: Table, text: int) -> list[Table]:
        """Return a table in parts with columns of text of a width; all begin with the columns that name the rows."""
        names = list(takewhile(lambda column: column.justify == "left", table.columns))
        groups = _groups(table.columns[len(names) :])
        if not groups:
            return [table]
        for column in table.columns:
            column.width = self._least_width(column, text)
        parts: list[list[Column]] = []
        for group in groups:
            if parts and self._width_of(_with_columns(table, [*parts[-1], *group])) <= self.width:
                parts[-1] += group
            else:
                parts.append([*names, *group])
        return [_with_columns(table, part, None if place else table.title) for place, part in enumerate(parts)]

    def _width_of(self, table: Table) -> int:
        """Return the width of a table whose lines are not folded, but for columns that have a width."""
        return self.measure(table, options=self.options.update(width=UNFOLDED)).maximum

    def _least_width(self, column: Column, text: int) -> int:
        """Return the width of a column's longest word; columns of text are as wide as their lines, up to a width."""
        word, line = measure_renderables(self, self.options.update(width=UNFOLDED), [column.header, *column.cells])
        return word if column.justify == "right" else max(word, min(line, text))


def _groups(columns: Sequence[Column]) -> list[list[Column]]:
    """Return columns together with those that share their heading, whose own begins with an empty line."""
    groups: list[list[Column]] = []
    for column in columns:
        if groups and str(column.header).startswith("\n"):
            groups[-1].append(column)
        else:
            groups.append([column])
    return groups


def _with_columns(table: Table, columns: Sequence[Column], title: Any = None) -> Table:
    """Return the part of a table with some of its columns."""
    part = Table(*(column.copy() for column in columns), title=title, box=table.box, show_lines=table.show_lines)
    for cells in zip(*(column.cells for column in columns), strict=True):
        part.add_row(*cells)
    return part
