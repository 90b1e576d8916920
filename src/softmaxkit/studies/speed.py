"""Speed of softmax and attention on this machine: the methods and torch, run in turn in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from softmaxkit.kernels.backends import backend_name
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_record
from softmaxkit.studies.contenders import (
    SPREAD,
    Contender,
    attention_contenders,
    kernel_mode,
    softmax_contenders,
)
from softmaxkit.studies.dtypes import DTYPES
from softmaxkit.studies.machine import processor
from softmaxkit.studies.progress import Progress, Stage
from softmaxkit.studies.rounds import in_turn, quartile_ratios

Times = tuple[tuple[float, ...], ...]
"""A contender's seconds in each round, writing into existing memory, and writing into new memory."""


@dataclass(frozen=True)
class SpeedOptions:
    """What to measure.

    Attributes:
        specs: the methods.
        shapes: (rows, keys) for softmax, or (heads, queries, keys, channels) for attention, followed by the number of
            key heads if these are fewer than the heads.
        threads: numbers of threads to measure with.
        rounds: number of rounds, in each of which all contenders run in turn.
        compiled: add torch's softmax and attention under torch.compile.
        seed: seed of the scores.
        dtypes: dtypes of the methods' inputs, of `Dtype`.
    """

    specs: tuple[Spec, ...]
    shapes: tuple[tuple[int, ...], ...]
    threads: tuple[int, ...]
    rounds: int
    compiled: bool
    seed: int
    dtypes: tuple[str, ...] = DTYPES


def measure_speed(options: SpeedOptions, command: Sequence[str], stage: Stage) -> dict[str, Any]:
    """Measure all shapes with all numbers of threads.

    Args:
        options: what to measure.
        command: the command line, for the record.
        stage: reports progress.

    Returns:
        The record. Its results have `shape`, `threads`, the `dtype` of the inputs (in attention, of the methods': torch
        runs in others too, as variants), and `storage` if it differs from torch's. `seconds` is the median over the
        rounds when writing into existing memory, `seconds_new_memory` when allocating. `speedup_over_torch` and
        `time_over_copy` are medians of the ratios of each round, for both; attention also has
        `speedup_over_torch_bfloat16`, and in float16 `speedup_over_torch_float16`. The error against the method in
        float64 is `error_max` for softmax and, relative to the output, `error_rms` for attention. The inputs describe
        the processor.
    """
    results = []
    for shape, dtype in product(options.shapes, options.dtypes):
        make_contenders = softmax_contenders if len(shape) == 2 else attention_contenders
        contenders = make_contenders(options.specs, shape, options.seed, options.compiled, dtype=dtype)
        for threads in options.threads:
            progress = stage(f"{'x'.join(map(str, shape))}, {dtype}, {threads} thread{'s' if threads > 1 else ''}")
            with torch_with_threads(threads), torch.no_grad():
                measured = _run_in_turn(contenders, options.rounds, progress)
            results += [{**figures, "shape": list(shape), "threads": threads, "dtype": dtype} for figures in measured]
    inputs = {"spread": SPREAD, "rounds": options.rounds, "kernels": backend_name(), "processor": processor()}
    return make_record(command, options.seed, inputs, results)


def speedups_over_torch(
    specs: Sequence[Spec], shape: tuple[int, int] = (1024, 1024), rounds: int = 25
) -> dict[Spec, dict[str, float]]:
    """Return the methods' speedups over torch.softmax with one thread.

    In every round all of them run in turn on the same scores; specs that compute the same are measured once.

    Args:
        specs: the methods; each runs in the mode in which it has a kernel.
        shape: (rows, keys) of the scores.
        rounds: number of rounds.

    Returns:
        For each spec, `speedup_over_torch`, the median of the ratios of each round, and their quartiles with the
        suffixes `_low` and `_high`; empty if no kernels are built.
    """
    if backend_name() == "torch":
        return {}
    different = distinct(specs)
    torch_and_copy = softmax_contenders((), shape)
    methods = [
        softmax_contenders((spec,), shape, modes=(kernel_mode(spec),))[len(torch_and_copy)] for spec in different
    ]
    contenders = [contender._replace(truth=None) for contender in (*torch_and_copy, *methods)]
    with torch_with_threads(1), torch.no_grad():
        _, _, *measured = _run_in_turn(contenders, rounds, lambda done, total: None)
    keys = ("speedup_over_torch", "speedup_over_torch_low", "speedup_over_torch_high")
    by_computation = {
        spec.without_calibration(): {key: figures[key] for key in keys}
        for spec, figures in zip(different, measured, strict=True)
    }
    return {spec: by_computation[spec.without_calibration()] for spec in specs}


