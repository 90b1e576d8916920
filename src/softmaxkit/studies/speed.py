"""Speed of softmax and attention on this machine: the methods beside torch, in one process, run in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from softmaxkit.attention.cache import KeyValueCache
from softmaxkit.attention.call import attention
from softmaxkit.kernels import packed, rows
from softmaxkit.kernels.backends import backend_name
from softmaxkit.methods import BASELINE
from softmaxkit.methods.base.module import SoftmaxModule
from softmaxkit.record import make_record, make_result
from softmaxkit.methods.base.spec import Spec

Progress = Callable[[int, int], None]

SPREAD = 2.0
"""Standard deviation of the scores, as in trained attention layers."""

CHECKED = 1 << 19
"""Scores of which the error against float64 is taken, at most."""


@dataclass(frozen=True)
class SpeedOptions:
    """What to measure.

    Attributes:
        specs: the methods.
        shapes: (rows, keys) of a softmax, or (heads, queries, keys, channels) of an attention.
        threads: how many, each.
        rounds: in each, everything runs once, in turn.
        compiled: torch.softmax by torch.compile too.
        seed: of the scores.
    """

    specs: tuple[Spec, ...]
    shapes: tuple[tuple[int, ...], ...]
    threads: tuple[int, ...]
    rounds: int
    compiled: bool
    seed: int


class Contender(NamedTuple):
    """What runs: `run(out)` writes into `out`, or returns new memory where that is None."""

    figures: dict[str, Any]
    run: Callable[[Tensor | None], Tensor]
    truth: Callable[[], Tensor] | None = None
    """The result in float64, of as many first rows or heads as it has."""


def measure_speed(options: SpeedOptions, command: Sequence[str], stage: Callable[[str], Progress]) -> dict[str, Any]:
    """Measure all shapes with all numbers of threads.

    Returns:
        A record. Its results have `shape` and `threads`, and `storage` where it is not that of torch; medians over the
        rounds, `seconds` where the result goes to memory that is there, and `seconds_new_memory`; medians of the
        rounds' ratios, `speedup_over_torch` and `time_over_copy`, of each; and against the method in float64
        `error_max`, of a softmax, or `error_rms`, of an attention as a share of its output.
    """
    results = []
    for shape in options.shapes:
        contenders = _softmax(options, shape) if len(shape) == 2 else _attention(options, shape)
        for threads in options.threads:
            progress = stage(f"{'x'.join(map(str, shape))}, {threads} thread{'s' if threads > 1 else ''}")
            with _threads(threads), torch.no_grad():
                found = _in_turn(contenders, options.rounds, progress)
            results += [{**figures, "shape": list(shape), "threads": threads} for figures in found]
    inputs = {
        "spread": SPREAD,
        "rounds": options.rounds,
        "kernels": backend_name(),
    }
    return make_record(command, options.seed, inputs, results)


def kernel_mode(spec: Spec) -> str:
    """Return the mode in which a method has a kernel to be fast with: float, or integer where float has none."""
    return "float" if _module(spec, 1, "float").choose(torch.zeros(1, 1))[1].native else "integer"


def speedup_over_torch(spec: Spec, shape: tuple[int, int] = (1024, 1024), rounds: int = 9) -> float | None:
    """Return how much faster than torch.softmax a method's softmax is, one thread; None where no kernels are built."""
    if backend_name() == "torch":
        return None
    options = SpeedOptions((spec,), (shape,), (1,), rounds, False, 0)
    contenders = _softmax(options, shape, (kernel_mode(spec),))
    with _threads(1), torch.no_grad():
        _, _, figures, *_ = _in_turn(
            [each._replace(truth=None) for each in contenders], rounds, lambda done, total: None
        )
    found: float = figures["speedup_over_torch"]
    return found


