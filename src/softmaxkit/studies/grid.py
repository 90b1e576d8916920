"""Run a study: train and measure every point with every seed, against the baseline trained in the same way."""

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
    """Train and measure all points of a study; points that are finished in the folder are not run again.

    A training that diverges is recorded as a result, with the reason, and the others continue.

    Args:
        study: the study.
        text: a text file; None for the Python standard library's source.
        folder: folder for models and finished points.
        seeds: replace the study's own seeds.
        command: the command line, for the record.
        stage: reports progress; with several jobs it must be picklable, such as a function of a module.
        jobs: number of seeds to train in parallel, each in its own process.

    Returns:
        The record: a result for each point, seed and mode, with `seed`, `settings` and the changes against the baseline
        with the same seed, model and recipe. The results of each baseline precede those of its points.

    Raises:
        ValueError: the text cannot be used.
        Interrupted: training was stopped; the same call resumes it.
    """
    seeds = tuple(dict.fromkeys(seeds)) if seeds else study.seeds
    texts: dict[tuple[int, int], TokenWindows] = {}
    for point in study.points:  # all of them before any training, as a text may be too short for a later point
        if _key(point) not in texts:
            texts[_key(point)] = TokenWindows.read(_options(study, point, text, folder, seeds[0]))
    if jobs > 1 and len(seeds) > 1:
        _run_in_parallel(study, text, folder, seeds, stage, jobs)
    results: Results = []
    for seed in seeds:
        trainings: list[dict[str, Any]] = []
        for point in study.points:
            comparison = Comparison(_options(study, point, text, folder, seed), stage, texts[_key(point)])
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


def _run_in_parallel(
    study: Study, text: Path | None, folder: Path, seeds: Sequence[int], stage: Stage, jobs: int
) -> None:
    """Finish all points of all seeds, each seed in its own process."""
    context = multiprocessing.get_context("spawn")  # a forked process cannot use the GPU of its parent
    with ProcessPoolExecutor(min(jobs, len(seeds)), mp_context=context) as pool:
        list(pool.map(partial(_run_seed, study, text, folder, stage), seeds))


def _run_seed(study: Study, text: Path | None, folder: Path, stage: Stage, seed: int) -> None:
    run_study(study, text, folder, [seed], [], lambda title: stage(f"seed {seed}: {title}"))


def point_results(comparison: Comparison, spec: Spec) -> Results:
    """Return the results of a point, diverged or not; of their series, only the training curve is kept."""
    results = comparison.results(spec, keep_divergence=True)
    return [
        {**result, "series": {name: series for name, series in result.get("series", {}).items() if name == "training"}}
        for result in results
    ]


def _key(point: Point) -> tuple[int, int]:
    """Return what decides which tokens a point reads: the size of the vocabulary, and the tokens per window."""
    return point.shape.tokens, point.recipe.context


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
