"""Evaluate models with methods in them on tasks of lm-eval, EleutherAI's evaluation harness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from softmaxkit.models.errors import first_line
from softmaxkit.models.running import device_of


def harness_figures(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    limit: int | None = None,
    include: Path | None = None,
    batch: int = 8,
) -> dict[str, dict[str, float]]:
    """Evaluate a model, with or without methods in it, on tasks of lm-eval, such as "piqa".

    Args:
        model: a causal language model.
        tokenizer: the model's tokenizer.
        tasks: names of lm-eval's tasks; most of them download their data.
        limit: maximum number of examples of each task.
        include: a folder with further tasks, defined in lm-eval's YAML format.
        batch: batch size.

    Returns:
        For each task, its metrics by lm-eval's names, such as "acc"; those ending in "_stderr" are standard errors.

    Raises:
        ModuleNotFoundError: lm-eval is not installed.
        ValueError: there is no such task, or its data cannot be read.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError:
        raise ModuleNotFoundError("lm-eval is not installed: pip install 'softmaxkit[lm-eval]'") from None
    manager = TaskManager(include_path=None if include is None else str(include))
    if unknown := [task for task in tasks if task not in manager.all_tasks]:
        raise ValueError(f"lm-eval has no task {unknown[0]!r}; 'lm-eval ls tasks' lists them")
    # Given a model object rather than a name, HFLM derives none of these from it.
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, device=str(device_of(model)))
    try:
        measured: Any = lm_eval.simple_evaluate(
            model=wrapped, tasks=list(tasks), limit=limit, task_manager=manager, bootstrap_iters=0, log_samples=False
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"lm-eval cannot evaluate {', '.join(tasks)}: {first_line(error)}") from None
    return {
        task: {
            name.partition(",")[0]: float(value)
            for name, value in metrics.items()
            if isinstance(value, int | float) and name.partition(",")[2]  # metrics are named "acc,none", with a filter
        }
        for task, metrics in measured["results"].items()
    }
