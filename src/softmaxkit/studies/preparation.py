"""Prepare a model for each method: train, fine-tune, convert or calibrate it, and store the finished model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from softmaxkit.files import read_json, write_json
from softmaxkit.methods import BASELINE
from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.calibration import calibrate, convert
from softmaxkit.models.checkpoint import load, save
from softmaxkit.models.language_model import language_model
from softmaxkit.models.patch import apply, respecify, restore
from softmaxkit.models.pretrained import fingerprint, read_pretrained, shared_pretrained
from softmaxkit.models.running import to_default_device
from softmaxkit.models.training import checkpoint_at, train
from softmaxkit.recipe import Recipe
from softmaxkit.studies.options import Options, TokenWindows
from softmaxkit.studies.progress import Stage
from softmaxkit.studies.resume import result_folder

Curve = list[dict[str, Any]]
"""The log of a training, in the order of its steps."""


class Preparation:
    """Prepares the model of a comparison for each method.

    All methods get equal training: one that is trained from scratch gets all steps; a fine-tuned one branches off the
    baseline's training at the branch step and continues with the same data, optimiser and schedule; a calibrated one
    uses the baseline's finished model.

    Args:
        options: options of the comparison.
        windows: its text.
        stage: reports progress.

    Attributes:
        steps: total training steps of every model that is trained.
    """

    def __init__(self, options: Options, windows: TokenWindows, stage: Stage) -> None:
        self.options, self.windows, self.stage = options, windows, stage
        self.fingerprint = fingerprint(options.model)
        self.steps = options.recipe.steps + options.recipe.conversion_steps

    def prepare(self, spec: Spec) -> tuple[PreTrainedModel, Curve]:
        """Return the model, ready to be measured with a spec, and its training curve, empty if it was not trained.

        Raises:
            FloatingPointError: training diverged.
            Interrupted: training was stopped; the same call resumes it.
        """
        curve: Curve = []
        if spec.training == "calibrated":
            model = restore(self._trained(BASELINE)[0])
            apply(model, spec)
        else:
            model, curve = self._trained(spec.as_trained())
            if spec != spec.as_trained():
                respecify(model, spec)
        calibrate(to_default_device(model), self.windows.calibration)
        return model, curve

    def fresh(self, to_train: bool = True) -> PreTrainedModel:
        """Return the untrained starting point: a model without a method, pretrained or with random weights.

        Args:
            to_train: whether the caller may change its weights; if not, a pretrained model is shared between calls.
        """
        if self.options.model is not None:
            read = read_pretrained if to_train else shared_pretrained
            return restore(read(self.options.model, self.options.recipe.context)[0])
        return language_model(self.options.shape, self.options.recipe.context, self.options.seed)

    def describe(self, spec: Spec) -> str:
        """Return a short description of how the model for a spec is prepared."""
        recipe = self.options.recipe
        if spec.training == "calibrated":
            return f"{BASELINE.method} model, calibrated"
        if self.options.pretrained:
            return f"pretrained, then {self.steps} steps" if self.steps else "pretrained"
        if self._is_converted(spec):
            return f"{BASELINE.method} to step {recipe.steps}, then {recipe.conversion_steps} steps more"
        if spec.training == "fine-tuned":
            return f"{BASELINE.method} to step {recipe.branch_step}, then fine-tuned"
        return "from scratch"

    def folder(self, spec: Spec, *inputs: Any) -> Path:
        """Return the folder of results that depend on the trained model of a spec and on further inputs."""
        return result_folder(
            self.options.folder / "runs",
            spec.method,
            self.windows.fingerprint,
            self.fingerprint,
            self.options.shape.describe(),
            self._recipe(spec).describe(),
            self.options.seed,
            spec.to_json(),
            *inputs,
        )

    def _trained(self, spec: Spec) -> tuple[PreTrainedModel, Curve]:
        """Train a model with a spec in it, or load it if it is finished."""
        folder = self.folder(spec)
        if self.options.pretrained and not self.steps:  # there is no training to store
            return apply(self.fresh(to_train=False), spec), []
        if (folder / "model").is_dir():
            kept: Curve = read_json(folder / "curve.json", "delete its folder, and the model is trained again")
            return load(folder / "model"), kept
        if self._is_converted(spec):
            return self._converted(spec, folder)
        branch = None
        if spec.training == "fine-tuned" and not self.options.pretrained:
            self._trained(BASELINE)
            branch = self._branch
        model = self.fresh()
        apply(model, spec, mode=_training_mode(spec))
        if self.options.pretrained:
            convert(model, self.windows.calibration)
        curve: Curve = []
        if self.steps:
            progress = self.stage(f"train {spec.name}, {self.describe(spec)}")
            recipe = self._recipe(spec).before_conversion()
            curve = train(model, self.windows.corpus, recipe, folder, self.options.seed, branch, progress)
        self._store(model, curve, folder)
        return model, curve

    def _converted(self, spec: Spec, folder: Path) -> tuple[PreTrainedModel, Curve]:
        """Apply a spec to the finished model of the baseline, and train it for the conversion steps."""
        recipe = self._recipe(spec)
        before = replace(self.options, recipe=recipe.before_conversion())
        model = restore(Preparation(before, self.windows, self.stage)._trained(BASELINE)[0])
        apply(model, spec, mode=_training_mode(spec))
        convert(model, self.windows.calibration, recipe.key_fit)
        conversion = replace(recipe, steps=recipe.conversion_steps, learning_rate=recipe.conversion_rate)
        progress = self.stage(f"convert {BASELINE.name} to {spec.name}")
        curve = train(model, self.windows.corpus, conversion, folder, self.options.seed, None, progress)
        self._store(model, curve, folder)
        return model, curve

    def _store(self, model: PreTrainedModel, curve: Curve, folder: Path) -> None:
        """Write a finished model with its curve, and remove the checkpoints of its training."""
        write_json(folder / "curve.json", curve)
        save(model, folder / "model")
        for checkpoint in folder.glob("checkpoint-*"):
            if checkpoint != self._branch:
                shutil.rmtree(checkpoint)

    def _is_converted(self, spec: Spec) -> bool:
        """Return whether a spec continues from the baseline's finished model, as the baseline itself does too."""
        return bool(self.options.recipe.conversion_steps) and spec.training != "calibrated"

    @property
    def _branch(self) -> Path:
        """The baseline's checkpoint from which fine-tuned methods continue."""
        return checkpoint_at(self.folder(BASELINE), self.options.recipe.branch_step)

    def _recipe(self, spec: Spec) -> Recipe:
        """Return the recipe, without the settings that only affect what has to be trained if the spec has not."""
        if needs_training(spec):
            return self.options.recipe
        return replace(self.options.recipe, homotopy=0.0, key_fit=False, constants_rate=1.0)


def needs_training(spec: Spec) -> bool:
    """Return whether the baseline's model cannot serve a spec untrained.

    That is so for a method trained from scratch, and for one with learned parameters that calibration does not set.
    """
    if spec.is_baseline or spec.training == "calibrated":
        return False
    return spec.training == "from scratch" or any(True for _ in spec.module().parameters())


def _training_mode(spec: Spec) -> str:
    """Return the mode to train in: fine-tuned methods train with the rounding of their integers."""
    return "integer" if spec.training == "fine-tuned" else "float"
