"""`softmaxkit evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from softmaxkit.cli.console import command_line, name_of, reported, stages
from softmaxkit.cli.options import (
    ContextOption,
    GgufOption,
    JsonOption,
    ModelArgument,
    TextOption,
    WindowsOption,
    given,
    refuse,
    with_gguf,
)
from softmaxkit.recipe import WINDOWS, Recipe


def evaluate(
    command: typer.Context,
    model: ModelArgument,
    gguf: GgufOption = None,
    text: TextOption = None,
    mode: Annotated[
        Literal["float", "integer", "both"],
        typer.Option(help="Run the methods in float, in the hardware's exact integers, or in both."),
    ] = "both",
    windows: WindowsOption = WINDOWS,
    context: ContextOption = Recipe().context,
    task: Annotated[
        list[str] | None,
        typer.Option(help="Measure on this lm-eval task instead of text, e.g. piqa. Repeatable.", show_default=False),
    ] = None,
    include: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with your own lm-eval tasks.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of examples per task.", show_default="all")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Measure a model with the methods saved in it: its loss on held-out text, or its accuracy on lm-eval tasks.

    A model without a method is measured with exact softmax.
    """
    from softmaxkit.studies.evaluation import EvaluationOptions, evaluate_model

    if task:
        refuse(given(command, "text", "windows", "context"), "with --task no text is read")
    else:
        refuse(given(command, "include", "limit"), "only for use with --task")
    model = with_gguf(model, gguf)
    modes = ("float", "integer") if mode == "both" else (mode,)
    options = EvaluationOptions(model, modes, context, text, windows, tuple(task or ()), include, limit)
    with stages() as stage:
        record = evaluate_model(options, command_line(), stage)
    with reported(record, json) as screen:
        screen.print((_task_table if task else _loss_table)(record["results"]))


def _task_table(results: list[dict[str, Any]]) -> Table:
    table = Table("task", "mode", "metric", "value")
    for result in results:
        for name, value in result["metrics"].items():
            table.add_row(result["task"], result["mode"], name, f"{value:.4f}")
    return table


def _loss_table(results: list[dict[str, Any]]) -> Table:
    mixed = results[0]["spec"] is None
    title = results[0]["variant"] if mixed else name_of(results[0])
    table = Table("mode", "loss, nats", "perplexity", "words right", "row sum", title=title)
    for result in results:
        table.add_row(
            result["mode"],
            f"{result['loss_nats']:.4f}",
            f"{result['perplexity']:.3f}",
            f"{result['words_right_percent']:.2f}%" if "words_right_percent" in result else "–",
            f"{result['row_sum_mean']:.3f}",
        )
    return table
