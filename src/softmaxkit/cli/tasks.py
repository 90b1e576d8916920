"""`softmaxkit tasks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softmaxkit.cli.console import command_line, name_of, reported, stages, stoppable
from softmaxkit.cli.options import JsonOption, MethodsOption, SpecsOption, chosen_specs, model_name, writable_folder
from softmaxkit.recipe import TaskRecipe

FIGURE_TITLES = {"classes": "accuracy", "similarity": "rank correlation", "answers": "F1 of answers"}
"""The metric of each kind of task."""

KEYS = ("method", "variant", "mode")


def tasks(
    model: Annotated[
        str, typer.Argument(callback=model_name, help="An encoder: a folder or hub name.", show_default=False)
    ],
    task: Annotated[
        list[str],
        typer.Argument(
            help="Tasks: folders with a train and a test file (.tsv, .csv, .jsonl, SQuAD's .json), or hub data sets, "
            "e.g. nyu-mll/glue:mrpc.",
            show_default=False,
        ),
    ],
    method: MethodsOption = None,
    spec: SpecsOption = None,
    examples: Annotated[
        int, typer.Option(min=1, help="Maximum number of examples to fine-tune on.")
    ] = TaskRecipe().examples,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over these examples.")] = TaskRecipe().epochs,
    length: Annotated[int, typer.Option(min=8, help="Maximum length of an example in tokens.")] = TaskRecipe().length,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = TaskRecipe().learning_rate,
    eight_bit: Annotated[
        bool, typer.Option(help="Fine-tune with 8-bit linear layers, including the exact-softmax baseline.")
    ] = True,
    fine_tune: Annotated[
        bool,
        typer.Option("--fine-tune", help="Also fine-tune, in integers, methods that are otherwise only calibrated."),
    ] = False,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Seed. Repeatable.", show_default="0, 1 and 2")] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", callback=writable_folder, help="Folder for models and finished results."
        ),
    ] = Path("softmaxkit-tasks"),
    json: JsonOption = None,
) -> None:
    """Measure the methods in an encoder on tasks, fine-tuned with several seeds; similarity tasks need no training.

    After Ctrl-C, finished results are kept, and the same command continues from there.
    """
    from softmaxkit.studies.resume import alone_in
    from softmaxkit.studies.tasks import TaskOptions, measure_tasks

    specs = chosen_specs(method, spec)
    recipe = TaskRecipe(examples=examples, epochs=epochs, learning_rate=learning_rate, length=length)
    seeds = tuple(seed or (0, 1, 2))
    options = TaskOptions(model, tuple(task), tuple(specs), recipe, eight_bit, fine_tune, seeds, output)
    with alone_in(output), stages() as stage, stoppable():
        record = measure_tasks(options, command_line(), stage)
    with reported(record, json) as screen:
        for table in _tables(record):
            screen.print(table)


def _tables(record: dict[str, Any]) -> list[Table]:
    """Return one table per task: mean and spread over seeds."""
    from softmaxkit.report.study import shown, summary
    from softmaxkit.studies.tasks import main_figure

    tables = []
    for task in dict.fromkeys(result["task"] for result in record["results"]):
        results = [{**result, "settings": {}} for result in record["results"] if result["task"] == task]
        figure = main_figure(results[0])
        table = Table(title=f"{task}: {FIGURE_TITLES[results[0]['kind']]} in percent", box=SIMPLE_HEAD)
        table.add_column("method")
        for heading in ("mode", "training"):
            table.add_column(heading)
        for heading in ("mean", "change from baseline", "worst change"):
            table.add_column(heading, justify="right")
        for value, change in zip(summary(results, figure), summary(results, "change_points"), strict=True):
            members = [result for result in results if all(result[key] == value[key] for key in KEYS)]
            changes = [member["change_points"] for member in members if "change_points" in member]
            table.add_row(
                name_of(value),
                value["mode"],
                members[0]["trained"],
                shown(value, 2),
                shown(change, 2, " "),
                f"{min(changes):+.2f}" if changes else "",
            )
        tables.append(table)
    return tables
