"""`softmaxkit train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softmaxkit.cli.console import (
    ContextOption,
    JsonOption,
    OverwriteOption,
    SeedOption,
    SpecOption,
    TextOption,
    chosen_spec,
    command_line,
    console,
    output_folder,
    stages,
    stoppable,
    write_record,
)
from softmaxkit.recipe import FINE_TUNING_RATE, SMALL_GPT, WINDOWS, Recipe, Shape


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
    overwrite: OverwriteOption = False,
    json: JsonOption = None,
) -> None:
    """Train a language model with a method in it, from scratch or from another model.

    Ctrl-C saves; the same command then goes on from there.
    """
    import shutil

    from transformers import set_seed

    from softmaxkit.files import content_key
    from softmaxkit.models.calibration import calibrate, convert
    from softmaxkit.models.checkpoint import save
    from softmaxkit.models.evaluation import loss_on
    from softmaxkit.models.language_model import language_model
    from softmaxkit.models.patch import apply, restore
    from softmaxkit.models.pretrained import fingerprint, read_pretrained
    from softmaxkit.models.text import read_corpus
    from softmaxkit.models.training import train as train_model
    from softmaxkit.record import make_record, make_result, versions

    chosen = chosen_spec(method, spec)
    if learning_rate is None:
        learning_rate = Recipe().learning_rate if start is None else FINE_TUNING_RATE
    if learning_rate <= 0:
        raise ValueError(f"--learning-rate is positive, not {learning_rate}")
    recipe = Recipe(steps=steps, context=context, learning_rate=learning_rate)
    output_folder(output, overwrite)
    set_seed(seed)
    pretrained, tokenizer = (None, None) if start is None else read_pretrained(start, context)
    corpus = read_corpus(text, tokenizer)
    batches = corpus.calibration_batches(context)
    held_out = corpus.held_out_windows(context, WINDOWS)
    model = language_model(Shape(), context, seed) if pretrained is None else restore(pretrained)
    apply(model, chosen, mode=mode)
    if pretrained is not None:
        convert(model, batches)
    if chosen.training == "calibrated":
        calibrate(model, batches)
    depends = (versions(), chosen.to_json(), mode, recipe.describe(), seed, corpus.sha256, fingerprint(start))
    run = output.with_name(f"{output.name}.run-{content_key(*depends)}")
    with stages() as stage, stoppable():
        progress = stage(f"train {chosen.method} on {corpus.name}")
        curve = train_model(model, corpus, recipe, run, seed, None, progress)
        calibrate(model, batches)
        loss = loss_on(model, held_out, stage("measure"))
    save(model, output, tokenizer)
    shutil.rmtree(run, ignore_errors=True)
    console.print(f"held-out loss {loss:.4f} nats per token; model: {output}")
    result = make_result(chosen, mode, loss_nats=loss, trained_steps=steps, series={"training": curve})
    inputs = {"text": corpus.describe(), "model": {"name": start or SMALL_GPT}, "recipe": recipe.describe()}
    write_record(make_record(command_line(), seed, inputs, [result]), json)
