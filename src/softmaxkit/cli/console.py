"""Console output shared by the verbs: progress, tables and records."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from softmaxkit.cli.screen import Screen
from softmaxkit.files import json_text, write_json, write_text

console = Screen(stderr=True, highlight=False, markup=False)
"""Progress and notes go to standard error, so that standard output contains only results."""

LOG_WIDTH = 160
"""Width of tables, in characters, if the output is not a terminal."""

WIDE = 80
"""Width of a terminal, in characters, from which on there is room for a bar and the time elapsed."""

QUIET = 10.0
"""Minimum time between two progress lines of a stage, in seconds, if the output is not a terminal."""


def note(text: str) -> None:
    """Print a line to standard error, which stays whole in a log, and when it is copied from a terminal."""
    console.print(text, soft_wrap=True)


@contextmanager
def stages(in_lines: bool = False) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Yield a function that shows a stage's progress: as a bar, or as lines if `in_lines` or without a terminal."""
    if in_lines or not console.is_terminal:
        yield _in_lines
        return
    with Progress(*_progress_columns(), console=console) as bars:

        def stage(title: str) -> Callable[[int, int], None]:
            task = bars.add_task(title, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield stage


def _progress_columns() -> list[ProgressColumn]:
    """Return the columns of the bars: the title, which is cut where it is too long, and what there is room for."""
    bar, count, elapsed, left = (Column(no_wrap=True) for _ in range(4))  # only columns that may wrap shrink
    columns: list[ProgressColumn] = [_Title("{task.description}", table_column=Column())]
    if console.width >= WIDE:
        columns.append(BarColumn(min(40, console.width // 8), table_column=bar))
    columns.append(MofNCompleteColumn(table_column=count))
    if console.width >= WIDE:
        columns.append(TimeElapsedColumn(table_column=elapsed))
    return [*columns, TimeRemainingColumn(table_column=left)]


class _Title(TextColumn):
    def render(self, task: Task) -> Text:
        title = super().render(task)
        title.no_wrap, title.overflow = True, "ellipsis"
        return title


def _in_lines(title: str) -> Callable[[int, int], None]:
    """Print the title of a stage, and every `QUIET` seconds its progress and the estimated time left."""
    note(title)
    printed = time.monotonic()
    first: tuple[float, int] | None = None  # work resumed from a checkpoint does not begin at 0

    def advance(done: int, total: int) -> None:
        nonlocal printed, first
        now = time.monotonic()
        began, before = first = first or (now, done)
        if now - printed >= QUIET and before < done < total:
            printed = now
            left = (now - began) * (total - done) / (done - before)
            note(f"{title}: {done} of {total}, {_duration(left)} left")

    return advance


def _duration(seconds: float) -> str:
    """Return a duration in words, e.g. "2 min 10 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def stoppable() -> Iterator[None]:
    """Report at which step Ctrl-C stopped a training run, and re-raise it as KeyboardInterrupt."""
    from softmaxkit.models.trainer import Interrupted

    try:
        yield
    except Interrupted as error:
        note(str(error))
        raise KeyboardInterrupt from None


def write_record(record: dict[str, Any], path: Path | None) -> None:
    """Write a record to a file, or to standard output if the path is "-"; do nothing if it is None."""
    if path == Path("-"):
        print(json_text(record))
    elif path is not None:
        write_json(path, record)
        note(f"record: {path}")


@contextmanager
def reported(
    record: dict[str, Any],
    path: Path | None,
    *pages: tuple[Path | None, Callable[[dict[str, Any]], str]],
) -> Iterator[Console]:
    """Yield the console for a record's tables; then write the record and the pages that have a path.

    All are written even if the tables cannot be printed, as the disk is full, or one of the others cannot be written.
    """
    with ExitStack() as writing:
        for page, render in reversed(pages):
            if page is not None:
                writing.callback(_write_page, page, render, record)
        writing.callback(write_record, record, path)
        yield results_console(path)


def _write_page(path: Path, render: Callable[[dict[str, Any]], str], record: dict[str, Any]) -> None:
    write_text(path, render(record))
    note(f"page: {path}")


def command_line() -> list[str]:
    """Return this process's command line, for the record."""
    return ["softmaxkit", *sys.argv[1:]]


def results_console(json_path: Path | None) -> Console:
    """Return the console for tables: standard output, or standard error if that receives the record."""
    screen = Screen(stderr=json_path == Path("-"), highlight=False, markup=False)
    if not screen.is_terminal:
        screen.width = LOG_WIDTH
    return screen


def name_of(result: Mapping[str, Any], *further: str) -> str:
    """Return the name of a result: method, variant and the values of further keys, of those that it has."""
    return " ".join(result[key] for key in ("method", "variant", *further) if result.get(key))
