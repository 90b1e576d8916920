"""Train one language model with one method in it, from scratch or starting from another model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import set_seed

from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.calibration import calibrate, convert
from softmaxkit.models.checkpoint import save
from softmaxkit.models.evaluation import held_out_figures
from softmaxkit.models.language_model import language_model
from softmaxkit.models.patch import apply, restore
from softmaxkit.models.pretrained import fingerprint, read_pretrained
from softmaxkit.models.text import read_corpus
from softmaxkit.models.training import train
from softmaxkit.recipe import SMALL_GPT, WINDOWS, Recipe, Shape
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.progress import Stage
from softmaxkit.studies.resume import result_folder


@dataclass(frozen=True)
class TrainingOptions:
    """What to train.

    Attributes:
        spec: the method.
        output: folder for the trained model.
        start: the model to fine-tune, by folder or hub name; None for a new small GPT.
        text: a text file; None for the Python standard library's source.
        recipe: hyperparameters of the training.
        mode: the method's mode during training, "float" or "integer".
        seed: seed of all random numbers.
    """

    spec: Spec
    output: Path
    start: str | None = None
    text: Path | None = None
    recipe: Recipe = field(default_factory=Recipe)
    mode: str = "float"
    seed: int = 0


def train_model(options: TrainingOptions, command: Sequence[str], stage: Stage) -> dict[str, Any]:
    """Train a model, calibrate it, measure its loss on held-out text, save it, and return the record.

    Checkpoints are stored next to the output folder until that is written.

    Args:
        options: what to train.
        command: the command line, for the record.
        stage: reports progress.

    Returns:
        The record, with one result: `loss_nats`, `trained_steps` and the training curve.

    Raises:
        ValueError: the text, model or mode cannot be used.
        FloatingPointError: training diverged.
        Interrupted: training was stopped; the same call resumes it.
    """
    spec, recipe, start = options.spec, options.recipe, options.start
    context = recipe.context
    set_seed(options.seed)
    pretrained, tokenizer = (None, None) if start is None else read_pretrained(start, context)
    corpus = read_corpus(options.text, tokenizer)
    batches = corpus.calibration_batches(context)
    held_out = corpus.held_out_windows(context, WINDOWS)
    model = language_model(Shape(), context, options.seed) if pretrained is None else restore(pretrained)
    apply(model, spec, mode=options.mode)
    if pretrained is not None:
        convert(model, batches)
    if spec.training == "calibrated":
        calibrate(model, batches)
    run = result_folder(
        options.output.parent,
        f"{options.output.name}.run",
        spec.to_json(),
        options.mode,
        recipe.describe(),
        options.seed,
        corpus.sha256,
        fingerprint(start),
    )
    progress = stage(f"train {spec.method} on {corpus.name}")
    curve = train(model, corpus, recipe, run, options.seed, None, progress)
    calibrate(model, batches)
    measured = held_out_figures(model, held_out, corpus.words, stage("measure"))
    save(model, options.output, tokenizer)
    shutil.rmtree(run, ignore_errors=True)
    result = make_result(spec, options.mode, **measured, trained_steps=recipe.steps, series={"training": curve})
    inputs = {"text": corpus.describe(), "model": {"name": start or SMALL_GPT}, "recipe": recipe.describe()}
    return make_record(command, options.seed, inputs, [result])
