"""A small language model of our own, and training with transformers' Trainer that can be stopped and taken up again."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from softmaxkit.models.checkpoint import trainable
from softmaxkit.models.text import Corpus, NextToken
from softmaxkit.recipe import Recipe

Progress = Callable[[int, int], None]
"""Called with the step reached and the last step."""

EVALUATION_POINTS = 20
"""How often a training curve looks at held-out text."""


class Interrupted(Exception):
    """Training was stopped by the user; its last step is saved."""


def small_gpt(seed: int, context: int) -> GPT2LMHeadModel:
    """Make the byte-level GPT: 4 layers, 4 heads, 128 wide, 256 tokens, pre-LN, untrained.

    Squared ReLU and wide starting weights learn fastest here, and get ConSmax off the plateau of bigrams.
    """
    set_seed(seed)
    config = GPT2Config(
        vocab_size=256,
        n_positions=context,
        n_embd=128,
        n_layer=4,
        n_head=4,
        activation_function="relu2",
        initializer_range=0.06,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    return GPT2LMHeadModel(config)


def train(
    model: PreTrainedModel,
    corpus: Corpus,
    recipe: Recipe,
    folder: Path,
    seed: int,
    branch: Path | None = None,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
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
        The training curve: dicts with `step` and either `loss` or `eval_loss`, both in nats per token.

    Raises:
        Interrupted: by Ctrl-C; the same call goes on from there.
        ValueError: the text is too short.
        FloatingPointError: the loss became NaN or infinite.
    """
    quarter = max(1, recipe.steps // 4)
    every = max(1, recipe.steps // EVALUATION_POINTS)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        per_device_eval_batch_size=64,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(recipe.steps * recipe.warmup_share),
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.adam_beta2,
        max_grad_norm=1.0,
        logging_steps=max(1, recipe.steps // 100),
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        data_seed=seed,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        log_level="error",
        logging_nan_inf_filter=False,
    )
    held_out = NextToken(corpus.held_out, recipe.context)
    sample = Subset(held_out, range(0, len(held_out), max(1, len(held_out) // 64))[:64])
    stops = {recipe.branch_step, *range(quarter, recipe.steps + 1, quarter)}
    watch = _Watch(stops, progress)
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=NextToken(corpus.train, recipe.context),
        eval_dataset=sample,
        compute_loss_func=_next_token_loss,
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    with watch.interruptible():
        trainer.train(resume_from_checkpoint=last or (str(branch) if branch else None))
    if trainer.state.global_step < recipe.steps:
        raise Interrupted(f"stopped at step {trainer.state.global_step} of {recipe.steps}")
    curve = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
    return [{key: entry[key] for key in ("step", "loss", "eval_loss") if key in entry} for entry in curve]


def checkpoint_at(folder: Path, step: int) -> Path:
    """Return the checkpoint that `train` left in a folder at a step."""
    return folder / f"checkpoint-{step}"


class _Trainer(Trainer):
    """The Trainer, with a method's own parameters kept out of weight decay."""

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        own = set(trainable(model))
        return [name for name in super().get_decay_parameter_names(model) if name not in own]


class _Watch(TrainerCallback):
    """Saves at given steps and on Ctrl-C, tells of progress, and stops a training that has gone astray."""

    def __init__(self, stops: set[int], progress: Progress | None) -> None:
        self.stops, self.progress, self.interrupted = stops, progress, False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let Ctrl-C end the step at hand and save, instead of breaking off. Only the main thread hears signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(*_: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt  # a second Ctrl-C does not wait
            self.interrupted = True

        previous = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.progress:
            self.progress(state.global_step, state.max_steps)
        if state.global_step in self.stops or self.interrupted:
            control.should_save = True
        if self.interrupted:
            control.should_training_stop = True

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        if logs and not math.isfinite(logs.get("loss", 0.0)):
            raise FloatingPointError(
                f"training diverged: the loss is {logs['loss']} at step {state.global_step}; try a lower learning rate"
            )


def _next_token_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1).float(), labels.flatten())
