"""A model measured with the methods that are in it: its loss on held-out text, or tasks of lm-eval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from softmaxkit.methods import BASELINE
from softmaxkit.models.evaluation import figures, held_out_figures, real_scores
from softmaxkit.models.harness import harness_figures
from softmaxkit.models.patch import apply, layers, set_mode
from softmaxkit.models.pretrained import read_pretrained
from softmaxkit.models.text import read_corpus
from softmaxkit.recipe import WINDOWS, Recipe
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.options import sampled_windows
from softmaxkit.studies.progress import Stage

MIXED = "mixed"
"""What a result calls the method of a model whose layers differ."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What to measure.

    Attributes:
        model: folder or hub name; one without a method counts as the baseline.
        modes: "float", "integer" or both.
        context: tokens in a window.
        text: a text file; None for the Python standard library's source.
        windows: held-out windows to measure on, at most.
        tasks: of lm-eval, to measure on instead of a text.
        include: a folder with tasks of one's own, as lm-eval's YAML files.
        limit: examples of each task, at most; None for all.
    """

    model: str
    modes: Sequence[str] = ("float", "integer")
    context: int = Recipe().context
    text: Path | None = None
    windows: int = WINDOWS
    tasks: Sequence[str] = ()
    include: Path | None = None
    limit: int | None = None


def evaluate_model(options: EvaluationOptions, command: Sequence[str], stage: Stage) -> dict[str, Any]:
    """Measure a model on held-out text, or on tasks where the options have any, and return the record.

    Args:
        options: what to measure.
        command: for the record.
        stage: shows progress.

    Returns:
        the record: a result for each mode, with `loss_nats`; or for each task and mode, with `metrics`.

    Raises:
        ValueError: a text, model or task that cannot be used.
        FloatingPointError: the loss is NaN or infinite.
        ModuleNotFoundError: tasks need lm-eval, which is not installed.
    """
    model, tokenizer = read_pretrained(options.model, options.context)
    if not layers(model):
        apply(model, BASELINE)
    if options.tasks:
        if tokenizer is None:
            raise ValueError(f"{options.model} reads bytes; tasks of lm-eval need a model with a tokenizer")
        results = _on_tasks(model, tokenizer, options, stage)
        return make_record(command, 0, {"model": {"name": options.model}, "limit": options.limit}, results)
    corpus = read_corpus(options.text, tokenizer)
    held_out = corpus.held_out_windows(options.context, options.windows)
    sample = held_out[: sampled_windows(options.context)]
    specs = {name: module.spec for name, module in layers(model).items()}
    title = " and ".join(dict.fromkeys(spec.name for spec in specs.values()))
    mixed = len(set(specs.values())) > 1
    results = []
    for mode in options.modes:
        set_mode(model, mode)
        measured = held_out_figures(model, held_out, corpus.words, stage(f"measure {title}, {mode}"))
        result = make_result(
            next(iter(specs.values())),
            mode,
            **measured,
            layers={name: spec.to_json() for name, spec in specs.items()},
            **figures(real_scores(model, sample)),
        )
        results.append(result | ({"method": MIXED, "variant": title, "spec": None} if mixed else {}))
    inputs = {
        "text": corpus.describe(),
        "model": {"name": options.model},
        "windows": len(held_out),
        "context": options.context,
    }
    return make_record(command, 0, inputs, results)


def _on_tasks(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: EvaluationOptions, stage: Stage
) -> list[dict[str, Any]]:
    """Return a result for each task and mode."""
    spec = next(iter(layers(model).values())).spec
    results = []
    for mode in options.modes:
        stage(f"measure {spec.name}, {mode}")
        set_mode(model, mode)
        metrics_by_task = harness_figures(model, tokenizer, options.tasks, options.limit, options.include)
        results += [make_result(spec, mode, task=task, metrics=metrics) for task, metrics in metrics_by_task.items()]
    return results
