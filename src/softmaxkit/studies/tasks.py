"""Methods on tasks: apply each to an encoder, fine-tune it if the method requires that, and evaluate every seed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from softmaxkit.files import whole_folder
from softmaxkit.methods import BASELINE
from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.calibration import calibrate, convert
from softmaxkit.models.eight_bit import round_linear
from softmaxkit.models.fine_tuning import (
    calibration_batches,
    fine_tune,
    read_encoder,
    tokens_at_most,
)
from softmaxkit.models.patch import apply, set_mode
from softmaxkit.models.pretrained import fingerprint
from softmaxkit.models.running import to_default_device
from softmaxkit.models.task_evaluation import measure
from softmaxkit.models.tasks import Kind, Task, read_task
from softmaxkit.recipe import TaskRecipe
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.progress import Stage
from softmaxkit.studies.resume import Results, result_folder, resumed

WEIGHTS = "model.safetensors"

MAIN_FIGURES: dict[Kind, str] = {
    "classes": "accuracy_percent",
    "similarity": "spearman_percent",
    "answers": "answer_f1_percent",
}


@dataclass(frozen=True)
class TaskOptions:
    """What to measure on tasks.

    Attributes:
        model: an encoder, by folder or hub name.
        tasks: sources, see `softmaxkit.models.tasks.read_task`.
        specs: the methods; the baseline is always measured, first.
        recipe: hyperparameters of fine-tuning.
        eight_bit: fine-tune with 8-bit linear layers, the baseline too.
        fine_tune: also fine-tune methods that would only be calibrated, with their integers in the forward pass.
        seeds: each task is fine-tuned with each of them.
        folder: folder for trained models and finished results.
    """

    model: str
    tasks: tuple[str, ...]
    specs: tuple[Spec, ...]
    recipe: TaskRecipe = field(default_factory=TaskRecipe)
    eight_bit: bool = True
    fine_tune: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)
    folder: Path = Path("softmaxkit-tasks")


def measure_tasks(options: TaskOptions, command: Sequence[str], stage: Stage) -> dict[str, Any]:
    """Fine-tune and measure all methods on all tasks, and return the record.

    For tasks of classes or answers, the baseline is fine-tuned in float first. Methods that are calibrated use that
    model. The others are fine-tuned from the pretrained model with their integers in the forward pass, from the same
    start and with the same examples in the same order. Similarity tasks are measured without training and without
    8-bit layers.

    Args:
        options: what to measure.
        command: the command line, for the record.
        stage: reports progress.

    Returns:
        The record: a result for each task, seed and method, with `task`, `seed`, the task's figures, and
        `change_points`, the main figure minus the baseline's. A run that diverged has `diverged` and no figures.

    Raises:
        ValueError: a task or the model cannot be used.
        Interrupted: training was stopped; the same call resumes it.
    """
    tasks = [read_task(source) for source in options.tasks]
    names = [task.name for task in tasks]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two tasks are named {repeated[0]}; measure them one after the other, or rename one")
    for task in tasks:
        if not task.similarity and not task.train:
            raise ValueError(f"{task.name} has {task.kind} but no training examples; give a folder with a train file")
    specs = (BASELINE, *(spec for spec in options.specs if not spec.is_baseline))
    results: Results = []
    for task in tasks:
        for seed in dict.fromkeys(options.seeds[: 1 if task.similarity else None]):
            run = _TaskRun(options, task.sampled(options.recipe.examples, seed), seed, stage)
            of_run = [result for spec in specs for result in run.results(spec)]
            results += [result | _change(result, of_run[0]) for result in of_run]
    inputs = {
        "model": {"name": options.model},
        "tasks": [
            {"name": task.name, "train_examples": len(task.train), "held_out_examples": len(task.held_out)}
            for task in tasks
        ],
        "recipe": options.recipe.describe(),
        "eight_bit": options.eight_bit,
        "fine_tune": options.fine_tune,
        "seeds": list(options.seeds),
    }
    return make_record(command, options.seeds[0], inputs, results)


class _TaskRun:
    """One task with one seed, and the folders of its finished results."""

    def __init__(self, options: TaskOptions, task: Task, seed: int, stage: Stage) -> None:
        self.options, self.task, self.seed, self.stage = options, task, seed, stage
        self.fingerprint = fingerprint(options.model)

    def results(self, spec: Spec) -> Results:
        """Return the results of one spec, from the folder if they are finished.

        Methods fine-tuned with their integers are measured in integers only, all others in float and in integers.
        """
        trains = self._trains(spec)
        modes = ("integer",) if trains and not spec.is_baseline else ("float", "integer")
        about = {
            "task": self.task.name,
            "seed": self.seed,
            "trained": "fine-tuned" if trains else "not trained" if self.task.similarity else "calibrated",
            "kind": self.task.kind,
        }

        def measured() -> Results:
            title = f"{self.task.name}, seed {self.seed}: {spec.name}"
            model, tokenizer = self._prepared(spec, title)
            length = self._recipe_for(model, tokenizer).length
            results = []
            for mode in modes:
                set_mode(model, mode)
                figures = measure(model, tokenizer, self.task, length, self.stage(f"{title}, measure {mode}"))
                results.append(make_result(spec, mode, **about, **figures))
            return results

        def diverged(error: FloatingPointError) -> Results:
            return [make_result(spec, mode, **about, diverged=str(error)) for mode in modes]

        return resumed(self._folder(spec), measured, diverged)

    def _recipe_for(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TaskRecipe:
        """Return the recipe, with its length limited to the model's maximum."""
        recipe = self.options.recipe
        return replace(recipe, length=min(recipe.length, tokens_at_most(model), tokenizer.model_max_length))

    def _trains(self, spec: Spec) -> bool:
        return not self.task.similarity and (self.options.fine_tune or spec.training != "calibrated")

    def _prepared(self, spec: Spec, title: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the encoder with a spec applied, ready to be measured."""
        options = self.options
        model, tokenizer = read_encoder(options.model, self.task, self.seed)
        to_default_device(model)
        recipe = self._recipe_for(model, tokenizer)
        batches = calibration_batches(self.task, tokenizer, recipe.length)
        if options.eight_bit and not self.task.similarity:
            round_linear(model, batches)
        base = spec if self._trains(spec) else BASELINE
        if not self.task.similarity:
            apply(model, base, mode="float" if base.is_baseline else "integer")
            if not base.is_baseline:
                convert(model, batches)
                calibrate(model, batches)
            weights = self._folder(base) / "weights"
            if not weights.is_dir():
                run = self._folder(base) / "run"
                fine_tune(model, tokenizer, self.task, recipe, run, self.seed, self.stage(f"{title}, train"))
                with whole_folder(weights) as work:  # save_pretrained would lose the buffers of 8-bit layers
                    save_model(model, str(work / WEIGHTS))
                shutil.rmtree(run, ignore_errors=True)
            else:
                load_model(model, str(weights / WEIGHTS))
        if base != spec or self.task.similarity:
            apply(model, spec)
            convert(model, batches)
        calibrate(model, batches)
        return model, tokenizer

    def _folder(self, spec: Spec) -> Path:
        """Return the folder of results that depend on a spec's fine-tuning and measurement."""
        options = self.options
        return result_folder(
            options.folder / "tasks",
            f"{self.task.name}-{spec.method}",
            self.fingerprint,
            [self.task.name, self.task.train, self.task.held_out],
            options.recipe.describe(),
            options.eight_bit,
            self.seed,
            spec.to_json(),
            *(["fine-tuned"] if self._trains(spec) and spec.training == "calibrated" else []),
        )


def main_figure(result: Mapping[str, Any]) -> str:
    """Return the name of the main figure of a result's task."""
    return MAIN_FIGURES[result["kind"]]


def _change(result: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, float]:
    """Return the change against the baseline in points; empty if either diverged."""
    if "diverged" in result or "diverged" in baseline:
        return {}
    return {"change_points": result[main_figure(result)] - baseline[main_figure(baseline)]}
