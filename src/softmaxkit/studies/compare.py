"""The main job: every method in one language model, in floating point, in integers and in gates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from softmaxkit.files import content_key, write_json
from softmaxkit.methods import BASELINE
from softmaxkit.models.calibration import calibrate, convert
from softmaxkit.models.checkpoint import load, save
from softmaxkit.models.evaluation import (
    RealScores,
    error_series,
    figures,
    function_series,
    loss_on,
    perplexity,
    real_scores,
)
from softmaxkit.models.language_model import language_model
from softmaxkit.models.patch import apply, restore, set_mode
from softmaxkit.models.pretrained import fingerprint, read_pretrained
from softmaxkit.models.running import to_default_device
from softmaxkit.models.text import Corpus, read_corpus, windows_at_once
from softmaxkit.models.trainer import Progress
from softmaxkit.models.training import checkpoint_at, train
from softmaxkit.recipe import SMALL_GPT, WINDOWS, Recipe, Shape
from softmaxkit.record import make_record, make_result, versions
from softmaxkit.methods.base.spec import Spec
from softmaxkit.studies.hardware import verify_seen
from softmaxkit.studies.silicon import cost_seen
from softmaxkit.studies.speed import kernel_mode, speedup_over_torch

Stage = Callable[[str], Progress]
"""Called with the title of a piece of work; returns what is called as it goes on."""

SAMPLE = 32
"""Windows whose scores are looked at for row sums, saturation and error."""


@dataclass(frozen=True)
class Options:
    """What to compare.

    Attributes:
        specs: the methods' specs; exact is always measured, first.
        text: a text file; None for the Python standard library's source.
        model: a pretrained causal language model, by folder or hub name; None trains one from scratch.
        shape: of the model that is trained from scratch.
        recipe: how models are trained. For a pretrained model, zero steps leave it as it is.
        seed: of everything random.
        windows: held-out windows to measure the loss on, at most.
        folder: for checkpoints and finished results, from which a stopped comparison goes on.
        verify: compare the hardware of every form with its integers, on the model's own scores and constants.
        synthesize: map it to standard cells, for area, clock and energy.
        speed: measure the kernel of every form beside torch's.
    """

    specs: list[Spec]
    text: Path | None = None
    model: str | None = None
    shape: Shape = field(default_factory=Shape)
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    windows: int = WINDOWS
    folder: Path = Path("softmaxkit-compare")
    verify: bool = True
    synthesize: bool = True
    speed: bool = True


def compare(options: Options, command: list[str], stage: Stage) -> dict[str, Any]:
    """Train or load a model, put every method in, measure, and return the record.

    Equal training for all: what trains from scratch gets all steps, what is fine-tuned leaves the exact model's
    training at the branch step and goes on with the same data, optimiser and schedule, and what is calibrated takes
    the exact model at the end.

    Raises:
        ValueError: a text or model that cannot be used.
        Interrupted: training was stopped; the same call goes on.
    """
    study = Comparison(options, stage)
    results: list[dict[str, Any]] = []
    for spec in [BASELINE, *(spec for spec in options.specs if not spec.is_baseline)]:
        results += study.results(spec)
    baseline = results[0]["loss_nats"]
    for result in results:
        change = result["loss_nats"] - baseline
        result["loss_change_percent"] = 100 * change / baseline
        result["perplexity_change_percent"] = 100 * (perplexity(change) - 1)
    return make_record(command, options.seed, study.inputs(), results)


class Comparison:
    """One comparison: its text, its model, and the folder that remembers what is done.

    Args:
        options: what to compare.
        stage: of the progress.

    Raises:
        ValueError: a text or model that cannot be used.
    """

    def __init__(self, options: Options, stage: Stage) -> None:
        self.options, self.stage = options, stage
        self.pretrained = options.model is not None
        tokenizer: PreTrainedTokenizerBase | None = None
        if options.model is not None:
            _, tokenizer = read_pretrained(options.model, options.recipe.context)
        self.fingerprint = fingerprint(options.model)
        self.corpus: Corpus = read_corpus(options.text, tokenizer, 0 if self.pretrained else options.shape.tokens)
        context = options.recipe.context
        self.held_out = self.corpus.held_out_windows(context, options.windows)
        self.sample = self.corpus.held_out_windows(context, windows_at_once(SAMPLE, context))
        self.calibration = self.corpus.calibration_batches(context)

    def inputs(self) -> dict[str, Any]:
        """Return what a record says of text, model and recipe."""
        model = self._fresh()
        config = model.config.get_text_config()
        described = {
            "name": self.options.model or (SMALL_GPT if self.options.shape == Shape() else "language model"),
            "kind": config.model_type,
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "width": config.hidden_size,
            "context": self.options.recipe.context,
            "parameters": model.num_parameters(),
        }
        return {
            "text": self.corpus.describe(),
            "model": described,
            "recipe": self.options.recipe.describe(),
            "windows": len(self.held_out),
        }

    def results(self, spec: Spec) -> list[dict[str, Any]]:
        """Return the results of one spec, float and integer; from the folder where they are finished."""
        finished = self.finished(spec)
        if finished.is_file():
            found: list[dict[str, Any]] = json.loads(finished.read_text(encoding="utf-8"))
            return found
        model, curve = self.prepared(spec)
        title = f"{spec.method} {spec.variant}".strip()
        results = []
        for mode in ("float", "integer"):
            set_mode(model, mode)
            loss = loss_on(model, self.held_out, self.stage(f"measure {title}, {mode}"))
            seen = real_scores(model, self.sample)
            series: dict[str, Any] = {"function": function_series(seen), "error": error_series(seen)}
            if curve and mode == "float":
                series["training"] = _training_series(curve)
            hardware = self._hardware(title, seen) if mode == "integer" else {}
            speedup = speedup_over_torch(spec) if self.options.speed and mode == kernel_mode(spec) else None
            results.append(
                make_result(
                    spec,
                    mode,
                    loss_nats=loss,
                    perplexity=perplexity(loss),
                    **figures(seen),
                    trained_steps=self._steps,
                    training_description=self._description(spec),
                    **hardware,
                    **({} if speedup is None else {"speedup_over_torch": speedup}),
                    series=series,
                )
            )
        write_json(finished, results)
        return results

    def finished(self, spec: Spec) -> Path:
        """Return the file that keeps a spec's results."""
        options = self.options
        return self._folder(spec, options.windows, options.verify, options.synthesize, options.speed) / "results.json"

    def _hardware(self, title: str, seen: list[RealScores]) -> dict[str, Any]:
        """Compare the method's hardware with its integers, on scores of the model, and count what it costs."""
        figures: dict[str, Any] = {}
        if self.options.synthesize:
            figures |= cost_seen(seen, self.stage(f"synthesise {title}"))
        if not self.options.verify:
            return figures
        found = verify_seen(seen, self.stage(f"verify {title}, hardware"))
        return figures | {
            "verified_outputs": found.compared - found.mismatches,
            "hardware_mismatches": found.mismatches,
            "hardware_faults": found.faults,
            "hardware_simulator": found.simulator,
        }

    def prepared(self, spec: Spec) -> tuple[PreTrainedModel, list[dict[str, Any]]]:
        """Return the model, ready to be measured with a spec, and its training curve."""
        curve: list[dict[str, Any]] = []
        if self._takes_exact(spec):
            model = restore(self.prepared(BASELINE)[0])
            apply(model, spec)
        else:
            model, curve = self._trained(spec)
        calibrate(to_default_device(model), self.calibration)
        return model, curve

    def _trained(self, spec: Spec) -> tuple[PreTrainedModel, list[dict[str, Any]]]:
        """Train, or load what was trained before."""
        folder = self._folder(spec)
        done, curve_file = folder / "model", folder / "curve.json"
        if done.is_dir():
            return load(done), json.loads(curve_file.read_text(encoding="utf-8"))
        if self._converts(spec):
            return self._converted(spec, folder)
        branch = None
        if spec.training == "fine-tuned" and not self.pretrained:
            self._trained(BASELINE)
            branch = self._branch
        model = self._fresh()
        apply(model, spec, mode="integer" if spec.training == "fine-tuned" else "float")
        if self.pretrained:
            convert(model, self.calibration)
        curve: list[dict[str, Any]] = []
        if self._steps:
            title = f"train {spec.method} {spec.variant}".strip()
            progress = self.stage(f"{title}, {self._description(spec)}")
            recipe = self._recipe(spec).before_conversion()
            curve = train(model, self.corpus, recipe, folder, self.options.seed, branch, progress)
        self._keep(model, curve, folder)
        return model, curve

    def _takes_exact(self, spec: Spec) -> bool:
        """Does a spec take the finished exact model? Other forms of exact too: they train alike, in float."""
        return spec.training == "calibrated"

    def _converts(self, spec: Spec) -> bool:
        """Is a spec put into the finished exact model and trained on? Exact too, for all to be compared with."""
        return bool(self.options.recipe.conversion_steps) and spec.training != "calibrated"

    def _converted(self, spec: Spec, folder: Path) -> tuple[PreTrainedModel, list[dict[str, Any]]]:
        """Return the exact model converted to a method by some steps of training."""
        recipe = self._recipe(spec)
        start = Comparison(replace(self.options, recipe=recipe.before_conversion()), self.stage)
        model = restore(start.prepared(BASELINE)[0])
        apply(model, spec, mode="integer" if spec.training == "fine-tuned" else "float")
        convert(model, self.calibration, recipe.key_fit)
        steps = replace(recipe, steps=recipe.conversion_steps, learning_rate=recipe.conversion_rate)
        progress = self.stage(f"convert exact to {spec.method} {spec.variant}".strip())
        curve = train(model, self.corpus, steps, folder, self.options.seed, None, progress)
        self._keep(model, curve, folder)
        return model, curve

    def _keep(self, model: PreTrainedModel, curve: list[dict[str, Any]], folder: Path) -> None:
        """Write a finished model with its curve, and remove the checkpoints on the way."""
        write_json(folder / "curve.json", curve)
        save(model, folder / "model")
        for checkpoint in folder.glob("checkpoint-*"):
            if checkpoint != self._branch:
                shutil.rmtree(checkpoint)

    @property
    def _branch(self) -> Path:
        """The checkpoint of the exact model from which fine-tuned methods go on."""
        return checkpoint_at(self._folder(BASELINE), self.options.recipe.branch_step)

    def _recipe(self, spec: Spec) -> Recipe:
        """Return all of the recipe that matters to a spec; what is only ConSmax's way in matters to it alone."""
        own = spec.training == "from scratch" and not spec.is_baseline
        if own:
            return self.options.recipe
        return replace(self.options.recipe, homotopy=0.0, key_fit=False, constants_rate=1.0)

    @property
    def _steps(self) -> int:
        return self.options.recipe.steps + self.options.recipe.conversion_steps

    def _fresh(self) -> PreTrainedModel:
        if self.options.model is not None:
            return restore(read_pretrained(self.options.model, self.options.recipe.context)[0])
        return language_model(self.options.shape, self.options.recipe.context, self.options.seed)

    def _description(self, spec: Spec) -> str:
        if self._takes_exact(spec):
            return "exact model, calibrated"
        if self.pretrained:
            return f"pretrained, then {self._steps} steps" if self._steps else "pretrained"
        if self._converts(spec):
            return f"exact to step {self.options.recipe.steps}, then {self.options.recipe.conversion_steps} steps more"
        if spec.training == "fine-tuned":
            return f"exact to step {self.options.recipe.branch_step}, then fine-tuned"
        return "from scratch"

    def _folder(self, spec: Spec, *further: Any) -> Path:
        """Return the folder of all that depends on the same things, by their hash."""
        key = content_key(
            versions(),
            self.corpus.fingerprint,
            self.fingerprint,
            self.options.shape.describe(),
            self._recipe(spec).describe(),
            self.options.seed,
            spec.to_json(),
            *further,
        )
        return self.options.folder / "runs" / f"{spec.method}-{key}"


def _training_series(curve: list[dict[str, Any]]) -> dict[str, Any]:
    trained = [entry for entry in curve if "loss" in entry]
    held_out = [entry for entry in curve if "eval_loss" in entry]
    return {
        "step": [entry["step"] for entry in trained],
        "loss_nats": [entry["loss"] for entry in trained],
        "held_out_step": [entry["step"] for entry in held_out],
        "held_out_loss_nats": [entry["eval_loss"] for entry in held_out],
        "constants": [entry["constants"] for entry in held_out if "constants" in entry],
    }
