"""Speed on a GPU: contenders run in turn, compared with the card's own measured ceilings."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from softmaxkit.kernels.cards import is_interpreted
from softmaxkit.methods.base.spec import Spec
from softmaxkit.models.errors import first_line
from softmaxkit.record import make_record
from softmaxkit.studies.card_contenders import CardContender, attention_contenders, row_contenders
from softmaxkit.studies.card_decoding import decode_contenders
from softmaxkit.studies.contenders import SPREAD
from softmaxkit.studies.progress import Progress, Stage
from softmaxkit.studies.rounds import in_turn, quartile_ratios, quartiles

CACHE_BYTES = 1 << 28
"""More than any card's L2 cache holds; written before every run, which therefore starts with a cold cache."""
LEAD = 16
"""Number of such writes before a run: a millisecond or so, in which all kernels of the run are queued."""
COPY_BYTES = 1 << 30
MATRIX = 8192
"""Rows and columns of the matrices whose product measures the ceiling of operations."""
INTERPRETED_SHARE = 1 << 12
"""Divisor of the ceilings' sizes in the interpreter, where the only question is whether everything runs."""


@dataclass(frozen=True)
class CardOptions:
    """What to measure.

    Attributes:
        specs: the methods.
        shapes: (rows, keys) for softmax, or (heads, queries, keys, channels) for attention; one query means decoding,
            where the number of key heads may follow.
        dtype: dtype of scores, queries, keys and values.
        rounds: number of times that all contenders run, in turn.
        seed: seed of the inputs.
    """

    specs: tuple[Spec, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype = torch.bfloat16
    rounds: int = 9
    seed: int = 0


def measure_card(options: CardOptions, command: Sequence[str], stage: Stage) -> dict[str, Any]:
    """Measure all shapes on the card at hand, or in Triton's interpreter, whose times mean nothing.

    Args:
        options: what to measure.
        command: command line, for the record.
        stage: reports progress.

    Returns:
        A record. Its inputs have the card and its ceilings: `copy_gb_per_s`, reads plus writes, and `matmul_tflops`, in
        bfloat16. Its results have `kind`, `shape`, `method`, `backend`; `seconds`, the median of the rounds, with its
        quartiles, all in time on the card; `speedup_over_torch`, the median of each round's ratio to the fastest of
        torch's implementations; `call_seconds`, the time of the call on the CPU; `tflops` and `share_of_matmul`, or
        `gb_per_s` and `share_of_copy`; and `error_rms` against the method in float64, relative to its result. A
        contender that does not run has `failure`, the error message, instead.

    Raises:
        RuntimeError: there is no CUDA device, and Triton is not interpreted.
    """
    device = card()
    clock = CardClock(device)
    copy_rate, product_rate = ceilings(device, clock, options.rounds)
    results: list[dict[str, Any]] = []
    for title, shape, make in _suites(options, device):
        contenders = list(make())
        progress = stage(title)
        results += [{**figures, "shape": list(shape)} for figures in _measure(contenders, options, clock, progress)]
        del contenders
        if device.type == "cuda":
            torch.cuda.empty_cache()
    for result in results:
        if "seconds" in result:
            _rates(result, copy_rate, product_rate)
    about = {
        "card": card_name(device),
        "spread": SPREAD,
        "rounds": options.rounds,
        "copy_gb_per_s": copy_rate / 1e9,
        "matmul_tflops": product_rate / 1e12,
        "cuda": torch.version.cuda,
    }
    return make_record(command, options.seed, about, results)


def card() -> torch.device:
    """Return the device to measure.

    Raises:
        RuntimeError: there is no CUDA device, and Triton is not interpreted.
    """
    if is_interpreted():
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(
            "there is no CUDA device here (torch.cuda.is_available() is False); measure the CPU with --device cpu, or "
            "try the command in Triton's interpreter, on small shapes, with TRITON_INTERPRET=1 in the environment"
        )
    return torch.device("cuda")


def card_name(device: torch.device) -> str:
    """Return the name that a card reports."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "Triton's interpreter"


class CardClock:
    """Times runs with CUDA events after flushing the L2 cache, or with the wall clock where there is no card."""

    def __init__(self, device: torch.device) -> None:
        self._on_card = device.type == "cuda"
        self._cache = torch.empty(CACHE_BYTES, dtype=torch.uint8, device=device) if self._on_card else None

    def seconds(self, run: Callable[[], Tensor]) -> tuple[float, float]:
        """Run once and return the seconds on the card, and the seconds that the call took."""
        if self._cache is None:
            start = time.perf_counter()
            run()
            return (time.perf_counter() - start,) * 2
        for _ in range(LEAD):
            self._cache.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        start = time.perf_counter()
        run()
        called = time.perf_counter() - start
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3, called


def ceilings(device: torch.device, clock: CardClock, rounds: int) -> tuple[float, float]:
    """Return bytes per second of a copy, reads plus writes, and operations per second of a bfloat16 product."""
    share = 1 if device.type == "cuda" else INTERPRETED_SHARE
    source = torch.zeros(COPY_BYTES // share, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rows = MATRIX // min(share, 64)
    left, right = (torch.randn(rows, rows, device=device, dtype=torch.bfloat16) for _ in range(2))
    copy = _median(clock, lambda: target.copy_(source), rounds)
    product = _median(clock, lambda: left @ right, rounds)
    return 2 * source.nbytes / copy, 2.0 * rows**3 / product


def _median(clock: CardClock, run: Callable[[], Tensor], rounds: int) -> float:
    seconds = [clock.seconds(run)[0] for _ in range(rounds + 2)]
    return statistics.median(seconds[2:])


Suite = tuple[str, tuple[int, ...], Callable[[], Iterator[CardContender]]]


def _suites(options: CardOptions, device: torch.device) -> Iterator[Suite]:
    """Yield a title, a shape and a function that yields its contenders."""
    specs, dtype, seed = options.specs, options.dtype, options.seed
    for shape in options.shapes:
        title = "x".join(map(str, shape))
        if len(shape) == 2:
            yield title, shape, partial(row_contenders, specs, shape, dtype, device, seed)
        elif shape[1] == 1:
            yield title, shape, partial(decode_contenders, specs, shape, dtype, device, seed)
        else:
            for causal in (False, True) if shape[1] == shape[2] else (False,):
                run = partial(attention_contenders, specs, shape, causal, dtype, device, seed)
                yield f"{title}{' causal' if causal else ''}", shape, run


def _measure(
    contenders: list[CardContender], options: CardOptions, clock: CardClock, progress: Progress
) -> list[dict[str, Any]]:
    """Run all contenders in turn and return their figures, with `failure` for those that do not run."""
    results: list[dict[str, Any]] = []
    running: list[tuple[CardContender, dict[str, Any]]] = []
    for contender in contenders:
        figures = {**contender.figures, "flops": contender.flops, "bytes": contender.bytes}
        results.append(figures)
        try:
            figures |= _error(contender, contender.run())  # compiles, too
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            figures["failure"] = first_line(error)
        else:
            running.append((contender, figures))
    times = in_turn([partial(clock.seconds, contender.run) for contender, _ in running], options.rounds, progress)
    every = [(figures, seconds) for (_, figures), seconds in zip(running, times, strict=True)]
    for figures, seconds in every:
        low, middle, high = quartiles([on_card for on_card, _ in seconds])
        called = statistics.median(to_call for _, to_call in seconds)
        figures |= {"seconds": middle, "seconds_low": low, "seconds_high": high, "call_seconds": called}
    for figures, seconds in every:
        torchs = [x for x in every if x[0]["method"] == "torch" and x[0].get("pass") == figures.get("pass")]
        if torchs:
            _, fastest = min(torchs, key=lambda x: float(x[0]["seconds"]))
            of_torch, own = ([on_card for on_card, _ in rounds] for rounds in (fastest, seconds))
            figures["speedup_over_torch"] = quartile_ratios(of_torch, own)[1]
    return results


def _error(contender: CardContender, result: Tensor) -> dict[str, float]:
    if contender.truth is None:
        return {}
    truth = contender.truth()
    part = result[tuple(map(slice, truth.shape))].double()
    return {"error_rms": ((part - truth).square().mean() / truth.square().mean()).sqrt().item()}


def _rates(result: dict[str, Any], copy_rate: float, product_rate: float) -> None:
    """Add the rate that a run reached, and its share of the card's ceiling."""
    if result["flops"]:
        rate = result["flops"] / result["seconds"]
        result |= {"tflops": rate / 1e12, "share_of_matmul": rate / product_rate}
    else:
        rate = result["bytes"] / result["seconds"]
        result |= {"gb_per_s": rate / 1e9, "share_of_copy": rate / copy_rate}
