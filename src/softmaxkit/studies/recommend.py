"""What a unit needs on one model: the narrowest formats of each method that hold a budget of loss, and their cost."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from softmaxkit.files import write_json
from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.calibration import calibrate
from softmaxkit.models.evaluation import loss_on, perplexity, real_scores
from softmaxkit.models.patch import apply, layers, restore
from softmaxkit.models.pretrained import read_pretrained
from softmaxkit.models.running import to_default_device
from softmaxkit.models.text import read_corpus, windows_at_once
from softmaxkit.record import make_record, make_result
from softmaxkit.studies.progress import Say, Stage
from softmaxkit.studies.silicon import cost_of_scores

CALIBRATION_WINDOWS = 2
"""Windows that a method is calibrated on before it is measured."""


@dataclass(frozen=True)
class RecommendOptions:
    """What to look for.

    Attributes:
        model: a causal language model: folder, hub name, GGUF file or packaged model.
        methods: classes of specs, of which those that a model has to be trained for are left out.
        budget_percent: largest change of the loss against exact softmax in float.
        text: a text file, of which the first part calibrates and the held-out part is measured; None for the Python
            standard library's source.
        context: tokens in a window, the row length.
        windows: held-out windows to measure on.
        folder: for the specs.
        synthesize: work out area and energy of each unit.
    """

    model: str
    methods: Sequence[type[Spec]]
    budget_percent: float
    text: Path | None = None
    context: int = 1024
    windows: int = 2
    folder: Path = Path("softmaxkit-recommend")
    synthesize: bool = True


@dataclass
class Search:
    """The losses of one model with different specs, each measured once.

    Attributes:
        model: with no method in it.
        held_out: windows to measure on.
        calibration: batches.
        baseline_loss: of exact softmax in float.
        losses: by spec.
    """

    model: PreTrainedModel
    held_out: Any
    calibration: Sequence[Any]
    baseline_loss: float
    losses: dict[Spec, float] = field(default_factory=dict)

    def change_percent(self, spec: Spec) -> float:
        """Return the change of the loss with a spec, in integers."""
        if spec not in self.losses:
            self.put_in(spec)
            self.losses[spec] = loss_on(self.model, self.held_out)
        return 100 * (self.losses[spec] / self.baseline_loss - 1)

    def put_in(self, spec: Spec) -> None:
        """Put a spec into the model, calibrated, in integer mode."""
        apply(restore(self.model), spec, mode="integer")
        if any(module.calibrator() is not None for module in layers(self.model).values()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # saturation shows in the loss
                calibrate(self.model, self.calibration)


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
        the record: a result for each method, with `loss_nats`, `loss_change_percent`, whether it `holds` the budget
        (else it is the widest, the nearest there is), `steps`, what was tried, and the unit's figures. The methods that
        hold come first, by the energy of their units.

    Raises:
        ValueError: a text or model that cannot be used.
        FloatingPointError: the model's own loss is NaN or infinite.
        ToolError: a tool is missing or failed.
    """
    model, tokenizer = read_pretrained(options.model, options.context)
    corpus = read_corpus(options.text, tokenizer)
    held_out = corpus.held_out_windows(options.context, options.windows)
    calibration = corpus.calibration_batches(options.context, batch=CALIBRATION_WINDOWS, count=1)
    model = restore(to_default_device(model))
    search = Search(model, held_out, calibration, loss_on(model, held_out, stage("measure the model as it is")))
    results = []
    for method in options.methods:
        widest = method.widest(options.context)
        if widest is None:
            say(f"{method.title} is left out: a model has to be trained for it; see softmaxkit compare --steps")
            continue
        results.append(_result(search, widest, options, stage, say))
    results.sort(key=lambda result: (not result["holds"], result.get("energy_pj_per_element", 0.0)))
    inputs = {
        "text": corpus.describe(),
        "model": {"name": options.model},
        "context": options.context,
        "windows": len(held_out),
        "budget_percent": options.budget_percent,
        "baseline_loss_nats": search.baseline_loss,
    }
    return make_record(command, 0, inputs, results)


def _result(search: Search, widest: Spec, options: RecommendOptions, stage: Stage, say: Say) -> dict[str, Any]:
    """Return the result of one method, and write its spec."""
    progress = stage(f"search {widest.title}")
    spec, steps = narrowest(search, widest, options.budget_percent, progress)
    for step in steps:
        say(f"  {step['what']}: {step['chosen']}")
    holds = search.change_percent(spec) <= options.budget_percent
    costs: dict[str, Any] = {}
    if options.synthesize:
        search.put_in(spec)
        windows = search.held_out[: windows_at_once(1, options.context)]
        costs = cost_of_scores(real_scores(search.model, windows), stage(f"synthesise {spec.name}"))
    file = options.folder / f"{spec.method}.json"
    write_json(file, spec.to_json())
    return make_result(
        spec,
        "integer",
        holds=holds,
        loss_nats=search.losses[spec],
        perplexity=perplexity(search.losses[spec]),
        loss_change_percent=search.change_percent(spec),
        spec_file=str(file),
        steps=steps,
        **costs,
    )


def narrowest(search: Search, spec: Spec, budget_percent: float, progress: Any) -> tuple[Spec, list[dict[str, Any]]]:
    """Narrow a spec down, what saves most first, by halving the candidates that are left.

    Args:
        search: the model.
        spec: the widest.
        budget_percent: largest change of the loss.
        progress: called with the decisions made and all.

    Returns:
        the narrowest that holds the budget, or the widest where that does not; and a step for each decision: `what`,
        what was `chosen`, and what was `tried`, with the change of the loss of each.
    """
    steps: list[dict[str, Any]] = []
    if search.change_percent(spec) > budget_percent:
        tried = {spec.name: search.change_percent(spec)}
        return spec, [{"what": "widest", "chosen": _change_text(search, spec, "does not hold"), "tried": tried}]
    axes = [*spec.narrower()]
    for place, what in enumerate(axes):
        candidates = [*spec.narrower()[what], spec]
        low, high, tried = 0, len(candidates) - 1, {}
        while low < high:
            middle = (low + high) // 2
            change = search.change_percent(candidates[middle])
            tried[_difference(candidates[middle], spec)] = change
            low, high = (low, middle) if change <= budget_percent else (middle + 1, high)
        chosen = candidates[low]
        kept = _difference(chosen, spec) or "as it was"
        steps.append({"what": what, "chosen": _change_text(search, chosen, kept), "tried": tried})
        spec = chosen
        progress(place + 1, len(axes))
    return spec, steps


def _change_text(search: Search, spec: Spec, what: str) -> str:
    return f"{what} ({search.change_percent(spec):+.2f}%)"


def _difference(spec: Spec, other: Spec) -> str:
    """Return in what a spec differs from another one of its method, as "output=UQ(1,9)"."""
    names = [f.name for f in dataclasses.fields(spec) if getattr(spec, f.name) != getattr(other, f.name)]
    return ", ".join(f"{name}={getattr(spec, name)}" for name in names)
