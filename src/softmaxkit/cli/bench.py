"""`softmaxkit bench`."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softmaxkit.cli.console import command_line, results_console, stages, write_record
from softmaxkit.cli.options import JsonOption, MethodsOption, SeedOption, SpecsOption, chosen_specs

SHAPES = ("4096x128", "4096x1024", "1024x4096", "256x32768", "64x131072", "12x1024x1024x64", "12x1x32768x64")


def bench(
    method: MethodsOption = None,
    spec: SpecsOption = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="ROWSxKEYS of a softmax, or HEADSxQUERIESxKEYSxCHANNELS of an attention; may be given again.",
            show_default=", ".join(SHAPES),
        ),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Number of threads; may be given again.", show_default="1, and all cores"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything runs, in turn.")] = 9,
    compiled: Annotated[bool, typer.Option("--compile", help="Measure torch.softmax by torch.compile, too.")] = False,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Measure the speed of the methods on this machine, beside torch and a plain copy.

    Everything runs in turn in one process, on the same scores. Speedups are over torch.softmax, or over
    scaled_dot_product_attention; "new memory" is for calls that return a new tensor, as most do. "error" is against the
    method itself in float64, "from exact" the output's distance to exact attention, which the method itself has too.
    """
    shapes = tuple(_shape(text) for text in shape or SHAPES)
    specs = chosen_specs(method, spec)
    from softmaxkit.studies.speed import SpeedOptions, distinct, measure_speed

    counts = tuple(dict.fromkeys(threads or (1, os.cpu_count() or 1)))
    options = SpeedOptions(distinct(specs), shapes, counts, rounds, compiled, seed)
    with stages() as stage:
        record = measure_speed(options, command_line(), stage)
    screen = results_console(json)
    for table in _tables(record):
        screen.print(table)
    screen.print(f"kernels: {record['inputs']['kernels']}")
    write_record(record, json)


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if len(parts) not in (2, 4) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"a shape is ROWSxKEYS or HEADSxQUERIESxKEYSxCHANNELS, such as 1024x4096, not {text!r}")
    return tuple(map(int, parts))


def _tables(record: dict[str, Any]) -> list[Table]:
    """Return a table for each shape and number of threads."""
    tables: dict[tuple[Any, ...], Table] = {}
    for result in record["results"]:
        shape, threads = result["shape"], result["threads"]
        key = (*shape, threads)
        if key not in tables:
            tables[key] = _empty_table(shape, threads)
        name = " ".join(part for part in (result["method"], result.get("variant"), result.get("storage")) if part)
        error = result.get("error_max", result.get("error_rms"))
        tables[key].add_row(
            name,
            result.get("mode", ""),
            f"{1e3 * result['seconds']:.3f}",
            f"{result['speedup_over_torch']:.2f}x",
            f"{result['time_over_copy']:.2f}",
            *([f"{result['speedup_over_torch_new_memory']:.2f}x"] if len(shape) == 2 else []),
            "" if error is None else f"{error:.1e}",
            *([_percent(result.get("difference_from_exact_rms"))] if len(shape) == 4 else []),
        )
    return list(tables.values())


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2g}%"


def _empty_table(shape: list[int], threads: int) -> Table:
    softmax = len(shape) == 2
    axes = "rows x keys" if softmax else "heads x queries x keys x channels"
    title = f"{'x'.join(map(str, shape))} ({axes}), {threads} thread{'s' if threads > 1 else ''}"
    table = Table("method", "mode", title=title, box=SIMPLE_HEAD)
    columns = ["ms", "over torch", "copies", *(["new memory: over torch"] if softmax else []), "error"]
    for column in [*columns, *([] if softmax else ["from exact"])]:
        table.add_column(column, justify="right")
    return table
