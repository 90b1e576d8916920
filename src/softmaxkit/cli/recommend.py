"""`softmaxkit recommend`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softmaxkit.cli.console import command_line, name_of, note, reported, stages
from softmaxkit.cli.options import (
    GgufOption,
    JsonOption,
    MethodsOption,
    ModelArgument,
    TextOption,
    given,
    output_folder,
    refuse,
    with_gguf,
)
from softmaxkit.methods import ALL_METHODS, method_class

FOLDER = Path("softmaxkit-recommend")
SENTENCES = Path("SENTENCES.txt")


def percent(text: str | float) -> float:
    """Parse a percentage, "0.5%" or "0.5".

    Raises:
        typer.BadParameter: the text is not a number, or is out of range.
    """
    try:
        value = float(str(text).removesuffix("%"))
    except ValueError:
        raise typer.BadParameter(f"must be a percentage, e.g. 0.5%, got {text!r}") from None
    if not 0 <= value < 1000:
        raise typer.BadParameter(f"must be at least 0% and below 1000%, e.g. 0.5%, got {text!r}")
    return value


def recommend(
    command: typer.Context,
    model: ModelArgument,
    gguf: GgufOption = None,
    text: TextOption = None,
    loss: Annotated[
        float,
        typer.Option(
            parser=percent,
            metavar="PERCENT",
            help="Budget: largest increase of the loss plus its standard error; with --task, drop in points.",
        ),
    ] = 0.5,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Measure an encoder on this similarity task instead of text: a folder or a data set's name.",
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        int, typer.Option(min=2, help="Length of a window in tokens, and thus of the longest rows.")
    ] = 1024,
    windows: Annotated[int, typer.Option(min=1, help="Held-out windows to measure on.")] = 2,
    method: MethodsOption = None,
    synthesize: Annotated[
        bool, typer.Option("--synth/--no-synth", help="Map each unit to standard cells for its area and energy.")
    ] = True,
    output: Annotated[Path, output_folder("Folder for the specs and finished results.")] = FOLDER,
    json: JsonOption = None,
) -> None:
    """Find the narrowest number formats of each method that stay within a loss budget on a model, and their cost.

    Formats are narrowed one at a time from the widest, each step measured in the hardware's exact integers, calibrated
    on a single batch of two windows. Nothing is trained. After Ctrl-C, finished methods are kept, and the same command
    continues from there.
    """
    from softmaxkit.flow.tools import missing_hardware
    from softmaxkit.studies.recommend import RecommendOptions
    from softmaxkit.studies.recommend import recommend as search
    from softmaxkit.studies.resume import alone_in

    if task is not None:
        refuse(given(command, "text", "windows"), "with --task no text is read")
    chosen = [method_class(name) for name in method or ALL_METHODS]
    missing = missing_hardware() if synthesize else ""
    if missing:
        note(f"area and energy are left out: {missing}")
    model = with_gguf(model, gguf)
    options = RecommendOptions(
        model, chosen, loss, text, context, windows, task, folder=output, synthesize=synthesize and not missing
    )
    with alone_in(output), stages() as stage:
        record = search(options, command_line(), stage, note)
    results = record["results"]
    with reported(record, json) as screen:
        screen.print(_table(record, loss))
    holding = [result for result in results if result["holds"]]
    if not holding:
        nearest = min(results, key=_change, default=None)
        near = f"; the closest is {name_of(nearest)} with {_change(nearest):+.2f}" if nearest else ""
        raise RuntimeError(
            f"no method stays within a budget of {loss:g} on {model} at {record['inputs']['context']} tokens{near}"
        )
    _say_what_to_do(holding, model, SENTENCES if task else text, record["inputs"]["context"])
    if task:
        note(f"{SENTENCES} is a text of yours: sentences like those of the task, on which a method is calibrated")


def _say_what_to_do(holding: list[dict[str, Any]], model: str, text: Path | None, context: int) -> None:
    """Print the commands for the unit of least energy; without energies, for every unit within the budget."""
    known = "energy_pj_per_element" in holding[0]
    on_text = "" if text is None else f" --text {shlex.quote(str(text))}"
    for result in holding[:1] if known else holding:
        spec, name = shlex.quote(str(result["spec_file"])), "" if known else f"-{result['method']}"
        note(
            f"{'take' if known else 'for'} {name_of(result)}:\n"
            f"  softmaxkit calibrate {shlex.quote(model)} --spec {spec}{on_text} --context {context} "
            f"-o calibrated{name}\n"
            f"  softmaxkit rtl --spec {spec} --max-row {context} -o unit{name}"
        )


def _change(result: dict[str, Any]) -> float:
    """Return how much worse the model becomes, in percent of its loss or in points of its task."""
    return float(result["loss_change_percent" if "loss_change_percent" in result else "change_points"])


def _table(record: dict[str, Any], budget: float) -> Table:
    """Return a table with a row per method: formats, change, and cost of the unit."""
    from softmaxkit.studies.recommend import change_with_error

    results, inputs = record["results"], record["inputs"]
    unit = "points of " + inputs["task"] if "task" in inputs else "% of the loss"
    title = f"The narrowest formats that lose at most {budget:g} {unit}, rows of up to {inputs['context']} scores"
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("method")
    for heading in ("lost", "area, um2", "energy, pJ", "clock, MHz"):
        table.add_column(heading, justify="right")
    for result in results:
        costs = [
            f"{result[key]:,.{digits}f}" if key in result else "–"
            for key, digits in (("area_um2", 0), ("energy_pj_per_element", 1), ("fmax_mhz", 0))
        ]
        holds = "" if result["holds"] else ", over budget"
        lost = change_with_error(_change(result), result.get("loss_change_standard_error_percent"))
        table.add_row(f"{name_of(result)}{holds}", lost, *costs)
    return table
