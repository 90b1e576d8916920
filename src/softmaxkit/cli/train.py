"""`softmaxkit train`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from softmaxkit.cli.console import command_line, note, stages, stoppable, write_record
from softmaxkit.cli.options import (
    ContextOption,
    GgufOption,
    JsonOption,
    MethodArgument,
    OverwriteOption,
    SeedOption,
    SpecOption,
    TextOption,
    check_output_folder,
    chosen_recipe,
    chosen_spec,
    model_name,
    output_folder,
    with_gguf,
)
from softmaxkit.recipe import FINE_TUNING_RATE, Recipe


def train(
    method: MethodArgument = None,
    output: Annotated[
        Path,
        output_folder("Folder for the trained model."),
    ] = Path("softmaxkit-model"),
    spec: SpecOption = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            callback=model_name,
            help="Fine-tune this model: a folder, hub name or GGUF file; or smollm2, if installed.",
            show_default="a new small byte-level GPT",
        ),
    ] = None,
    gguf: GgufOption = None,
    text: TextOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = Recipe().steps,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate.", show_default=f"{Recipe().learning_rate}, or {FINE_TUNING_RATE} with --from"
        ),
    ] = None,
    context: ContextOption = Recipe().context,
    mode: Annotated[
        Literal["float", "integer"],
        typer.Option(help="Train in float, or with the hardware's integers and straight-through gradients."),
    ] = "float",
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = None,
) -> None:
    """Train a language model with a method in it, from scratch or starting from another model.

    Ctrl-C saves a checkpoint, and the same command then continues from there.
    """
    chosen = chosen_spec(method, spec)
    start = with_gguf(start, gguf)
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise ValueError(f"--learning-rate must be a positive number, got {learning_rate:g}")
    recipe = chosen_recipe(steps, context, start is not None, learning_rate)
    check_output_folder(output, overwrite)
    from softmaxkit.studies.resume import alone_in
    from softmaxkit.studies.training import TrainingOptions, train_model

    options = TrainingOptions(chosen, output, start, text, recipe, mode, seed)
    with alone_in(output), stages() as stage, stoppable():
        record = train_model(options, command_line(), stage)
    note(f"held-out loss {record['results'][0]['loss_nats']:.4f} nats per token; model: {output}")
    write_record(record, json)
