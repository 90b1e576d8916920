"""Training language models."""

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
"""How often a training curve looks at held-out text, at most; short trainings less often, see `_points`."""

CURVE_TOKENS = 1 << 14
"""Held-out tokens that it looks at."""

LOGITS_AT_ONCE = 1 << 28
"""Outputs of the model that are held at a time when it does."""

COMPILED_STEPS = 2000
"""Steps from which on a GPU trains the compiled model: compiling takes it half a minute."""


def train(
    model: PreTrainedModel,
    corpus: Corpus,
    recipe: Recipe,
    folder: Path,
    seed: int,
    branch: Path | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Train a model to predict the next token; take up an earlier, unfinished run in the same folder.

    Args:
        model: trained in place, with whatever method is in it.
        corpus: the text.
        recipe: how.
        folder: for checkpoints, one at every quarter and one where training was stopped.
        seed: of the order of the data.
        branch: a checkpoint of another run to go on from, its optimiser and schedule too.
        progress: called at every step.

    Returns:
        The training curve: dicts with `step` and either `loss` or `eval_loss`, both in nats per token; with the latter
        `constants` too, the values of the methods' own parameters by layer and name, where there are any.

    Raises:
        Interrupted: by Ctrl-C; the same call goes on from there.
        ValueError: the text is too short, or the batch cannot be shared equally among processes.
        FloatingPointError: the loss became NaN or infinite.
    """
    return processes.together(_train, model, corpus, recipe, folder, seed, branch, progress=progress)


def _train(
    model: PreTrainedModel,
    corpus: Corpus,
    recipe: Recipe,
    folder: Path,
    seed: int,
    branch: Path | None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Train in this process, one of several perhaps."""
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
    """Return how often to look at held-out text: every quarter, and more often where training takes much longer."""
    trained = recipe.steps * recipe.batch * recipe.context
    return max(4, min(EVALUATION_POINTS, trained // (2 * CURVE_TOKENS)))


def checkpoint_at(folder: Path, step: int) -> Path:
    """Return the checkpoint that `train` left in a folder at a step."""
    return folder / f"checkpoint-{step}"


def _is_worth_compiling(model: PreTrainedModel, recipe: Recipe) -> bool:
    """Say whether to compile a model for training: on a GPU, for long, in float, whose layers then stay as they are."""
    in_float = all(module.mode == "float" for module in layers(model).values())
    return torch.cuda.is_available() and recipe.steps >= COMPILED_STEPS and in_float and not recipe.homotopy


def _next_token_loss(compiled: bool) -> Callable[..., Tensor]:
    """Return the loss of a model's outputs against the tokens that follow, as the Trainer calls it."""
    compute = torch.compile(_cross_entropy, dynamic=False) if compiled else _cross_entropy
    return lambda outputs, labels, num_items_in_batch=None: compute(outputs.logits, labels)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
