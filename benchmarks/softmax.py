"""Time of each method's torch module over that of torch.softmax, and of softmax_topk over softmax then topk.

Ratios are taken side by side: in each round everything runs once, in turn, on the same scores, and the median of the
rounds' ratios is printed. Scores are those of a real attention layer in distribution: normal, with a causal mask.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from softmaxkit import ConSmax, Exact, Exaq, Softermax, Spec, softmax_topk


def medians(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median over rounds of each run's time over the first one's."""
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        seconds = {}
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name] = time.perf_counter() - start
        if turn:  # the first round warms up
            first = next(iter(seconds.values()))
            for name, value in seconds.items():
                ratios[name].append(value / first)
    return {name: statistics.median(values) for name, values in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--keys", type=int, nargs="+", default=[64, 1024])
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    specs: list[tuple[Spec, dict[str, Any]]] = [
        (Exact(), {}),
        (ConSmax(), {}),
        (Softermax(), {}),
        (Exaq(bits=2), {"clip": -5.0}),
        (Exaq(bits=3), {"clip": -6.0}),
    ]
    for keys in arguments.keys:
        queries = 2**20 // keys // keys or 1
        scores = torch.randn(queries, 1, keys, keys, generator=generator) * 3
        mask = torch.ones(keys, keys, dtype=torch.bool).tril()
        filled = scores.masked_fill(~mask, -torch.inf)
        runs: dict[str, Callable[[], object]] = {"torch.softmax": partial(torch.softmax, filled, -1)}
        for spec, numbers in specs:
            for mode in ("float", "integer"):
                module = spec.module(mode=mode, **numbers)
                name = f"{spec.method} {spec.variant} {mode}".replace("  ", " ")
                runs[name] = partial(module, scores, mask)
        with torch.no_grad():
            ratios = medians(runs, arguments.rounds)
        print(f"\nrows of {keys} keys, time over torch.softmax")
        for name, ratio in ratios.items():
            print(f"  {name:28} {ratio:8.2f}")
    logits = torch.randn(8, 128_000, generator=generator) * 3
    ratios = medians(
        {
            "torch.softmax, torch.topk": lambda: torch.softmax(logits, -1).topk(50),
            "softmax_topk": lambda: softmax_topk(logits, 50),
        },
        arguments.rounds,
    )
    print("\ntop 50 of 128,000 logits, time over torch.softmax then torch.topk")
    for name, ratio in ratios.items():
        print(f"  {name:28} {ratio:8.2f}")


if __name__ == "__main__":
    main()
