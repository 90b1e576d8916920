"""`softmaxkit calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from softmaxkit.cli.console import command_line, name_of, note, stages, write_record
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
    for result in record["results"]:
        numbers = _text(result["calibration"] | result["statistics"])
        note(f"{result['layer']}: {name_of(result)}: {numbers or 'nothing to calibrate'}")
    note(f"model: {output}")
    write_record(record, json)


def _text(calibration: dict[str, Any]) -> str:
    """Return the figures of a calibration as text, with four significant digits."""
    lists = {key: value if isinstance(value, list) else [value] for key, value in calibration.items()}
    return ", ".join(f"{key} {' '.join(f'{value:.4g}' for value in values)}" for key, values in lists.items())
