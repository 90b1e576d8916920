"""Running a study: every point trained and measured with every seed, against exact softmax of the same training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softmaxkit.files import write_json
from softmaxkit.methods import BASELINE
from softmaxkit.models.evaluation import perplexity
from softmaxkit.record import make_record, make_result
from softmaxkit.methods.base.spec import Spec
from softmaxkit.studies.compare import Comparison, Options, Stage
from softmaxkit.studies.config import Study


def run_study(
    study: Study, text: Path | None, folder: Path, seeds: Sequence[int] | None, command: list[str], stage: Stage
) -> dict[str, Any]:
    """Train and measure all points of a study; those that are finished in the folder are not run again.

    A training that diverges is a result too: it is recorded with what happened, and the others go on.

    Args:
        study: it.
        text: a text file; None for the Python standard library's source.
        folder: for models and finished points.
        seeds: in place of the study's own.
        command: for the record.
        stage: of the progress.

    Returns:
        the record: a result for each point, seed and mode, with `seed`, `settings` and the changes against exact
        softmax with the same seed, model and recipe, whose own results stand before those of each such training.

    Raises:
        ValueError: a text that cannot be used.
        Interrupted: training was stopped; the same call goes on.
    """
    results: list[dict[str, Any]] = []
    inputs: dict[str, Any] = {}
    chosen = tuple(dict.fromkeys(seeds)) if seeds else study.seeds
    for seed in chosen:
        told: list[dict[str, Any]] = []
        for point in study.points:
            options = Options(
                [],
                text=text,
                shape=point.shape,
                recipe=point.recipe,
                seed=seed,
                windows=study.windows,
                folder=folder,
                verify=False,
                synthesize=False,
                speed=False,
            )
            comparison = Comparison(options, stage)
            inputs = inputs or {"text": comparison.corpus.describe(), "windows": len(comparison.held_out)}
            about = {"seed": seed, "shape": point.shape.describe(), "recipe": point.recipe.describe()}
            exact = results_of(comparison, BASELINE)
            baseline = exact[0].get("loss_nats")
            own = {key: value for key, value in point.settings.items() if not key.startswith("spec.")}
            if own not in told:
                told.append(own)
                results += [{**each, **_changes(each, baseline), **about, "settings": own} for each in exact]
            if not point.spec.is_baseline or point.settings != own:
                for each in results_of(comparison, point.spec):
                    results.append({**each, **_changes(each, baseline), **about, "settings": point.settings})
    inputs |= {"study": study.name, "question": study.question, "seeds": list(chosen), "picture": study.picture}
    inputs |= {"finding": study.finding}
    return make_record(command, chosen[0], inputs, results)


def results_of(comparison: Comparison, spec: Spec) -> list[dict[str, Any]]:
    """Return a point's results, or that it diverged; either is kept. Of their series the training curve is enough."""
    try:
        found = [{"series": {}, **each} for each in comparison.results(spec)]
        return [{**each, "series": {k: v for k, v in each["series"].items() if k == "training"}} for each in found]
    except FloatingPointError as error:
        results = [make_result(spec, mode, diverged=str(error)) for mode in ("float", "integer")]
        write_json(comparison.finished(spec), results)
        return results


def _changes(result: dict[str, Any], baseline: float | None) -> dict[str, Any]:
    if baseline is None or "loss_nats" not in result:
        return {}
    change = result["loss_nats"] - baseline
    return {
        "loss_change_percent": 100 * change / baseline,
        "perplexity_change_percent": 100 * (perplexity(change) - 1),
    }
