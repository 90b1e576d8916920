"""What the benchmarks share: options, the record of a run, rounds on the CPU, and errors in one line."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from softmaxkit.cli.console import results_console, stages, write_record
from softmaxkit.cli.options import writable_file
from softmaxkit.kernels.backends import backend_name
from softmaxkit.record import make_record
from softmaxkit.script import one_line_errors
from softmaxkit.studies.machine import processor
from softmaxkit.studies.rounds import in_turn, quartile_ratios, quartiles
from softmaxkit.studies.speed import torch_with_threads

Results = list[dict[str, Any]]


def count(text: str) -> int:
    """Return the number in an argument.

    Raises:
        ArgumentTypeError: it is not a whole number of 1 or more.
    """
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f"must be a whole number of 1 or more, not {text!r}")
    return int(text)


def options(description: str | None, rounds: int | None = None) -> ArgumentParser:
    """Return a parser with `--json`, and for what is timed with `--rounds`, whose default is given, and `--threads`."""
    parser = ArgumentParser(description=description)
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write the record to this file; - for standard output"
    )
    if rounds is not None:
        parser.add_argument(
            "--rounds", type=count, default=rounds, help=f"timed rounds, after one that warms up (default: {rounds})"
        )
        parser.add_argument("--threads", type=count, default=1, help="CPU threads (default: 1)")
    return parser


def run(
    parser: ArgumentParser,
    measure: Callable[[Namespace], tuple[dict[str, Any], Results]],
    lines: Callable[[Mapping[str, Any]], Iterable[str]],
) -> None:
    """Measure, print the lines that show the record, and write it to `--json`.

    Args:
        parser: of the command line, from `options`.
        measure: returns the inputs and the results of the record for the parsed options.
        lines: returns the lines that show a record.
    """
    arguments = parser.parse_args()
    with one_line_errors(parser):
        writable_file(arguments.json)
        inputs, results = measure(arguments)
        record = make_record(["python", f"benchmarks/{parser.prog}", *sys.argv[1:]], 0, inputs, results)
        screen = results_console(arguments.json)
        for line in lines(record):
            screen.print(line, soft_wrap=True)
        write_record(record, arguments.json)


def timed(runs: Mapping[str, Callable[[], float]], arguments: Namespace, title: str) -> dict[str, dict[str, float]]:
    """Call all of them in turn with `--threads`, in every round; each returns its seconds.

    Returns:
        For each, `seconds`, the median of the rounds, and the quartiles of each round's ratio to the first of them:
        `time_over_NAME`, the median, with the first one's name, and this with the suffixes `_low` and `_high`.
    """
    with torch_with_threads(arguments.threads), stages() as stage:
        measured = in_turn([*runs.values()], arguments.rounds, stage(title))
    first = next(iter(runs))
    figures = {}
    for name, seconds in zip(runs, measured, strict=True):
        low, middle, high = quartile_ratios(seconds, measured[0])
        over = f"time_over_{first}"
        figures[name] = {"seconds": quartiles(seconds)[1], over: middle, f"{over}_low": low, f"{over}_high": high}
    return figures


def machine(arguments: Namespace) -> dict[str, Any]:
    """Return what the record of something timed says of how it was timed."""
    return {
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "kernels": backend_name(),
        "processor": processor(),
    }


def machine_line(record: Mapping[str, Any]) -> str:
    """Return a line about processor, threads and kernels."""
    inputs = record["inputs"]
    threads = f"{inputs['threads']} thread{'s' if inputs['threads'] > 1 else ''}"
    return f"{inputs['processor']['name']}, {threads}, kernels: {inputs['kernels']}, {inputs['rounds']} rounds"
