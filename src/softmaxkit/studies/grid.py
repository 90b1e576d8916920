"""Runs a study: every point trained and measured with every seed, against the baseline trained the same way."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from softmaxkit.methods import BASELINE
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_record
from softmaxkit.studies.compare import Comparison, changes
from softmaxkit.studies.config import Point, Study
from softmaxkit.studies.options import Options, TokenWindows
from softmaxkit.studies.progress import Stage
from softmaxkit.studies.resume import Results


def run_study(
    study: Study,
    text: Path | None,
    folder: Path,
    seeds: Sequence[int] | None,
    command: Sequence[str],
    stage: Stage,
    jobs: int = 1,
) -> dict[str, Any]:
    """Train and measure all points of a study; those that are finished in the folder are not run again.

    A training that diverges is a result too: it is recorded with what happened, and the others continue.

    Args:
        study: what to run.
        text: a text file; None for the Python standard library's source.
        folder: for models and finished points.
        seeds: in place of the study's own.
        command: for the record.
        stage: shows progress; a function of a module, where there are several jobs.
        jobs: how many seeds are trained side by side, each in a process of its own.

    Returns:
        the record: a result for each point, seed and mode, with `seed`, `settings` and the changes against the baseline
        with the same seed, model and recipe, whose own results precede those of the points trained that way.

    Raises:
        ValueError: a text that cannot be used.
        Interrupted: training was stopped; the same call continues.
    """
    seeds = tuple(dict.fromkeys(seeds)) if seeds else study.seeds
    if jobs > 1 and len(seeds) > 1:
        _run_side_by_side(study, text, folder, seeds, stage, jobs)
    texts: dict[tuple[int, int], TokenWindows] = {}
    results: Results = []
    for seed in seeds:
        trainings: list[dict[str, Any]] = []
        for point in study.points:
            options = _options(study, point, text, folder, seed)
            key = (point.shape.tokens, point.recipe.context)
            if key not in texts:
                texts[key] = TokenWindows.read(options)
            comparison = Comparison(options, stage, texts[key])
            about: dict[str, Any] = {"seed": seed, "recipe": point.recipe.describe()}
            if study.model is None:
                about["shape"] = point.shape.describe()
            baseline = point_results(comparison, BASELINE)
            loss = baseline[0].get("loss_nats")
            training = {name: value for name, value in point.settings.items() if not name.startswith("spec.")}
            if training not in trainings:
                trainings.append(training)
                results += [{**result, **changes(result, loss), **about, "settings": training} for result in baseline]
            if not point.spec.is_baseline or point.settings != training:
                for result in point_results(comparison, point.spec):
                    results.append({**result, **changes(result, loss), **about, "settings": point.settings})
    first = next(iter(texts.values()))
    inputs = {
        "text": first.corpus.describe(),
        "windows": len(first.held_out),
        **({} if study.model is None else {"model": {"name": study.model}}),
        "study": study.name,
        "question": study.question,
        "seeds": list(seeds),
        "picture": study.picture,
        "finding": study.finding,
    }
    return make_record(command, seeds[0], inputs, results)


def _run_side_by_side(
    study: Study, text: Path | None, folder: Path, seeds: Sequence[int], stage: Stage, jobs: int
) -> None:
    """Finish all points of all seeds, each seed in a process of its own."""
    context = multiprocessing.get_context("spawn")  # a process that is forked cannot use the GPU of its parent
    with ProcessPoolExecutor(min(jobs, len(seeds)), mp_context=context) as pool:
        list(pool.map(partial(_run_seed, study, text, folder, stage), seeds))


def _run_seed(study: Study, text: Path | None, folder: Path, stage: Stage, seed: int) -> None:
    run_study(study, text, folder, [seed], [], lambda title: stage(f"seed {seed}: {title}"))


def point_results(comparison: Comparison, spec: Spec) -> Results:
    """Return the results of a point, or that it diverged; of their series, the training curve alone."""
    results = comparison.results(spec, keep_divergence=True)
    return [
        {**result, "series": {name: series for name, series in result.get("series", {}).items() if name == "training"}}
        for result in results
    ]


def _options(study: Study, point: Point, text: Path | None, folder: Path, seed: int) -> Options:
    return Options(
        [],
        text=text,
        model=study.model,
        shape=point.shape,
        recipe=point.recipe,
        seed=seed,
        windows=study.windows,
        folder=folder,
        verify=False,
        synthesize=False,
        speed=False,
    )
