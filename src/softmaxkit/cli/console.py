"""What the verbs share on the screen: progress, tables, records."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from softmaxkit.files import write_json
from softmaxkit.methods import METHODS, method_class
from softmaxkit.methods.base.spec import Spec

console = Console(stderr=True, highlight=False, markup=False)
"""Progress and notes go to standard error, so that standard output holds results alone."""

LOG_WIDTH = 160
"""Columns of tables where there is no terminal to fit them to."""

JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="PATH", help="Write the record there; - for standard output.")
]
TextOption = Annotated[
    Path | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="Text to train and measure on; or a data set's name, as Salesforce/wikitext:wikitext-2-raw-v1.",
        show_default="the Python standard library's source",
    ),
]
ContextOption = Annotated[int, typer.Option(min=2, help="Tokens in a window.")]
WindowsOption = Annotated[int, typer.Option(min=1, help="Held-out windows to measure on, at most.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a model that is in the output folder.")]
SeedOption = Annotated[int, typer.Option(help="Of everything random.", min=0)]
MethodsOption = Annotated[
    list[str] | None, typer.Option("--method", help="Measure this method; may be given again.", show_default="all")
]
SpecsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--spec",
        metavar="FILE",
        help="Measure this form, a spec as JSON; may be given again.",
        show_default=False,
    ),
]
SpecOption = Annotated[Path | None, typer.Option("--spec", metavar="FILE", help="A spec as JSON, instead of a method.")]


@contextmanager
def stages() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Show pieces of work with a bar each; one line each where standard error is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def stage(title: str) -> Callable[[int, int], None]:
            if not console.is_terminal:
                console.print(title)
            task = bars.add_task(title, total=None)

            def advance(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total)

            return advance

        yield stage


@contextmanager
def stoppable() -> Iterator[None]:
    """Say where a training was stopped by Ctrl-C, and stop."""
    from softmaxkit.models.trainer import Interrupted

    try:
        yield
    except Interrupted as error:
        console.print(str(error))
        raise KeyboardInterrupt from None


def write_record(record: dict[str, Any], path: Path | None) -> None:
    """Write a record to a file, or to standard output for "-"."""
    if path == Path("-"):
        print(json.dumps(record, indent=1))
    elif path is not None:
        write_json(path, record)
        console.print(f"record: {path}")


def command_line() -> list[str]:
    """Return the command as it was given, for the record."""
    return ["softmaxkit", *sys.argv[1:]]


def results_console(json_path: Path | None) -> Console:
    """Return where tables go: standard output, or standard error where that holds the record."""
    if json_path == Path("-"):
        return console
    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(highlight=False, width=LOG_WIDTH)


def output_folder(path: Path, overwrite: bool) -> None:
    """Refuse, before any work, a folder that a model cannot be written to or that holds one already.

    Raises:
        ValueError: it is a file, holds something else, or a model and `overwrite` is not set.
    """
    from softmaxkit.models.checkpoint import check_folder

    check_folder(path)
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise ValueError(f"{path} holds a model already; give another --output, or --overwrite")


def chosen_specs(methods: list[str] | None, files: list[Path] | None) -> list[Spec]:
    """Return the specs in files and the forms of methods; those of all methods where neither are given.

    Raises:
        ValueError: as `chosen_spec`.
    """
    specs = [chosen_spec(None, file) for file in files or []]
    names = methods or ([] if files else METHODS)
    specs += [form for name in names for form in method_class(name.lower()).variants()]
    return list(dict.fromkeys(specs))


def chosen_spec(method: str | None, spec_file: Path | None) -> Spec:
    """Return a spec by a method's name or from a JSON file.

    Raises:
        ValueError: neither or both are given, the method is unknown, or the file cannot be read.
    """
    if (method is None) == (spec_file is None):
        raise ValueError("give either a METHOD or --spec FILE; 'softmaxkit methods' lists the methods")
    if spec_file is None:
        return method_class(str(method).lower())()
    try:
        text = spec_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the spec {spec_file}: {getattr(error, 'strerror', None) or error}") from None
    try:
        return Spec.from_json(text)
    except ValueError as error:
        raise ValueError(f"{spec_file}: {error}") from None
