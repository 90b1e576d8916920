"""The `compare` command: every method in one language model, in floating point, in integers and in hardware."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel

from softmaxkit.methods import BASELINE
from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.evaluation import (
    RealScores,
    error_series,
    figures,
    function_series,
    held_out_figures,
    perplexity,
    real_scores,
)
from softmaxkit.models.patch import set_mode
from softmaxkit.recipe import SMALL_GPT, Shape
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.contenders import kernel_mode
from softmaxkit.studies.model_cost import cost_of_scores
from softmaxkit.studies.options import Options, TokenWindows
from softmaxkit.studies.preparation import Curve, Preparation
from softmaxkit.studies.progress import Stage
from softmaxkit.studies.resume import Results, resumed
from softmaxkit.studies.speed import speedups_over_torch
from softmaxkit.studies.verification import verify_scores

MODES = ("float", "integer")


def compare(options: Options, command: Sequence[str], stage: Stage, seeds: int = 1) -> dict[str, Any]:
    """Train or load a model, apply every method, measure, and return the record.

    Args:
        options: what to compare; hardware is verified and synthesised for its seed only.
        command: the command line, for the record.
        stage: reports progress.
        seeds: number of consecutive seeds, from that of the options; everything is trained and measured with each.

    Returns:
        The record: two results for each spec, float and integer, those of the baseline first; each with its changes
        in loss and perplexity against the baseline in float with the same seed. With several seeds, the figures in
        `AVERAGED` are means, and each has its standard deviation in a figure with the suffix `_spread`.

    Raises:
        ValueError: the text or model cannot be used.
        FloatingPointError: a training or model produced NaN or infinity.
        Interrupted: training was stopped; the same call resumes it.
    """
    specs = [BASELINE, *(spec for spec in options.specs if not spec.is_baseline)]
    comparisons: list[Comparison] = []
    by_seed: list[Results] = []
    for seed in range(options.seed, options.seed + seeds):
        first = seed == options.seed
        own = options if first else replace(options, seed=seed, verify=False, synthesize=False)
        comparisons.append(Comparison(own, stage, comparisons[0].windows if comparisons else None))
        results = [result for spec in specs for result in comparisons[-1].results(spec)]
        by_seed.append([result | changes(result, results[0]["loss_nats"]) for result in results])
    results = [_over_seeds(of_seeds, options.seed) for of_seeds in zip(*by_seed, strict=True)]
    if options.speed:
        speedups = speedups_over_torch(specs)
        for spec in speedups:
            place = len(MODES) * specs.index(spec) + MODES.index(kernel_mode(spec))
            results[place].update(speedups[spec])
    return make_record(command, options.seed, comparisons[0].inputs(), results)


AVERAGED = ("loss_nats", "perplexity", "words_right_percent", "loss_change_percent", "perplexity_change_percent")
"""Figures that are averaged over seeds."""


def _over_seeds(results: Sequence[dict[str, Any]], first_seed: int) -> dict[str, Any]:
    """Return the result of the first seed, with averaged figures replaced by their means over all seeds and spreads."""
    merged = {**results[0], "seeds": list(range(first_seed, first_seed + len(results)))}
    if len(results) > 1:
        for key in (key for key in AVERAGED if key in merged):
            values = [result[key] for result in results]
            if None in values:  # of a perplexity that overflows
                merged[key] = None
                continue
            merged[key], merged[f"{key}_spread"] = statistics.fmean(values), statistics.stdev(values)
    return merged


def changes(result: Mapping[str, Any], baseline: float | None) -> dict[str, float]:
    """Return the changes of a result against the baseline's loss, in percent; empty if either diverged."""
    if baseline is None or "loss_nats" not in result:
        return {}
    change = result["loss_nats"] - baseline
    return {
        "loss_change_percent": 100 * change / baseline,
        "perplexity_change_percent": 100 * (perplexity(change) - 1),
    }


class Comparison:
    """One comparison: a text, a model, and the folder of finished results.

    Args:
        options: what to compare.
        stage: reports progress.
        windows: the text, if it has been read already.

    Raises:
        ValueError: the text or model cannot be used.
    """

    def __init__(self, options: Options, stage: Stage, windows: TokenWindows | None = None) -> None:
        self.options, self.stage = options, stage
        self.windows = TokenWindows.read(options) if windows is None else windows
        self.preparation = Preparation(options, self.windows, stage)

    def inputs(self) -> dict[str, Any]:
        """Return the inputs of the record: text, model and recipe."""
        model = self.preparation.fresh(to_train=False)
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
        """Return the results of one spec in every mode, from the folder if they are finished.

        Args:
            spec: the method.
            keep_divergence: if training diverges, return results with `diverged` and no figures instead of raising.

        Raises:
            FloatingPointError: training diverged, and `keep_divergence` is False.
            Interrupted: training was stopped; the same call resumes it.
        """
        options = self.options
        synthesized = spec.compared_kinds if options.synthesize else ()
        folder = self.preparation.folder(spec, options.windows, options.verify, synthesized)

        def diverged(error: FloatingPointError) -> Results:
            return [make_result(spec, mode, diverged=str(error)) for mode in MODES]

        return resumed(folder, lambda: self._measure(spec), diverged if keep_divergence else None)

    def _measure(self, spec: Spec) -> Results:
        model, curve = self.preparation.prepare(spec)
        return [self._measure_mode(spec, mode, model, curve) for mode in MODES]

    def _measure_mode(self, spec: Spec, mode: str, model: PreTrainedModel, curve: Curve) -> dict[str, Any]:
        set_mode(model, mode)
        progress = self.stage(f"measure {spec.name}, {mode}")
        measured = held_out_figures(model, self.windows.held_out, self.windows.corpus.words, progress)
        scores = real_scores(model, self.windows.sample)
        series: dict[str, Any] = {"function": function_series(scores), "error": error_series(scores)}
        if curve and mode == "float":
            series["training"] = _training_series(curve)
        hardware = self._hardware(spec, scores) if mode == "integer" else {}
        return make_result(
            spec,
            mode,
            **measured,
            **figures(scores),
            trained_steps=self.preparation.steps,
            training_description=self.preparation.describe(spec),
            **hardware,
            series=series,
        )

    def _hardware(self, spec: Spec, scores: list[RealScores]) -> dict[str, Any]:
        """Return the cost of a method's hardware, and its verification against the integers on the model's scores."""
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
