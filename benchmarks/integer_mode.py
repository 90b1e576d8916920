"""Evaluation time of a small GPT with each method in integer mode, relative to eager attention in float.

In each round every model in turn evaluates the same windows once. Prints the medians of the ratios, for native kernels
and for the golden model. The GPT is untrained and has the default shape.
"""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import softmaxkit
from benchmark import Results, count, machine, machine_line, options, run, timed
from softmaxkit import ConSmax, Exact, Exaq, Softermax, Spec
from softmaxkit.cli.console import name_of
from softmaxkit.kernels import backends, builds
from softmaxkit.models.evaluation import loss_on
from softmaxkit.models.language_model import language_model
from softmaxkit.models.patch import layers
from softmaxkit.recipe import Shape
from softmaxkit.record import make_result

CASES: list[tuple[Spec, dict[str, Any]]] = [
    (Exact(), {}),
    (Exact(schedule="online"), {}),
    (ConSmax(), {"scale": 0.07}),
    (Softermax(), {}),
    (Softermax(log2e=True), {}),
    (Exaq(bits=2), {"clip": -5.0}),
    (Exaq(bits=3), {"clip": -6.0}),
    (Exaq(bits=4), {"clip": -7.0}),
]


@contextmanager
def without_kernels() -> Iterator[None]:
    """Run integer mode through the golden model; then restore the environment."""
    before = os.environ.get(builds.VARIABLE, "")
    try:
        os.environ[builds.VARIABLE] = "none"
        backends.reset()
        yield
    finally:
        os.environ[builds.VARIABLE] = before
        backends.reset()


def model_with(spec: Spec, calibration: dict[str, Any], context: int) -> PreTrainedModel:
    """Return the GPT with one method in integer mode."""
    model = language_model(Shape(), context, seed=0)
    softmaxkit.apply(model, spec)
    for module in layers(model).values():
        module.set_calibration(calibration)
    softmaxkit.set_mode(model, "integer")
    return model


def seconds(model: PreTrainedModel, windows: Tensor) -> float:
    """Return the duration of one evaluation, in seconds."""
    start = time.perf_counter()
    loss_on(model, windows)
    return time.perf_counter() - start


def golden_seconds(model: PreTrainedModel, windows: Tensor) -> float:
    """Return `seconds` through the golden model."""
    with without_kernels():
        return seconds(model, windows)


def measure(arguments: Namespace) -> tuple[dict[str, Any], Results]:
    """Time eager attention, and every method through kernels and through golden, in every round."""
    windows = torch.randint(
        0, 256, (arguments.windows, arguments.context + 1), generator=torch.Generator().manual_seed(0)
    )
    eager = language_model(Shape(), arguments.context, seed=0)
    eager.set_attn_implementation("eager")
    results: Results = [{"method": "torch", "variant": "eager", "mode": "float"}]
    runs: dict[str, Callable[[], float]] = {"eager": partial(seconds, eager, windows)}
    for spec, calibration in CASES:
        model = model_with(spec, calibration, arguments.context)
        for backend, timer in (("native", seconds), ("golden", golden_seconds)):
            results.append(make_result(spec, "integer", backend=backend))
            runs[f"{spec.name}, {backend}"] = partial(timer, model, windows)
    figures = timed(runs, arguments, "evaluate")
    inputs = {"windows": arguments.windows, "context": arguments.context} | machine(arguments)
    return inputs, [result | own for result, own in zip(results, figures.values(), strict=True)]


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table."""
    yield machine_line(record)
    yield "evaluation time in integer mode over eager float attention: native kernels, golden"
    _, *results = record["results"]
    for native, golden in zip(results[::2], results[1::2], strict=True):
        yield f"  {name_of(native):28} {native['time_over_eager']:8.2f} {golden['time_over_eager']:8.2f}"


def main() -> None:
    """Print the table, and write the record."""
    parser = options(__doc__, rounds=5)
    parser.add_argument(
        "--windows", type=count, default=32, help="windows of random tokens that each model evaluates (default: 32)"
    )
    parser.add_argument("--context", type=count, default=64, help="tokens in a window (default: 64)")
    run(parser, measure, lines)


if __name__ == "__main__":
    main()
