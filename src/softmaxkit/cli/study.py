"""`softmaxkit study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softmaxkit.cli.console import command_line, name_of, reported, results_console, stages, stoppable
from softmaxkit.cli.options import JsonOption, TextOption, output_file, writable_folder
from softmaxkit.methods import BASELINE


def study(
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY", help="Name of a study, or a .toml file; without it, list the studies.", show_default=False
        ),
    ] = None,
    text: TextOption = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="Seed, instead of the study's own. Repeatable.", show_default=False)
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", callback=writable_folder, help="Folder for models and finished points."
        ),
    ] = Path("softmaxkit-study"),
    jobs: Annotated[int, typer.Option(min=1, help="Seeds to train in parallel, each in its own process.")] = 1,
    json: JsonOption = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="PATH", callback=output_file, help="Write an HTML page with a chart to this file."),
    ] = None,
) -> None:
    """Train and measure every point of a study (method, initial values, training budget) with every seed.

    After Ctrl-C, finished points are kept, and the same command continues from there.
    """
    from softmaxkit.report.study import render_study
    from softmaxkit.studies.config import read_study, study_names
    from softmaxkit.studies.grid import run_study
    from softmaxkit.studies.resume import alone_in

    if config is None:
        table = Table("study", "question", "points", "seeds", box=SIMPLE_HEAD)
        for name in study_names():
            listed = read_study(name)
            table.add_row(name, listed.question, str(len(listed.points)), str(len(listed.seeds)))
        results_console(None).print(table)
        return
    chosen = read_study(config)
    with alone_in(output), stages(in_lines=jobs > 1) as stage, stoppable():
        record = run_study(chosen, text, output, seed, command_line(), stage, jobs)
    with reported(record, json, (html, render_study)) as screen:
        screen.print(_table(record))


def _table(record: dict[str, Any]) -> Table:
    """Return a table with a row per method, setting and mode: mean and spread over seeds."""
    from softmaxkit.report.study import setting, shown, summary

    table = Table("method", "setting", "mode", "loss, nats", f"against {BASELINE.method}", box=SIMPLE_HEAD)
    losses, changes = (summary(record["results"], figure) for figure in ("loss_nats", "loss_change_percent"))
    for loss, change in zip(losses, changes, strict=True):
        table.add_row(name_of(loss), setting(loss["settings"]), loss["mode"], shown(loss, 4), shown(change, 2, "%"))
    return table
