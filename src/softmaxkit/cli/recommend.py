"""`softmaxkit recommend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softmaxkit.cli.console import command_line, console, name_of, results_console, stages, write_record
from softmaxkit.cli.options import (
    GgufOption,
    JsonOption,
    MethodsOption,
    ModelArgument,
    TextOption,
    output_folder,
    with_gguf,
)
from softmaxkit.methods import ALL_METHODS, method_class

FOLDER = Path("softmaxkit-recommend")


def percent(text: str | float) -> float:
    """Return a share as it is written, "0.5%" or "0.5", in percent.

    Raises:
        typer.BadParameter: it is no such number, or negative.
    """
    try:
        value = float(str(text).removesuffix("%"))
    except ValueError:
        raise typer.BadParameter(f"a share such as 0.5%, not {text!r}") from None
    if not 0 <= value < 1000:
        raise typer.BadParameter(f"a share of 0% or more, such as 0.5%, not {text!r}")
    return value


def recommend(
    model: ModelArgument,
    gguf: GgufOption = None,
    text: TextOption = None,
    loss: Annotated[
        float,
        typer.Option(
            parser=percent,
            metavar="PERCENT",
            help="Largest change of the loss with its standard error added, such as 0.5%; with --task in points.",
        ),
    ] = 0.5,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Measure an encoder on this task of similarity, not on a text.",
            show_default=False,
        ),
    ] = None,
    context: Annotated[int, typer.Option(min=2, help="Tokens in a window: the length of the longest rows.")] = 1024,
    windows: Annotated[int, typer.Option(min=1, help="Held-out windows to measure on.")] = 2,
    method: MethodsOption = None,
    synthesize: Annotated[
        bool, typer.Option("--synth/--no-synth", help="Map each unit to standard cells, for area and energy.")
    ] = True,
    output: Annotated[Path, output_folder("Folder for the specs.")] = FOLDER,
    json: JsonOption = None,
) -> None:
    """Find the narrowest formats of each method that hold a budget of loss on a model, and what their units cost.

    From the widest formats down, one by one, measured in the exact integers of the hardware; nothing is trained.
    """
    from softmaxkit.flow.tools import missing_hardware
    from softmaxkit.studies.recommend import RecommendOptions
    from softmaxkit.studies.recommend import recommend as search
    from softmaxkit.studies.resume import alone_in

    chosen = [method_class(name) for name in method or ALL_METHODS]
    missing = missing_hardware() if synthesize else ""
    if missing:
        console.print(f"area and energy are left out: {missing}")
    model = with_gguf(model, gguf)
    options = RecommendOptions(
        model, chosen, loss, text, context, windows, task, folder=output, synthesize=synthesize and not missing
    )
    with alone_in(output), stages() as stage:
        record = search(options, command_line(), stage, console.print)
    results = record["results"]
    results_console(json).print(_table(record, loss))
    write_record(record, json)
    holding = [result for result in results if result["holds"]]
    if not holding:
        nearest = min(results, key=_change, default=None)
        near = f"; the nearest is {name_of(nearest)} with {_change(nearest):+.2f}" if nearest else ""
        raise RuntimeError(f"nothing holds {loss:g} on {model} at {record['inputs']['context']} tokens{near}")
    _say_what_to_do(holding, model, record["inputs"]["context"])


def _say_what_to_do(holding: list[dict[str, Any]], model: str, context: int) -> None:
    """Print the commands for the unit of least energy; without energies, for all that hold."""
    known = "energy_pj_per_element" in holding[0]
    for result in holding[:1] if known else holding:
        console.print(
            f"{'take' if known else 'for'} {name_of(result)}:\n"
            f"  softmaxkit calibrate {model} --spec {result['spec_file']} --context {context} -o calibrated\n"
            f"  softmaxkit rtl --spec {result['spec_file']} --max-row {context} -o unit",
            soft_wrap=True,
        )


def _change(result: dict[str, Any]) -> float:
    """Return how much worse the model is, in percent of its loss or in points of its task."""
    return float(result["loss_change_percent" if "loss_change_percent" in result else "change_points"])


def _table(record: dict[str, Any], budget: float) -> Table:
    """Return a row for each method: formats, change, and what the unit costs."""
    from softmaxkit.studies.recommend import change_with_error

    results, inputs = record["results"], record["inputs"]
    unit = "points of " + inputs["task"] if "task" in inputs else "% of the loss"
    title = f"The narrowest formats that lose at most {budget:g} {unit} at rows of {inputs['context']}"
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("method")
    for heading in ("lost", "area, um2", "energy, pJ", "clock, MHz"):
        table.add_column(heading, justify="right")
    for result in results:
        costs = [
            f"{result[key]:,.{digits}f}" if key in result else "–"
            for key, digits in (("area_um2", 0), ("energy_pj_per_element", 1), ("fmax_mhz", 0))
        ]
        holds = "" if result["holds"] else ", does not hold"
        lost = change_with_error(_change(result), result.get("loss_change_standard_error_percent"))
        table.add_row(f"{name_of(result)}{holds}", lost, *costs)
    return table