def _softmax(
    options: SpeedOptions, shape: tuple[int, ...], modes: Sequence[str] = ("float", "integer")
) -> list[Contender]:
    generator = torch.Generator().manual_seed(options.seed)
    # Rows differ in their level, as queries do.
    scores = torch.randn(shape, generator=generator) * SPREAD + torch.randn(shape[0], 1, generator=generator) * SPREAD
    some = scores[: max(1, CHECKED // shape[1])].double()

    def exact() -> Tensor:
        return some.softmax(-1)

    found = [
        Contender({"method": "copy"}, lambda out: scores.clone() if out is None else out.copy_(scores)),
        Contender({"method": "torch"}, lambda out: torch.softmax(scores, -1, out=out), exact),
    ]
    if options.compiled:
        compiled = torch.compile(lambda given: torch.softmax(given, -1))
        found.append(Contender({"method": "torch, compiled"}, lambda out: compiled(scores), exact))
    for spec in options.specs:
        for mode in modes:
            module = _module(spec, shape[1], mode, float(scores.abs().max()))
            call, choice = module.choose(scores)
            figures, truth = make_result(spec, mode), partial(_reference, spec, some)
            if mode != "float" or call is None or not choice.native:
                found.append(Contender(figures, partial(_new, module, scores), truth))
                continue
            kernel = getattr(rows, call.kernel)
            found.append(Contender(figures, partial(_into, kernel, scores, call.arguments), truth))
            if call.kernel == "levels":
                packing = partial(_packed, scores, call.arguments)
                found.append(Contender({**figures, "storage": "packed codes"}, packing))
    return found


def _module(spec: Spec, keys: int, mode: str, largest: float = 8.0) -> SoftmaxModule:
    numbers = spec.sample_parameters(keys, SPREAD)
    if numbers and mode == "integer":
        numbers["scale"] = largest / spec.score_range()[1]  # no code saturates
    return spec.module(mode=mode, **numbers).eval()


def _into(kernel: Callable[..., Tensor], scores: Tensor, arguments: tuple[Any, ...], out: Tensor | None) -> Tensor:
    return kernel(scores, *arguments, out=out)


def _new(module: SoftmaxModule, scores: Tensor, out: Tensor | None) -> Tensor:
    found: Tensor = module(scores)
    return found


def _packed(scores: Tensor, arguments: tuple[Any, ...], out: Tensor | None) -> Tensor:
    return packed.levels(scores, *arguments).codes


def _reference(spec: Spec, scores: Tensor) -> Tensor:
    return torch.from_numpy(spec.reference(scores.numpy(), **spec.sample_parameters(scores.shape[1], SPREAD)))


def _attention(options: SpeedOptions, shape: tuple[int, ...]) -> list[Contender]:
    heads, queries, keys, channels = shape
    generator = torch.Generator().manual_seed(options.seed)
    normal = partial(torch.randn, generator=generator)
    # Keys and values have a mean for each channel, as real ones have.
    query, key = SPREAD * normal(1, heads, queries, channels), normal(1, heads, keys, channels)
    key, value = (
        key + normal(1, heads, 1, channels),
        normal(1, heads, keys, channels) + normal(1, heads, 1, channels) / 2,
    )
    some_query, some_key, some_value = (each[:, :1].double() for each in (query, key, value))

    def contender(figures: dict[str, Any], run: Callable[[], Tensor], spec: Spec) -> Contender:
        truth = partial(attention, some_query, some_key, some_value, spec, **spec.sample_parameters(keys, SPREAD))
        return Contender(figures, lambda out: run(), truth)

    found = [
        Contender({"method": "copy"}, lambda out: (key.clone(), value.clone())[1]),
        contender({"method": "torch"}, partial(scaled_dot_product_attention, query, key, value), BASELINE),
    ]
    cache = KeyValueCache(key, value) if queries == 1 and backend_name() != "torch" else None
    for spec in options.specs:
        if kernel_mode(spec) != "float":
            continue  # in integers it runs through torch
        numbers = spec.sample_parameters(keys, SPREAD)
        found.append(
            contender(make_result(spec, "float"), partial(attention, query, key, value, spec, **numbers), spec)
        )
        if cache is not None and not spec.is_baseline:
            figures = {**make_result(spec, "float"), "storage": "8-bit cache"}
            found.append(contender(figures, partial(cache.attention, query, spec, **numbers), spec))
    return found


def unlike(specs: Sequence[Spec]) -> tuple[Spec, ...]:
    """Return specs without those that compute the same as an earlier one: real numbers are given here."""
    different: dict[Spec, Spec] = {}
    for spec in specs:
        different.setdefault(spec.without_calibration(), spec)
    return tuple(different.values())


def _in_turn(contenders: list[Contender], rounds: int, progress: Progress) -> list[dict[str, Any]]:
    """Run all in turn, with and without new memory, and return their figures; the first round warms up."""
    outs = [contender.run(None) for contender in contenders]
    seconds: list[tuple[list[float], list[float]]] = [([], []) for _ in contenders]
    for turn in range(rounds + 1):
        for contender, out, (there, new) in zip(contenders, outs, seconds, strict=True):
            for kept, given in ((there, out), (new, None)):
                start = time.perf_counter()
                made = contender.run(given)
                kept.append(time.perf_counter() - start)
                del made
        progress(turn, rounds)
    copy, torch_s = seconds[0], seconds[1]
    found = []
    for contender, out, taken in zip(contenders, outs, seconds, strict=True):
        figures: dict[str, Any] = dict(contender.figures)
        for name, own, other, floor in zip(("", "_new_memory"), taken, torch_s, copy, strict=True):
            figures["seconds" + name] = statistics.median(own[1:])
            figures["speedup_over_torch" + name] = _median_ratio(other, own)
            figures["time_over_copy" + name] = _median_ratio(own, floor)
        if contender.truth is not None:
            truth = contender.truth()
            difference = (contender.run(None) if out is None else out)[tuple(map(slice, truth.shape))].double() - truth
            if truth.ndim == 2:
                figures["error_max"] = difference.abs().max().item()
            else:
                figures["error_rms"] = (difference.square().mean() / truth.square().mean()).sqrt().item()
        found.append(figures)
    return found


def _median_ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one[1:], other[1:], strict=True))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
