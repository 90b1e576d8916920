"""Measures of the effect of formats: the loss of a language model on a text, or an encoder's figure on a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from softmaxkit.models.evaluation import token_losses
from softmaxkit.models.fine_tuning import calibration_batches, read_encoder, tokens_at_most
from softmaxkit.models.patch import restore
from softmaxkit.models.pretrained import fingerprint, read_pretrained
from softmaxkit.models.running import to_default_device
from softmaxkit.models.task_evaluation import measure
from softmaxkit.models.tasks import read_task
from softmaxkit.models.text import read_corpus
from softmaxkit.recipe import TaskRecipe

CALIBRATION_WINDOWS = 2
"""Number of windows on which a method is calibrated before it is measured."""


@dataclass(frozen=True)
class Yardstick:
    """A model, and a measure of how much a method degrades it.

    Attributes:
        model: the model, initially without a method.
        calibration: calibration batches.
        measure: measures the model in its current state; returns values whose mean is the figure: the losses of tokens,
            or the figure alone.
        figure: name of the figure, with its unit.
        baseline: the result of `measure` for exact softmax in float.
        worse: returns how much worse a first figure is than a second, in percent of the second or in points.
        sample: token ids, (1, tokens), whose scores are the stimulus of a unit.
        inputs: inputs of the record.
        contents: what identifies the model and the data further, as JSON values.
    """

    model: PreTrainedModel
    calibration: Sequence[Any]
    measure: Callable[[], torch.Tensor]
    figure: str
    baseline: torch.Tensor
    worse: Callable[[float, float], float]
    sample: torch.Tensor
    inputs: dict[str, Any]
    contents: Sequence[Any]


def on_text(name: str, text: Any, context: int, windows: int) -> Yardstick:
    """Return the yardstick of a causal language model: its loss on held-out windows, in percent of exact softmax's.

    Args:
        name: the model, see `read_pretrained`.
        text: a text file; None for the Python standard library's source.
        context: tokens per window.
        windows: number of windows.

    Raises:
        ValueError: the text or model cannot be used.
    """
    model, tokenizer = read_pretrained(name, context)
    corpus = read_corpus(text, tokenizer)
    held_out = corpus.held_out_windows(context, windows)
    model = restore(to_default_device(model))
    return Yardstick(
        model,
        corpus.calibration_batches(context, batch=CALIBRATION_WINDOWS, count=1),
        lambda: token_losses(model, held_out),
        "loss_nats",
        token_losses(model, held_out),
        lambda loss, exact: 100 * (loss / exact - 1),
        held_out[:1],
        {"text": corpus.describe(), "model": {"name": name}, "context": context, "windows": len(held_out)},
        [fingerprint(name)],
    )


def on_task(name: str, source: str, context: int) -> Yardstick:
    """Return the yardstick of an encoder: its rank correlation on a similarity task, in points below exact softmax's.

    Args:
        name: the encoder, a folder or hub name.
        source: the task, see `read_task`.
        context: maximum number of tokens per sentence.

    Raises:
        ValueError: the encoder or task cannot be used, or the task requires training.
    """
    task = read_task(source)
    if not task.similarity:
        raise ValueError(
            f"{task.name} is a task of {task.kind}, for which an encoder has to be trained; give a similarity task, or "
            "a text with --text, or see softmaxkit tasks"
        )
    model, tokenizer = read_encoder(name, task, 0)
    model = restore(to_default_device(model))
    length = min(context, TaskRecipe().length, tokens_at_most(model), tokenizer.model_max_length)

    def correlation() -> torch.Tensor:
        return torch.tensor([measure(model, tokenizer, task, length)["spearman_percent"]], dtype=torch.float64)

    batches = calibration_batches(task, tokenizer, length)
    longest = max(batches, key=lambda batch: batch["input_ids"].shape[1])["input_ids"][:1]
    inputs = {"task": task.name, "model": {"name": name}, "context": length, "examples": len(task.held_out)}
    return Yardstick(
        model,
        batches,
        correlation,
        "spearman_percent",
        correlation(),
        lambda points, exact: exact - points,
        torch.nn.functional.pad(longest, (0, 1)),
        inputs,
        [fingerprint(name), task.train, task.held_out],
    )
