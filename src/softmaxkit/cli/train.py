"""`softmaxkit train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softmaxkit.cli.console import (
    ContextOption,
    JsonOption,
    SeedOption,
    SpecOption,
    TextOption,
    chosen_spec,
    command_line,
    console,
    stages,
    write_record,
)
from softmaxkit.recipe import FINE_TUNING_RATE, WINDOWS, Recipe


def train(
    method: Annotated[str | None, typer.Argument(help="exact, consmax, softermax or exaq.", show_default=False)] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the trained model.")] = Path(
        "softmaxkit-model"
    ),
    spec: SpecOption = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Fine-tune this model: a folder or a hub name.",
            show_default="a new small byte-level GPT",
        ),
    ] = None,
    text: TextOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = Recipe().steps,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Highest learning rate.", show_default=f"{Recipe().learning_rate}, or {FINE_TUNING_RATE} with --from"
        ),
    ] = None,
    context: ContextOption = Recipe().context,
    mode: Annotated[str, typer.Option(help="float, or integer: the hardware's integers, straight-through.")] = "float",
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Train a language model with a method in it, from scratch or from another model.

    Ctrl-C saves; the same command then goes on from there.
    """
    from transformers import set_seed

    from softmaxkit.models import training
    from softmaxkit.models.attention import apply, restore
    from softmaxkit.models.calibration import calibrate, convert
    from softmaxkit.models.checkpoint import save
    from softmaxkit.models.evaluation import loss_on
    from softmaxkit.models.pretrained import read_pretrained
    from softmaxkit.models.text import read_corpus
    from softmaxkit.record import make_record, make_result

    chosen = chosen_spec(method, spec)
    rate = learning_rate or (Recipe().learning_rate if start is None else FINE_TUNING_RATE)
    recipe = Recipe(steps=steps, context=context, learning_rate=rate)
    set_seed(seed)
    pretrained, tokenizer = (None, None) if start is None else read_pretrained(start)
    corpus = read_corpus(text, tokenizer)
    windows = corpus.calibration_batches(context)
    model = training.small_gpt(seed, context) if pretrained is None else restore(pretrained)
    apply(model, chosen, mode=mode)
    if pretrained is not None:
        convert(model, windows)
    if chosen.training == "calibrated":
        calibrate(model, windows)
    with stages() as stage:
        progress = stage(f"train {chosen.method} on {corpus.name}")
        curve = training.train(model, corpus, recipe, output.with_name(output.name + ".run"), seed, None, progress)
        calibrate(model, windows)
        loss = loss_on(model, corpus.held_out_windows(context, WINDOWS), stage("measure"))
    save(model, output)
    if tokenizer is not None:
        tokenizer.save_pretrained(output)
    console.print(f"held-out loss {loss:.4f} nats per token; model: {output}")
    result = make_result(chosen, mode, loss_nats=loss, trained_steps=steps, series={"training": curve})
    inputs = {"text": corpus.describe(), "model": {"name": start or "byte-level GPT-2"}, "recipe": recipe.describe()}
    write_record(make_record(command_line(), seed, inputs, [result]), json)
