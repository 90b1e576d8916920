"""What the verbs share on the screen: progress, tables, records."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from softmaxkit.files import write_json

console = Console(stderr=True, highlight=False, markup=False)
"""Progress and notes go to standard error, so that standard output holds results alone."""

LOG_WIDTH = 160
"""Columns of tables where there is no terminal to fit them to."""

QUIET = 10.0
"""Seconds between the lines of one stage where there is no terminal, at least."""


@contextmanager
def stages(in_lines: bool = False) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Show each piece of work with a progress bar; in lines where asked, and where standard error is no terminal."""
    if in_lines or not console.is_terminal:
        yield _in_lines
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:

        def stage(title: str) -> Callable[[int, int], None]:
            task = bars.add_task(title, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield stage


def _in_lines(title: str) -> Callable[[int, int], None]:
    """Print that a piece of work begins, and every `QUIET` seconds how far it is and how long it goes on."""
    console.print(title, soft_wrap=True)
    said = time.monotonic()
    first: tuple[float, int] | None = None  # work that goes on from a checkpoint begins in the middle

    def advance(done: int, total: int) -> None:
        nonlocal said, first
        now = time.monotonic()
        began, before = first = first or (now, done)
        if now - said >= QUIET and before < done < total:
            said = now
            left = (now - began) * (total - done) / (done - before)
            console.print(f"{title}: {done} of {total}, {_duration(left)} left", soft_wrap=True)

    return advance


def _duration(seconds: float) -> str:
    """Return a time as one would say it, e.g. "2 min 10 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def stoppable() -> Iterator[None]:
    """Say where Ctrl-C stopped a training, and stop."""
    from softmaxkit.models.trainer import Interrupted

    try:
        yield
    except Interrupted as error:
        console.print(str(error))
        raise KeyboardInterrupt from None


def write_record(record: dict[str, Any], path: Path | None) -> None:
    """Write a record to a file, or to standard output for "-"; None writes nothing."""
    if path == Path("-"):
        print(json.dumps(record, indent=1))
    elif path is not None:
        write_json(path, record)
        console.print(f"record: {path}")


def command_line() -> list[str]:
    """Return the command as it was given, for the record."""
    return ["softmaxkit", *sys.argv[1:]]


def results_console(json_path: Path | None) -> Console:
    """Return where tables go: standard output, or standard error where the record goes to standard output."""
    if json_path == Path("-"):
        return console
    screen = Console(highlight=False, markup=False)
    return screen if screen.is_terminal else Console(highlight=False, markup=False, width=LOG_WIDTH)


def name_of(result: Mapping[str, Any]) -> str:
    """Return what a result is called: method and variant."""
    return f"{result['method']} {result['variant']}".strip()
