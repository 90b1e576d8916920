"""Evaluate encoders on tasks: accuracy, rank correlation, and scores of answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from softmaxkit.models.answers import measure_answers
from softmaxkit.models.fine_tuning import BATCH, batches
from softmaxkit.models.running import check_finite, evaluating, run
from softmaxkit.models.tasks import Example, Task
from softmaxkit.models.trainer import Progress


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    length: int,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Evaluate an encoder on the held-out examples of a task.

    Returns:
        For classes, `accuracy_percent`, and `f1_percent` too if there are two. For similarity, `spearman_percent`, the
        rank correlation of the labels with the cosine similarity of both sentences' mean-pooled states. For answers,
        `answer_f1_percent` and `exact_match_percent`.

    Raises:
        FloatingPointError: the encoder returns NaN or infinity.
    """
    order = sorted(
        range(len(task.held_out)), key=lambda i: len(task.held_out[i].first + (task.held_out[i].second or ""))
    )
    examples = [task.held_out[index] for index in order]
    tick = _ticker(progress, len(examples) * (2 if task.similarity else 1))
    if task.kind == "answers":
        with evaluating(model):
            return measure_answers(model, tokenizer, examples, length, BATCH, tick)
    labels = np.asarray([example.number for example in examples])
    with evaluating(model):
        if task.similarity:
            one, other = (
                _pooled(model, batches([Example(str(text), None, 0.0) for text in texts], tokenizer, length), tick)
                for texts in ([example.first for example in examples], [example.second for example in examples])
            )
            cosine = torch.nn.functional.cosine_similarity(one, other).numpy()
            check_finite(cosine)
            return {"spearman_percent": 100 * rank_correlation(cosine, labels)}
        classes = []
        for batch in batches(examples, tokenizer, length):
            logits = run(model, batch).logits.float().cpu().numpy()
            check_finite(logits)
            classes.append(logits.argmax(-1))
            tick(len(logits))
    guessed = np.concatenate(classes)
    figures = {"accuracy_percent": 100 * float((guessed == labels).mean())}
    if task.classes == 2:
        both, either = ((guessed == 1) & (labels == 1)).sum(), (guessed == 1).sum() + (labels == 1).sum()
        figures["f1_percent"] = 100 * float(2 * both / either) if either else 0.0
    return figures


def _pooled(model: PreTrainedModel, inputs: list[dict[str, Any]], tick: Callable[[int], None]) -> Tensor:
    """Return the mean hidden state of each sentence over its tokens without padding; float32, (sentences, width)."""
    pooled = []
    for batch in inputs:
        states = run(model, batch).last_hidden_state.float().cpu()
        weights = batch["attention_mask"][..., None].float()
        pooled.append((states * weights).sum(1) / weights.sum(1))
        tick(len(states))
    return torch.cat(pooled)


def rank_correlation(first: Any, second: Any) -> float:
    """Return Spearman's rank correlation of two arrays; equal values share the mean of their ranks.

    The result is 0 if all values of one array are equal.
    """

    def ranks(values: Any) -> Any:
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[place]

    one, other = (ranks(values) - (len(values) + 1) / 2 for values in (first, second))
    spread = math.sqrt(float((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / spread if spread else 0.0


def _ticker(progress: Progress | None, total: int) -> Callable[[int], None]:
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    return tick
