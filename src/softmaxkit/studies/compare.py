"""The main job: every method in one language model, in floating point, in integers and in gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from softmaxkit.methods import BASELINE
from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.evaluation import (
    RealScores,
    error_series,
    figures,
    function_series,
    loss_on,
    perplexity,
    real_scores,
)
from softmaxkit.models.patch import set_mode
from softmaxkit.recipe import SMALL_GPT, Shape
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.contenders import kernel_mode
from softmaxkit.studies.options import Options, TokenWindows
from softmaxkit.studies.preparation import Curve, Preparation
from softmaxkit.studies.progress import Stage
from softmaxkit.studies.resume import Results, resumed
from softmaxkit.studies.silicon import cost_of_scores
from softmaxkit.studies.speed import speedup_over_torch
from softmaxkit.studies.verification import verify_scores

MODES = ("float", "integer")


def compare(options: Options, command: Sequence[str], stage: Stage) -> dict[str, Any]:
    """Train or load a model, put every method in, measure, and return the record.

    Args:
        options: what to compare.
        command: for the record.
        stage: shows progress.

    Returns:
        the record: two results for each spec, float and integer, those of the baseline first; each with its changes
        in loss and perplexity against the baseline in float.

    Raises:
        ValueError: a text or model that cannot be used.
        FloatingPointError: a training or model gave NaN or infinity.
        Interrupted: training was stopped; the same call continues.
    """
    comparison = Comparison(options, stage)
    specs = [BASELINE, *(spec for spec in options.specs if not spec.is_baseline)]
    results = [result for spec in specs for result in comparison.results(spec)]
    baseline = results[0]["loss_nats"]
    results = [result | changes(result, baseline) for result in results]
    return make_record(command, options.seed, comparison.inputs(), results)


def changes(result: Mapping[str, Any], baseline: float | None) -> dict[str, float]:
    """Return the changes of a result against the baseline's loss, in percent; empty where either diverged."""
    if baseline is None or "loss_nats" not in result:
        return {}
    change = result["loss_nats"] - baseline
    return {
        "loss_change_percent": 100 * change / baseline,
        "perplexity_change_percent": 100 * (perplexity(change) - 1),
    }


class Comparison:
    """One comparison: a text, a model, and the folder that keeps what is finished.

    Args:
        options: what to compare.
        stage: shows progress.
        windows: the text, where it is read already.

    Raises:
        ValueError: a text or model that cannot be used.
    """

    def __init__(self, options: Options, stage: Stage, windows: TokenWindows | None = None) -> None:
        self.options, self.stage = options, stage
        self.windows = TokenWindows.read(options) if windows is None else windows
        self.preparation = Preparation(options, self.windows, stage)

    def inputs(self) -> dict[str, Any]:
        """Return what a record says of text, model and recipe."""
        model = self.preparation.fresh()
        config = model.config.get_text_config()
        description = {
            "name": self.options.model or (SMALL_GPT if self.options.shape == Shape() else "language model"),
            "kind": config.model_type,
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "width": config.hidden_size,
            "context": self.options.recipe.context,
            "parameters": model.num_parameters(),
        }
        return {
            "text": self.windows.corpus.describe(),
            "model": description,
            "recipe": self.options.recipe.describe(),
            "windows": len(self.windows.held_out),
        }

    def results(self, spec: Spec, keep_divergence: bool = False) -> Results:
        """Return the results of one spec in every mode, from the folder where they are finished.

        Args:
            spec: the method.
            keep_divergence: a training that diverges is a result too, with `diverged` and no figures.

        Raises:
            FloatingPointError: it diverged, and `keep_divergence` is not set.
            Interrupted: training was stopped; the same call continues.
        """
        options = self.options
        folder = self.preparation.folder(spec, options.windows, options.verify, options.synthesize, options.speed)

        def diverged(error: FloatingPointError) -> Results:
            return [make_result(spec, mode, diverged=str(error)) for mode in MODES]

        return resumed(folder, lambda: self._measure(spec), diverged if keep_divergence else None)

    def _measure(self, spec: Spec) -> Results:
        model, curve = self.preparation.prepare(spec)
        return [self._measure_mode(spec, mode, model, curve) for mode in MODES]

    def _measure_mode(self, spec: Spec, mode: str, model: PreTrainedModel, curve: Curve) -> dict[str, Any]:
        set_mode(model, mode)
        loss = loss_on(model, self.windows.held_out, self.stage(f"measure {spec.name}, {mode}"))
        scores = real_scores(model, self.windows.sample)
        series: dict[str, Any] = {"function": function_series(scores), "error": error_series(scores)}
        if curve and mode == "float":
            series["training"] = _training_series(curve)
        hardware = self._hardware(spec, scores) if mode == "integer" else {}
        speedup = speedup_over_torch(spec) if self.options.speed and mode == kernel_mode(spec) else None
        return make_result(
            spec,
            mode,
            loss_nats=loss,
            perplexity=perplexity(loss),
            **figures(scores),
            trained_steps=self.preparation.steps,
            training_description=self.preparation.describe(spec),
            **hardware,
            **({} if speedup is None else {"speedup_over_torch": speedup}),
            series=series,
        )

    def _hardware(self, spec: Spec, scores: list[RealScores]) -> dict[str, Any]:
        """Return what a method's hardware costs, and how it compares with its integers on the model's scores."""
        costs: dict[str, Any] = {}
        if self.options.synthesize:
            costs = cost_of_scores(scores, self.stage(f"synthesise {spec.name}"))
        if not self.options.verify:
            return costs
        verification = verify_scores(scores, self.stage(f"verify {spec.name}, hardware"))
        return costs | {
            "verified_outputs": verification.compared - verification.mismatches,
            "hardware_mismatches": verification.mismatches,
            "hardware_faults": verification.faults,
            "hardware_simulator": verification.simulator,
        }


def _training_series(curve: Curve) -> dict[str, Any]:
    trained = [entry for entry in curve if "loss" in entry]
    held_out = [entry for entry in curve if "eval_loss" in entry]
    return {
        "step": [entry["step"] for entry in trained],
        "loss_nats": [entry["loss"] for entry in trained],
        "held_out_step": [entry["step"] for entry in held_out],
        "held_out_loss_nats": [entry["eval_loss"] for entry in held_out],
        "constants": [entry["constants"] for entry in held_out if "constants" in entry],
    }
