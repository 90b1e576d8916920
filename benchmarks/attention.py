"""Time of torch's attention over that of softmaxkit's, and how far its output is from float64.

Ratios are taken side by side: in each round everything runs once, in turn, on the same tensors, and the median of the
rounds' ratios is printed. Queries, keys and values are normal, with a mean for each channel of keys and values, as real
ones have; scores have a standard deviation of 2. Errors are root mean squares over that of the output: against the
method in float64, and beside it what the method itself changes against exact softmax. Set OMP_NUM_THREADS=1 for one
core.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from softmaxkit import ConSmax, Exact, Exaq, Spec, attention
from softmaxkit.cache import KeyValueCache

HEADS, WIDTH = 12, 64


def tensors(queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=generator)
    query, key = normal(1, HEADS, queries, WIDTH), normal(1, HEADS, keys, WIDTH)
    value = normal(1, HEADS, keys, WIDTH) + normal(1, HEADS, 1, WIDTH) / 2
    return 2 * query, key + normal(1, HEADS, 1, WIDTH), value


def relative(found: Tensor, truth: Tensor) -> float:
    return ((found - truth).square().mean() / truth.square().mean()).sqrt().item()


def compare(
    runs: dict[str, tuple[Spec, dict[str, Any], Callable[[], Tensor]]], given: list[Tensor], rounds: int
) -> None:
    """Print, for each run, the median time of the first run over its own, and its errors."""
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    found = {}
    for turn in range(rounds + 1):
        seconds = {}
        for name, (_, _, run) in runs.items():
            start = time.perf_counter()
            found[name] = run()
            seconds[name] = time.perf_counter() - start
        if turn:  # the first round warms up
            for name, time_taken in seconds.items():
                ratios[name].append(next(iter(seconds.values())) / time_taken)
    query, key, value = (x[:, :2].double() for x in given)  # two heads are enough
    exact = attention(query, key, value, Exact())
    for name, (spec, numbers, _) in runs.items():
        truth = attention(query, key, value, spec, **numbers)
        change = "" if isinstance(spec, ConSmax) else f", the method's own {relative(truth, exact):.4f}"
        error = relative(found[name][:, :2].double(), truth)
        print(f"  {name:28} {statistics.median(ratios[name]):6.2f} times as fast, error {error:.1e}{change}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--cache", type=int, default=32768)
    arguments = parser.parse_args()
    exact, exaq, wide, consmax = Exact(), Exaq(bits=2), Exaq(bits=3), ConSmax()
    for queries, keys in [*((tokens, tokens) for tokens in arguments.tokens), (1, arguments.cache)]:
        given = query, key, value = tensors(queries, keys)
        offset = math.log(keys) + 2.0  # rows sum to about 1
        choices: list[tuple[str, Spec, dict[str, Any]]] = [
            ("EXAQ 2 bits, clip -5", exaq, {"clip": -5.0}),
            ("EXAQ 3 bits, clip -6", wide, {"clip": -6.0}),
            ("ConSmax", consmax, {"beta": offset, "gamma": 1.0}),
        ]
        run = partial(scaled_dot_product_attention, query, key, value)
        runs: dict[str, tuple[Spec, dict[str, Any], Callable[[], Tensor]]] = {"torch, float32": (exact, {}, run)}
        for name, spec, numbers in choices:
            runs[name] = (spec, numbers, partial(attention, query, key, value, spec, **numbers))
        if queries == 1:
            cache = KeyValueCache(key, value)
            for name, spec, numbers in choices:
                runs[f"{name}, 8-bit cache"] = (spec, numbers, partial(cache.attention, query, spec, **numbers))
        print(f"\n{HEADS} heads, {queries} queries, {keys} keys, {WIDTH} wide")
        with torch.no_grad():
            compare(runs, list(given), arguments.rounds)


if __name__ == "__main__":
    main()
