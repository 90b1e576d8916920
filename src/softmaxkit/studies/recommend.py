"""Recommend a unit for one model: the narrowest formats of each method within a budget of loss, and their cost."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softmaxkit.files import write_json
from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.calibration import calibrate
from softmaxkit.models.evaluation import real_scores
from softmaxkit.models.patch import apply, layers, restore
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.model_cost import cost_of_scores
from softmaxkit.studies.progress import Progress, Say, Stage
from softmaxkit.studies.resume import Results, result_folder, resumed
from softmaxkit.studies.yardsticks import Yardstick, on_task, on_text


@dataclass(frozen=True)
class RecommendOptions:
    """What to search.

    Attributes:
        model: a causal language model: folder, hub name, GGUF file or packaged model; for a task, an encoder.
        methods: spec classes; methods for which a model has to be trained are skipped.
        budget: largest allowed change against exact softmax in float, in percent of the loss with the standard error
            added, or in points on a task.
        text: a text file, whose training part calibrates and whose held-out part is measured; None for the Python
            standard library's source.
        context: tokens per window, which is the row length.
        windows: number of held-out windows to measure.
        task: a similarity task, on which an encoder is measured instead of a text.
        folder: folder for the spec files and finished results.
        synthesize: also determine area and energy of each unit.
    """

    model: str
    methods: Sequence[type[Spec]]
    budget: float
    text: Path | None = None
    context: int = 1024
    windows: int = 2
    task: str | None = None
    folder: Path = Path("softmaxkit-recommend")
    synthesize: bool = True


@dataclass
class Search:
    """The effect of different specs on one model, each measured once.

    Attributes:
        yardstick: the model and its measure.
        folder: folder for what was measured, from which a search that was stopped takes it.
        figures: what `yardstick.measure` returned for each spec.
    """

    yardstick: Yardstick
    folder: Path
    figures: dict[Spec, Tensor] = field(default_factory=dict)

    def change(self, spec: Spec) -> float:
        """Return how much worse the model is with a spec in integers, in percent of the loss or in points."""
        if spec not in self.figures:
            key = spec.to_json(), self.yardstick.inputs, *self.yardstick.contents
            (kept,) = resumed(result_folder(self.folder, spec.method, *key), partial(self._measured, spec))
            self.figures[spec] = torch.tensor(kept["figures"], dtype=torch.float64)
        return self.yardstick.worse(float(self.figures[spec].mean()), float(self.yardstick.baseline.mean()))

    def _measured(self, spec: Spec) -> Results:
        self.put_in(spec)
        return [{"figures": self.yardstick.measure().tolist()}]

    def standard_error(self, spec: Spec) -> float | None:
        """Return the standard error of the change of the loss over the tokens, in percent.

        None for a task, and if no token's loss changes, as when exact softmax is compared with itself.
        """
        baseline = self.yardstick.baseline
        difference = self.figures[spec] - baseline
        if baseline.numel() < 2 or not difference.any():
            return None
        return float(100 * difference.std() / difference.numel() ** 0.5 / baseline.mean())

    def holds(self, spec: Spec, budget: float) -> bool:
        """Return whether the change plus its standard error is within the budget.

        Without the standard error, the decision on a borderline format would depend on the sampled tokens and on
        rounding.
        """
        change = self.change(spec)
        return change + (self.standard_error(spec) or 0.0) <= budget

    def put_in(self, spec: Spec) -> None:
        """Apply a spec to the model in integer mode, and calibrate it."""
        model = self.yardstick.model
        apply(restore(model), spec, mode="integer")
        if any(module.calibrator() is not None for module in layers(model).values()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the measured change includes the effect of saturation
                calibrate(model, self.yardstick.calibration)


def recommend(options: RecommendOptions, command: Sequence[str], stage: Stage, say: Say) -> dict[str, Any]:
    """Search for the narrowest formats of each method, one format after the other, and return the record.

    The search starts from the method's widest spec and measures in integers, always on the same windows. Each decision
    is kept for the following ones, so that the final spec of each method was measured as a whole.

    What was measured is kept in the folder, so that a search that was stopped, or has another budget, measures only
    the specs that are new.

    Args:
        options: what to search.
        command: the command line, for the record.
        stage: reports progress.
        say: called with each decision.

    Returns:
        The record: a result for each method, with `loss_nats`, `loss_change_percent` and
        `loss_change_standard_error_percent` over the tokens (for a task, `spearman_percent` and `change_points`, its
        decrease); `holds`, whether the spec is within the budget (if not, it is the widest spec); `steps`, the
        decisions; and the unit's figures. Methods within the budget come first, sorted by the energy of their units.

    Raises:
        ValueError: the text or model cannot be used.
        FloatingPointError: the loss is NaN or infinite.
        ToolError: a tool is missing or failed.
    """
    stage("measure the model with exact softmax")
    if options.task is not None:
        yardstick = on_task(options.model, options.task, options.context)
    else:
        yardstick = on_text(options.model, options.text, options.context, options.windows)
    search = Search(yardstick, options.folder / "measured")
    key = [options.budget, options.synthesize, str(options.folder), yardstick.inputs, *yardstick.contents]
    results: Results = []
    for method in options.methods:
        widest = method.widest(options.context)
        if widest is None:
            say(f"{method.title} is skipped: a model has to be trained for it; see softmaxkit compare --steps")
            continue
        folder = result_folder(options.folder / "finished", method.method, widest.to_json(), *key)
        results += resumed(folder, partial(_result, search, widest, options, stage, say))
        write_json(Path(results[-1]["spec_file"]), results[-1]["spec"])
    results.sort(key=lambda result: (not result["holds"], result.get("energy_pj_per_element", 0.0)))
    inputs = {"budget": options.budget, f"baseline_{yardstick.figure}": float(yardstick.baseline.mean())}
    return make_record(command, 0, yardstick.inputs | inputs, results)


def _result(search: Search, widest: Spec, options: RecommendOptions, stage: Stage, say: Say) -> Results:
    """Return the result of one method."""
    progress = stage(f"search {widest.title}")
    spec, steps = narrowest(search, widest, options.budget, progress)
    for step in steps:
        say(f"  {step['what']}: {step['chosen']}")
    change, error, yardstick = search.change(spec), search.standard_error(spec), search.yardstick
    costs: dict[str, Any] = {}
    if options.synthesize:
        search.put_in(spec)
        scores = real_scores(yardstick.model, yardstick.sample)
        costs = cost_of_scores(scores, stage(f"synthesise {spec.name}"))
    result = make_result(
        spec,
        "integer",
        holds=search.holds(spec, options.budget),
        **{yardstick.figure: float(search.figures[spec].mean())},
        **{"loss_change_percent" if options.task is None else "change_points": change},
        **({} if error is None else {"loss_change_standard_error_percent": error}),
        spec_file=str(options.folder / f"{spec.method}.json"),
        steps=steps,
        **costs,
    )
    return [result]


def narrowest(search: Search, spec: Spec, budget: float, progress: Progress) -> tuple[Spec, list[dict[str, Any]]]:
    """Narrow a spec format by format, the one that saves most first, by binary search over each one's candidates.

    Args:
        search: the model.
        spec: the widest spec.
        budget: largest allowed change.
        progress: called with the number of decisions made and their total.

    Returns:
        The narrowest spec within the budget (`Search.holds`), or the widest if even that exceeds it; and a step for
        each decision: its name in `what`, the decision in `chosen`, and in `tried` the change for each candidate that
        was measured.
    """
    steps: list[dict[str, Any]] = []
    if not search.holds(spec, budget):
        tried = {spec.name: search.change(spec)}
        return spec, [{"what": "widest", "chosen": _change_text(search, spec, "does not hold"), "tried": tried}]
    axes = [*spec.narrower()]
    for place, what in enumerate(axes):
        candidates = [*spec.narrower()[what], spec]
        low, high, tried = 0, len(candidates) - 1, {}
        while low < high:
            middle = (low + high) // 2
            change = search.change(candidates[middle])
            tried[_difference(candidates[middle], spec)] = change
            low, high = (low, middle) if search.holds(candidates[middle], budget) else (middle + 1, high)
        chosen = candidates[low]
        decision = _difference(chosen, spec) or "as it was"
        steps.append({"what": what, "chosen": _change_text(search, chosen, decision), "tried": tried})
        spec = chosen
        progress(place + 1, len(axes))
    return spec, steps


def _change_text(search: Search, spec: Spec, what: str) -> str:
    return f"{what} ({change_with_error(search.change(spec), search.standard_error(spec))})"


def change_with_error(change: float, standard_error: float | None) -> str:
    """Return a change as text, as "+0.29 ± 0.12"."""
    return f"{change:+.2f}" + ("" if standard_error is None else f" ± {standard_error:.2f}")


def _difference(spec: Spec, other: Spec) -> str:
    """Return the fields in which a spec differs from another one of its method, e.g. "output=UQ(1,9)"."""
    return ", ".join(f"{name}={getattr(spec, name)}" for name in spec.differing_fields(other))