def distinct(specs: Sequence[Spec]) -> tuple[Spec, ...]:
    """Return the specs, without those that differ from an earlier one only in settings of calibration."""
    by_computation: dict[Spec, Spec] = {}
    for spec in specs:
        by_computation.setdefault(spec.without_calibration(), spec)
    return tuple(by_computation.values())


def _run_in_turn(contenders: list[Contender], rounds: int, progress: Progress) -> list[dict[str, Any]]:
    """Run all contenders in turn, into existing and new memory, and return their figures."""
    outs = [contender.run(None) for contender in contenders]
    runs = [partial(_seconds, contender, out) for contender, out in zip(contenders, outs, strict=True)]
    times: list[Times] = [(*zip(*own, strict=True),) for own in in_turn(runs, rounds, progress)]
    copy, torch_times = times[0], times[1]
    variants = {
        contender.figures["variant"]: own[0]
        for contender, own in zip(contenders, times, strict=True)
        if contender.figures["method"] == "torch" and "variant" in contender.figures
    }
    return [
        {
            **contender.figures,
            **_ratios(own, torch_times, copy),
            **{f"speedup_over_torch_{name}": quartile_ratios(of, own[0])[1] for name, of in variants.items()},
            **_errors(contender, out),
        }
        for contender, out, own in zip(contenders, outs, times, strict=True)
    ]


def _seconds(contender: Contender, out: Tensor | None) -> tuple[float, float]:
    """Return the seconds of a call that writes into existing memory, and of one that writes into new memory."""
    seconds = []
    for target in (out, None):
        start = time.perf_counter()
        result = contender.run(target)
        seconds.append(time.perf_counter() - start)
        del result
    return seconds[0], seconds[1]


def _ratios(own: Times, torch_times: Times, copy: Times) -> dict[str, float]:
    figures: dict[str, float] = {}
    for suffix, seconds, of_torch, of_copy in zip(("", "_new_memory"), own, torch_times, copy, strict=True):
        low, middle, high = quartile_ratios(of_torch, seconds)
        figures |= {f"seconds{suffix}": statistics.median(seconds), f"speedup_over_torch{suffix}": middle}
        if not suffix:
            figures |= {"speedup_over_torch_low": low, "speedup_over_torch_high": high}
        figures[f"time_over_copy{suffix}"] = quartile_ratios(seconds, of_copy)[1]
    return figures


def _errors(contender: Contender, out: Tensor | None) -> dict[str, float]:
    """Return the error against float64; empty if the contender has no reference."""
    if contender.truth is None:
        return {}
    truth = contender.truth()
    result = contender.run(None) if out is None else out
    difference = result[tuple(map(slice, truth.shape))].double() - truth
    if truth.ndim == 2:
        return {"error_max": difference.abs().max().item()}
    figures = {"error_rms": _relative_rms(difference, truth)}
    if contender.exact is not None:
        exact = contender.exact()
        figures["difference_from_exact_rms"] = _relative_rms(truth + difference - exact, exact)
    return figures


def _relative_rms(difference: Tensor, of: Tensor) -> float:
    return (difference.square().mean() / of.square().mean()).sqrt().item()


@contextmanager
def torch_with_threads(count: int) -> Iterator[None]:
    """Set torch's number of threads, and restore it at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
