"""Evaluate a model with the methods that are in it: its loss on held-out text, or its metrics on lm-eval's tasks."""

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
"""The `method` in the results of a model whose layers have different specs."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate.

    Attributes:
        model: folder or hub name; a model without a method is evaluated as the baseline.
        modes: "float", "integer" or both.
        context: tokens per window.
        text: a text file; None for the Python standard library's source.
        windows: maximum number of held-out windows.
        tasks: names of lm-eval's tasks, which replace the text.
        include: a folder with further tasks, defined in lm-eval's YAML format.
        limit: maximum number of examples of each task; None for all.
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
    """Evaluate a model on held-out text, or on tasks if the options name any, and return the record.

    Args:
        options: what to evaluate.
        command: the command line, for the record.
        stage: reports progress.

    Returns:
        The record: a result for each mode, with `loss_nats`; or for each task and mode, with `metrics`.

    Raises:
        ValueError: a text, model or task cannot be used.
        FloatingPointError: the loss is NaN or infinite.
        ModuleNotFoundError: the options name tasks, and lm-eval is not installed.
    """
    model, tokenizer = read_pretrained(options.model, options.context)
    if not layers(model):
        apply(model, BASELINE)
    if options.tasks:
        if tokenizer is None:
            raise ValueError(f"{options.model} reads bytes; lm-eval's tasks need a model with a tokenizer")
        results = _on_tasks(model, tokenizer, options, stage)
        return make_record(command, 0, {"model": {"name": options.model}, "limit": options.limit}, results)
    corpus = read_corpus(options.text, tokenizer)
    held_out = corpus.held_out_windows(options.context, options.windows)
    sample = held_out[: sampled_windows(options.context)]
    specs = {name: module.spec for name, module in layers(model).items()}
    results = []
    for mode in options.modes:
        set_mode(model, mode)
        measured = held_out_figures(model, held_out, corpus.words, stage(f"measure {_title(model)}, {mode}"))
        of_layers = {name: spec.to_json() for name, spec in specs.items()}
        results.append(_result(model, mode, **measured, layers=of_layers, **figures(real_scores(model, sample))))
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
    results = []
    for mode in options.modes:
        stage(f"measure {_title(model)}, {mode}")
        set_mode(model, mode)
        metrics_by_task = harness_figures(model, tokenizer, options.tasks, options.limit, options.include)
        results += [_result(model, mode, task=task, metrics=metrics) for task, metrics in metrics_by_task.items()]
    return results


def _title(model: PreTrainedModel) -> str:
    """Return the names of the specs in a model."""
    return " and ".join(dict.fromkeys(module.spec.name for module in layers(model).values()))


def _result(model: PreTrainedModel, mode: str, **measured: Any) -> dict[str, Any]:
    """Return a result with the spec of a model's layers, or with `MIXED` if they differ."""
    specs = [module.spec for module in layers(model).values()]
    mixed = {"method": MIXED, "variant": _title(model), "spec": None} if len(set(specs)) > 1 else {}
    return make_result(specs[0], mode, **measured) | mixed
