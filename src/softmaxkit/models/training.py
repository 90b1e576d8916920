"""Train language models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset
from transformers import PreTrainedModel

from softmaxkit import processes
from softmaxkit.models.patch import layers
from softmaxkit.models.text import Corpus, NextToken, windows_at_once
from softmaxkit.models.trainer import MethodTrainer, Progress, training_arguments
from softmaxkit.recipe import Recipe

EVALUATION_POINTS = 20
"""Maximum number of points of a training curve at which the held-out loss is evaluated; fewer in a short training, see
`_points`."""

CURVE_TOKENS = 1 << 14
"""Held-out tokens evaluated at each of these points."""

LOGITS_AT_ONCE = 1 << 28
"""Maximum number of logits in memory during this evaluation."""

COMPILED_STEPS = 2000
"""Minimum number of steps for which the model is compiled on a GPU: compiling takes half a minute."""


def train(
    model: PreTrainedModel,
    corpus: Corpus,
    recipe: Recipe,
    folder: Path,
    seed: int,
    branch: Path | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Train a model to predict the next token; resume an unfinished run in the same folder.

    Args:
        model: trained in place, with or without a method in it.
        corpus: the text.
        recipe: hyperparameters of the training.
        folder: folder for checkpoints, one at every quarter of the training and one at an interruption.
        seed: seed of the order of the data.
        branch: a checkpoint of another run to continue from, with its optimiser and schedule.
        progress: called at every step.

    Returns:
        The training curve: dicts with `step` and either `loss` or `eval_loss`, both in nats per token. Those with
        `eval_loss` also have `constants`, the values of the methods' parameters by layer and name, if there are any.

    Raises:
        Interrupted: after Ctrl-C; the same call resumes the training.
        ValueError: the text is too short, or the batch cannot be divided equally among the processes.
        FloatingPointError: the loss became NaN or infinite.
    """
    return processes.run_together(_train, model, corpus, recipe, folder, seed, branch, progress=progress)


def _train(
    model: PreTrainedModel,
    corpus: Corpus,
    recipe: Recipe,
    folder: Path,
    seed: int,
    branch: Path | None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Train in this process, which may be one of several."""
    quarter = max(1, recipe.steps // 4)
    every = -(-recipe.steps // _points(recipe))
    compiled = _is_worth_compiling(model, recipe)
    at_once = LOGITS_AT_ONCE // (recipe.context * model.config.get_text_config().vocab_size)
    arguments = training_arguments(
        folder,
        recipe.steps,
        recipe.learning_rate,
        seed,
        per_device_train_batch_size=processes.share_of(recipe.batch),
        per_device_eval_batch_size=max(1, min(at_once, windows_at_once(64, recipe.context))),
        warmup_steps=round(recipe.steps * recipe.warmup_share),
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.adam_beta2,
        max_grad_norm=1.0,
        logging_steps=max(1, recipe.steps // 100),
        eval_strategy="steps",
        eval_steps=every,
        remove_unused_columns=False,
        torch_compile=compiled,
    )
    held_out = NextToken(corpus.held_out, recipe.context)
    windows = max(1, CURVE_TOKENS // recipe.context)
    sample = Subset(held_out, range(0, len(held_out), max(1, len(held_out) // windows))[:windows])
    stops = {recipe.branch_step, *range(quarter, recipe.steps + 1, quarter)}
    trainer = MethodTrainer(
        model=model,
        args=arguments,
        train_dataset=NextToken(corpus.train, recipe.context),
        eval_dataset=sample,
        compute_loss_func=_next_token_loss(compiled),
        constants_rate=recipe.constants_rate,
        homotopy=recipe.homotopy,
        stops=stops,
        progress=progress,
    )
    curve = [entry for entry in trainer.run(branch) if "loss" in entry or "eval_loss" in entry]
    return [{key: entry[key] for key in ("step", "loss", "eval_loss", "constants") if key in entry} for entry in curve]


def _points(recipe: Recipe) -> int:
    """Return how often to evaluate on held-out text: at every quarter, and more often in long trainings."""
    trained = recipe.steps * recipe.batch * recipe.context
    return max(4, min(EVALUATION_POINTS, trained // (2 * CURVE_TOKENS)))


def checkpoint_at(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint that `train` writes to a folder at a step."""
    return folder / f"checkpoint-{step}"


def _is_worth_compiling(model: PreTrainedModel, recipe: Recipe) -> bool:
    """Return whether to compile a model for training: on a GPU, for many steps, with layers fixed in mode "float"."""
    in_float = all(module.mode == "float" for module in layers(model).values())
    return torch.cuda.is_available() and recipe.steps >= COMPILED_STEPS and in_float and not recipe.homotopy


def _next_token_loss(compiled: bool) -> Callable[..., Tensor]:
    """Return the Trainer's `compute_loss_func`: the cross-entropy of the next token, over labels already shifted."""
    compute = torch.compile(_cross_entropy, dynamic=False) if compiled else _cross_entropy
    return lambda outputs, labels, num_items_in_batch=None: compute(outputs.logits, labels)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
