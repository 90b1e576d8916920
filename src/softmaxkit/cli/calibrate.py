"""`softmaxkit calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from softmaxkit.cli.console import command_line, name_of, note, reported, stages
from softmaxkit.cli.options import (
    ContextOption,
    GgufOption,
    JsonOption,
    ModelArgument,
    OverwriteOption,
    SpecOption,
    TextOption,
    check_output_folder,
    chosen_spec,
    method_argument,
    output_folder,
    with_gguf,
)
from softmaxkit.methods import METHODS
from softmaxkit.recipe import Recipe

BITS = {name: bits for name, spec in METHODS.items() if (bits := spec().by_bits())}
"""The methods with a choice of bits: their choices by name."""

BITS_RANGE = sorted({bits for choices in BITS.values() for bits in choices}) or [1]


def calibrate(
    model: ModelArgument,
    method: Annotated[
        str | None, method_argument("Method to put into the model; by default the methods already in it.")
    ] = None,
    output: Annotated[
        Path,
        output_folder("Folder for the calibrated model."),
    ] = Path("softmaxkit-model"),
    gguf: GgufOption = None,
    spec: SpecOption = None,
    text: TextOption = None,
    batches: Annotated[
        int | None,
        typer.Option(
            min=1, help="Calibration batches of 16 windows.", show_default="25; fewer and smaller for long windows"
        ),
    ] = None,
    context: ContextOption = Recipe().context,
    mean_bits: Annotated[
        float | None,
        typer.Option(
            min=BITS_RANGE[0],
            max=BITS_RANGE[-1],
            help=f"Choose the bits of each layer for this average ({', '.join(BITS)} only).",
            show_default=False,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = None,
) -> None:
    """Calibrate a method's score scale, clip and ranges on a model's own scores, and save the model with the method."""
    check_output_folder(output, overwrite)
    chosen = None if method is None and spec is None else chosen_spec(method, spec)
    if mean_bits is not None and not (chosen and chosen.by_bits()):
        raise ValueError(
            f"--mean-bits needs a method with a choice of bits ({', '.join(BITS)}), as METHOD or in --spec"
        )
    from softmaxkit.studies.calibration import CalibrationOptions, calibrate_model
    from softmaxkit.studies.resume import alone_in

    model = with_gguf(model, gguf)
    options = CalibrationOptions(model, output, chosen, text, batches, context, mean_bits)
    with alone_in(output), stages() as stage:
        record = calibrate_model(options, command_line(), stage)
    with reported(record, json) as screen:
        screen.print(_table(record["results"]))
        note(f"model: {output}")


LOSSES = {
    "saturated_scores_percent": "scores\nsaturated",
    "row_sum_change_percent": "row sum\nchange",
    "dead_probability_percent": "rounded\nto 0",
}
"""The statistics that the table shows, with their headings; the record has all."""


def _table(results: list[dict[str, Any]]) -> Table:
    """Return a table with a row per layer: the calibrated numbers, and what integers lose."""
    names = list(dict.fromkeys(map(name_of, results)))
    mixed = len(names) > 1
    numbers = list(dict.fromkeys(name for result in results for name in result["calibration"]))
    table = Table(title=None if mixed else names[0], box=SIMPLE_HEAD)
    for heading in ("layer", *(["method"] if mixed else [])):
        table.add_column(heading)
    for heading in (*numbers, *LOSSES.values()):
        table.add_column(heading, justify="right")
    for result in results:
        statistics = result["statistics"]
        table.add_row(
            result["layer"],
            *([name_of(result)] if mixed else []),
            *(_range(result["calibration"].get(name)) for name in numbers),
            *(f"{statistics[name]:.2g}%" if name in statistics else "–" for name in LOSSES),
        )
    return table


def _range(value: float | list[float] | None) -> str:
    """Return a calibrated number as text, or the range of those of a layer's heads."""
    if value is None:
        return "–"
    values = value if isinstance(value, list | tuple) else [value]
    return " to ".join(dict.fromkeys(f"{end:.3g}" for end in (min(values), max(values))))
