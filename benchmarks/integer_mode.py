"""Evaluation time of a small GPT with each method in integer mode, relative to eager attention in float.

In each round every model in turn evaluates the same windows once. Prints the medians of the ratios, for native kernels
and for the golden model. The GPT is untrained and has the default shape.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import torch
from transformers import PreTrainedModel

import softmaxkit
from softmaxkit import ConSmax, Exact, Exaq, Softermax, Spec
from softmaxkit.kernels import backends, builds
from softmaxkit.models.evaluation import loss_on
from softmaxkit.models.language_model import language_model
from softmaxkit.models.patch import layers
from softmaxkit.recipe import Shape

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


def use_kernels(native: bool) -> None:
    """Select native kernels or the golden model for integer mode."""
    os.environ[builds.VARIABLE] = "" if native else "none"
    backends.reset()


def model_with(spec: Spec, calibration: dict[str, Any], context: int) -> PreTrainedModel:
    """Return the GPT with one method in integer mode."""
    model = language_model(Shape(), context, seed=0)
    softmaxkit.apply(model, spec)
    for module in layers(model).values():
        module.set_calibration(calibration)
    softmaxkit.set_mode(model, "integer")
    return model


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, after one that warms up")
    parser.add_argument("--windows", type=int, default=32, help="windows of random tokens that each model evaluates")
    parser.add_argument("--context", type=int, default=64, help="tokens in a window")
    arguments = parser.parse_args()
    windows = torch.randint(0, 256, (arguments.windows, arguments.context + 1))
    eager = language_model(Shape(), arguments.context, seed=0)
    eager.set_attn_implementation("eager")
    models = {
        f"{spec.method} {spec.variant}": model_with(spec, calibration, arguments.context) for spec, calibration in CASES
    }
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for turn in range(arguments.rounds + 1):
        first = seconds(eager, windows)
        for name, model in models.items():
            use_kernels(True)
            native = seconds(model, windows)
            use_kernels(False)
            golden = seconds(model, windows)
            if turn:  # the first round warms up
                ratios[name].append((native / first, golden / first))
    print("evaluation time in integer mode over eager float attention: native kernels, golden")
    for name, rounds in ratios.items():
        native, golden = (statistics.median(ratio) for ratio in zip(*rounds, strict=True))
        print(f"  {name:28} {native:8.2f} {golden:8.2f}")


def seconds(model: PreTrainedModel, windows: torch.Tensor) -> float:
    """Return the duration of one evaluation, in seconds."""
    start = time.perf_counter()
    loss_on(model, windows)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
