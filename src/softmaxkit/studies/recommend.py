"""What a unit needs on one model: the narrowest formats of each method that hold a budget of loss, and their cost."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from softmaxkit.files import write_json
from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.calibration import calibrate
from softmaxkit.models.evaluation import real_scores
from softmaxkit.models.patch import apply, layers, restore
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.progress import Progress, Say, Stage
from softmaxkit.studies.silicon import cost_of_scores
from softmaxkit.studies.yardsticks import Yardstick, on_task, on_text


@dataclass(frozen=True)
class RecommendOptions:
    """What to look for.

    Attributes:
        model: a causal language model: folder, hub name, GGUF file or packaged model; for a task, an encoder.
        methods: classes of specs, of which those that a model has to be trained for are left out.
        budget: largest change of the loss against exact softmax in float, its standard error added, in percent; of a
            task's figure in points.
        text: a text file, of which the first part calibrates and the held-out part is measured; None for the Python
            standard library's source.
        context: tokens in a window, the row length.
        windows: held-out windows to measure on.
        task: of similarity, to measure an encoder on instead of a text.
        folder: for the specs.
        synthesize: work out area and energy of each unit.
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
    """What different specs do to one model, each measured once.

    Attributes:
        yardstick: the model, and what it is held against.
        figures: by spec, as the yardstick measures.
    """

    yardstick: Yardstick
    figures: dict[Spec, Tensor] = field(default_factory=dict)

    def change(self, spec: Spec) -> float:
        """Return how much worse the model is with a spec in integers, in percent of the loss or in points."""
        if spec not in self.figures:
            self.put_in(spec)
            self.figures[spec] = self.yardstick.measure()
        return self.yardstick.worse(float(self.figures[spec].mean()), float(self.yardstick.baseline.mean()))

    def standard_error(self, spec: Spec) -> float | None:
        """Return that of the change of a loss, over the tokens that were measured, in percent; None of a task."""
        baseline = self.yardstick.baseline
        if baseline.numel() < 2:
            return None
        apart = self.figures[spec] - baseline
        return float(100 * apart.std() / apart.numel() ** 0.5 / baseline.mean())

    def holds(self, spec: Spec, budget: float) -> bool:
        """Return whether the change stays within the budget with its standard error added.

        Without it, a format at the edge would hold or not by the tokens that were drawn, and by rounding.
        """
        change = self.change(spec)
        return change + (self.standard_error(spec) or 0.0) <= budget

    def put_in(self, spec: Spec) -> None:
        """Put a spec into the model, calibrated, in integer mode."""
        model = self.yardstick.model
        apply(restore(model), spec, mode="integer")
        if any(module.calibrator() is not None for module in layers(model).values()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # saturation shows in what is measured
                calibrate(model, self.yardstick.calibration)


def recommend(options: RecommendOptions, command: Sequence[str], stage: Stage, say: Say) -> dict[str, Any]:
    """Search the narrowest formats of each method, from its widest down, one after the other, and return the record.

    Everything is measured in integers on the same windows: a format that holds is kept, so that the last spec of each
    method was measured as a whole.

    Args:
        options: what to look for.
        command: for the record.
        stage: shows progress.
        say: called with each format that was decided.

    Returns:
        the record: a result for each method, with `loss_nats`, `loss_change_percent` and
        `loss_change_standard_error_percent`, over the tokens measured (of a task `spearman_percent`
        and `change_points`, how much lower it is), whether it `holds` the budget (else it is the widest, the nearest
        there is), `steps`, what was tried, and the unit's figures. The methods that
        hold come first, by the energy of their units.

    Raises:
        ValueError: a text or model that cannot be used.
        FloatingPointError: the model's own loss is NaN or infinite.
        ToolError: a tool is missing or failed.
    """
    stage("measure the model as it is")
    if options.task is not None:
        yardstick = on_task(options.model, options.task, options.context)
    else:
        yardstick = on_text(options.model, options.text, options.context, options.windows)
    search = Search(yardstick)
    results = []
    for method in options.methods:
        widest = method.widest(options.context)
        if widest is None:
            say(f"{method.title} is left out: a model has to be trained for it; see softmaxkit compare --steps")
            continue
        results.append(_result(search, widest, options, stage, say))
    results.sort(key=lambda result: (not result["holds"], result.get("energy_pj_per_element", 0.0)))
    inputs = {"budget": options.budget, f"baseline_{yardstick.figure}": float(yardstick.baseline.mean())}
    return make_record(command, 0, yardstick.inputs | inputs, results)


def _result(search: Search, widest: Spec, options: RecommendOptions, stage: Stage, say: Say) -> dict[str, Any]:
    """Return the result of one method, and write its spec."""
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
    file = options.folder / f"{spec.method}.json"
    write_json(file, spec.to_json())
    return make_result(
        spec,
        "integer",
        holds=search.holds(spec, options.budget),
        **{yardstick.figure: float(search.figures[spec].mean())},
        **{"loss_change_percent" if options.task is None else "change_points": change},
        **({} if error is None else {"loss_change_standard_error_percent": error}),
        spec_file=str(file),
        steps=steps,
        **costs,
    )


def narrowest(search: Search, spec: Spec, budget: float, progress: Progress) -> tuple[Spec, list[dict[str, Any]]]:
    """Narrow a spec down, what saves most first, by halving the candidates that are left.

    Args:
        search: the model.
        spec: the widest.
        budget: largest change.
        progress: called with the decisions made and all.

    Returns:
        the narrowest that holds the budget (`Search.holds`), or the widest where that does not; and a step for each
        decision: `what`, what was `chosen`, and what was `tried`, with the change of the loss of each.
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
        kept = _difference(chosen, spec) or "as it was"
        steps.append({"what": what, "chosen": _change_text(search, chosen, kept), "tried": tried})
        spec = chosen
        progress(place + 1, len(axes))
    return spec, steps


def _change_text(search: Search, spec: Spec, what: str) -> str:
    return f"{what} ({change_with_error(search.change(spec), search.standard_error(spec))})"


def change_with_error(change: float, standard_error: float | None) -> str:
    """Return a change as text, as "+0.29 ± 0.12"."""
    return f"{change:+.2f}" + ("" if standard_error is None else f" ± {standard_error:.2f}")


def _difference(spec: Spec, other: Spec) -> str:
    """Return in what a spec differs from another one of its method, as "output=UQ(1,9)"."""
    return ", ".join(f"{name}={getattr(spec, name)}" for name in spec.unlike(other))
