"""Encoders on tasks: loading, batches of examples, and fine-tuning with a method in the model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from softmaxkit import processes
from softmaxkit.models.answers import Windows
from softmaxkit.models.checkpoint import SETTINGS_FILE
from softmaxkit.models.errors import first_line
from softmaxkit.models.patch import layers
from softmaxkit.models.sources import check_place, unreadable
from softmaxkit.models.tasks import Example, Kind, Task
from softmaxkit.models.trainer import MethodTrainer, Progress, training_arguments
from softmaxkit.recipe import TaskRecipe

HEADS: dict[Kind, Any] = {
    "classes": AutoModelForSequenceClassification,
    "similarity": AutoModel,
    "answers": AutoModelForQuestionAnswering,
}

BATCH = 64
"""Batch size of evaluation."""

CALIBRATION_BATCH = 16
"""Batch size of calibration."""

CALIBRATION_EXAMPLES = 400
"""25 batches of 16, as in EXAQ's paper."""


def read_encoder(name: str, task: Task, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder and its tokenizer, with a new head for classes or answers, or without a head for similarity.

    Args:
        name: folder or hub name.
        task: the task, whose kind determines the head.
        seed: seed of the new head's weights.

    Raises:
        ValueError: there is no such encoder, it already has a method, it has no padding token, or its architecture has
            no head for this kind of task.
    """
    check_place(name)
    set_seed(seed)
    heads = {"num_labels": task.classes} if task.kind == "classes" else {}
    try:
        model = HEADS[task.kind].from_pretrained(name, dtype=torch.float32, trust_remote_code=False, **heads)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        what = f"an encoder that transformers can read, with a head for {task.kind}"
        raise ValueError(unreadable(name, what, first_line(error))) from None
    if layers(model) or (Path(name) / SETTINGS_FILE).is_file():
        raise ValueError(f"{name} already has a method; give a plain model, to which each method is applied here")
    if tokenizer.pad_token is None:
        raise ValueError(f"{name} has no padding token, which batches of sentences need; give an encoder, such as BERT")
    if task.kind == "answers":
        tokenizer.padding_side = "right"  # token positions of answers are counted from the left
    return model, tokenizer


def tokens_at_most(model: PreTrainedModel) -> int:
    """Return the maximum number of tokens in a model's input."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa's positions start after the index of its padding token.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return int(getattr(model.config, "max_position_embeddings", sys.maxsize))


class Encoded(Dataset[dict[str, Any]]):
    """Tokenised examples.

    Args:
        examples: the examples to tokenise.
        tokenizer: the model's tokenizer.
        length: maximum number of tokens; longer examples are truncated.
    """

    def __init__(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, length: int) -> None:
        self.examples, self.tokenizer, self.length = examples, tokenizer, length

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.examples[index]
        return {**self.tokenizer(example.first, example.second, truncation=True, max_length=self.length)} | {
            "labels": int(example.number)
        }


def calibration_batches(
    task: Task, tokenizer: PreTrainedTokenizerBase, length: int, count: int = CALIBRATION_EXAMPLES
) -> list[dict[str, Any]]:
    """Return batches for calibration, without labels, and without padding, whose queries would be counted as rows.

    They are taken from the training examples, or from the held-out ones if there are none. The sentences of a
    similarity pair are encoded separately, as in evaluation.
    """
    examples = [*(task.train or task.held_out)[:count]]
    if task.similarity:
        examples = [Example(str(text), None, 0.0) for example in examples for text in example[:2]][:count]
    by_length: dict[int, list[Example]] = {}
    for example in examples:
        tokens = tokenizer(example.first, example.second, truncation=True, max_length=length)["input_ids"]
        by_length.setdefault(len(tokens), []).append(example)
    return [batch for group in by_length.values() for batch in batches(group, tokenizer, length, CALIBRATION_BATCH)]


def batches(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, length: int, size: int = BATCH
) -> list[dict[str, Any]]:
    """Return examples as batches of the model's inputs, without labels."""
    result = []
    for start in range(0, len(examples), size):
        texts = examples[start : start + size]
        pairs = [example.second for example in texts] if texts[0].second is not None else None
        result.append(
            dict(
                tokenizer(
                    [example.first for example in texts],
                    pairs,
                    truncation=True,
                    max_length=length,
                    padding=True,
                    return_tensors="pt",
                )
            )
        )
    return result


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    recipe: TaskRecipe,
    folder: Path,
    seed: int,
    progress: Progress | None = None,
) -> PreTrainedModel:
    """Train an encoder on a task, with or without a method in it; resume an unfinished run in the same folder.

    Args:
        model: from `read_encoder`; trained in place.
        tokenizer: the model's tokenizer.
        task: a task of classes or answers.
        recipe: hyperparameters of the training.
        folder: folder for checkpoints.
        seed: seed of the order of the examples.
        progress: called at every step.

    Raises:
        Interrupted: after Ctrl-C; the same call resumes the training.
        ValueError: a batch cannot be divided equally among the processes.
        FloatingPointError: the loss became NaN or infinite.
    """
    processes.run_together(_fine_tune, model, tokenizer, task, recipe, folder, seed, progress=progress)
    return model


def _fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    recipe: TaskRecipe,
    folder: Path,
    seed: int,
    progress: Progress | None = None,
) -> None:
    """Train in this process, which may be one of several."""
    encoded = Windows if task.kind == "answers" else Encoded
    examples = encoded(task.train, tokenizer, recipe.length)
    steps = -(-len(examples) // recipe.batch) * recipe.epochs
    arguments = training_arguments(
        folder,
        steps,
        recipe.learning_rate,
        seed,
        per_device_train_batch_size=processes.share_of(recipe.batch),
        warmup_steps=round(0.1 * steps),
        weight_decay=0.01,
        logging_steps=max(1, steps // 20),
    )
    MethodTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=DataCollatorWithPadding(tokenizer),
        stops={steps // 2, steps},
        progress=progress,
    ).run()
