"""Verification of engines: every output against golden attention, and the cycles against the recurrence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from softmaxkit.engine.cycles import loading, times
from softmaxkit.engine.engine import Engine
from softmaxkit.engine.vectors import EngineAsUnit, Head, engine_stream, random_head
from softmaxkit.flow.amaranth_simulator import Simulated
from softmaxkit.flow.faults import Fault
from softmaxkit.flow.outcome import Outcome, Traffic
from softmaxkit.flow.simulate import Simulator, Verilated, can_verilate
from softmaxkit.flow.tools import ToolError, missing_hardware
from softmaxkit.flow.vectors import Stream, unpack
from softmaxkit.flow.verify import BATCH, FEWER, SHORT, TRAFFIC, Verification, write_waveform

if TYPE_CHECKING:
    from softmaxkit.flow.vectors import Integers, Packed

OUTPUTS = 200_000
"""Default number of outputs to compare."""

QUERIES = 48
"""Most queries per head."""

ORDERS = ("prompt", "group", "token", "growing", "any")
"""How many keys the queries attend to: 1 more each; 1 more every four; equally many; increasing; random."""


class WrongOutput(NamedTuple):
    """An output that differs from golden.

    Attributes:
        query: index within its run.
        channel: of the output.
        expected: int8 code.
        got: int8 code.
    """

    query: int
    channel: int
    expected: int
    got: int

    def __str__(self) -> str:
        return f"query {self.query}, channel {self.channel}: expected {self.expected}, got {self.got}"


def verify_engine(
    engine: Engine,
    outputs: int = OUTPUTS,
    seed: int = 0,
    fault: Fault | None = None,
    waveform: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Compare every output of an engine with golden and, in runs without gaps and stalls, its cycles with `times`.

    Heads with random codes are loaded one after another, with queries of a prompt, of heads that share keys, of single
    tokens, and in any order, under patterns of gaps, stalls and resets.

    Args:
        engine: baked or loadable.
        outputs: minimum number of outputs to compare.
        seed: of all random numbers.
        fault: to inject into the engine, as a test of the verification itself.
        waveform: file for the waveform (VCD) of the first failing run or, if none fails, of the last.
        progress: called with the number of outputs compared so far and in total.

    Raises:
        ToolError: a tool is missing or failed.
    """
    started = time.monotonic()
    fast = can_verilate()
    if not fast and (fault is not None or waveform is not None):
        raise ToolError(f"injecting a fault and writing a waveform need Verilator; {missing_hardware()}")
    driven = EngineAsUnit(engine)
    simulator: Simulator = Verilated(driven, fault, fast=outputs > SHORT) if fast else Simulated(driven)
    verification = Verification(simulator.name)
    outputs = outputs if fast else outputs // FEWER
    runs = _runs(engine, outputs, np.random.default_rng(seed), verification)
    for number, (heads, pattern) in enumerate(runs):
        undisturbed = pattern == Traffic()
        run, traffic = engine_stream(engine, heads), Traffic(**{**vars(pattern), "seed": seed + number + 1})
        outcome = simulator.run(run, traffic, cycles=undisturbed)
        verification.add(run, outcome)
        verification.wrong += [wrong for beat, words in outcome.wrong for wrong in _locate(engine, run, beat, words)]
        if undisturbed and not verification.faults:
            verification.faults += wrong_cycles(engine, heads, outcome)
        if progress:
            progress(min(verification.compared, outputs), outputs)
        if verification.faults:
            break
    if waveform is not None:
        write_waveform(driven, fault, (run, traffic), waveform)
    verification.seconds = time.monotonic() - started
    return verification


def _runs(
    engine: Engine, outputs: int, random: np.random.Generator, verification: Verification
) -> Iterator[tuple[list[Head], Traffic]]:
    """Yield heads with a traffic pattern, every pattern at least once, until enough outputs have been compared."""
    size = min(BATCH, max(outputs // len(TRAFFIC), 1))
    done = 0
    while verification.compared < outputs or done < len(TRAFFIC):
        heads: list[Head] = []
        while sum(head.queries.size for head in heads) < size or len(heads) < len(ORDERS):
            heads.append(random_head(engine, _attended(engine, ORDERS[len(heads) % len(ORDERS)], random), random))
        yield heads, TRAFFIC[done % len(TRAFFIC)]
        done += 1


def _attended(engine: Engine, order: str, random: np.random.Generator) -> Integers:
    """Return the number of keys that each query of a head attends to."""
    most = engine.sizes.max_keys
    count = int(random.integers(1, min(QUERIES, most), endpoint=True))
    offset = int(random.integers(0, most - count, endpoint=True))
    if order == "prompt":
        return offset + 1 + np.arange(count)
    if order == "group":
        return offset + 1 + np.arange(count) // 4
    if order == "token":
        return np.full(min(count, 4), offset + count)
    some: Integers = random.integers(0, most, count, endpoint=True)
    return np.sort(some) if order == "growing" else some


def expected_cycles(engine: Engine, heads: list[Head]) -> Integers:
    """Return the cycle of each output beat, without gaps and stalls, counted from the first query's first beat.

    Raises:
        ValueError: as `times`.
    """
    beats, start = [], 0
    for number, head in enumerate(heads):
        rows = times(engine, head.attended.tolist())
        start += loading(engine, len(head.keys)) if number else 0
        beats += [start + np.arange(row.first, row.last + 1) for row in rows]
        start += rows[-1].last
    return np.concatenate(beats)


def wrong_cycles(engine: Engine, heads: list[Head], outcome: Outcome) -> list[str]:
    """Return the differences between counted cycles and `expected_cycles`; none if the recurrence does not apply."""
    assert outcome.taken_at is not None
    assert outcome.given_at is not None
    try:
        expected = expected_cycles(engine, heads)
    except ValueError:
        return []
    counted = outcome.given_at.astype(np.int64) - int(outcome.taken_at[0])
    (wrong,) = np.nonzero(counted != expected)
    if not len(wrong):
        return []
    beat = int(wrong[0])
    return [f"output beat {beat} came in cycle {counted[beat]}, not {expected[beat]}; {len(wrong) - 1} more differ"]


def _locate(engine: Engine, run: Stream, beat: int, words: Packed) -> Iterator[WrongOutput]:
    """Yield the wrong outputs of a beat."""
    steps, columns = engine.sizes.steps, engine.sizes.columns
    got, expected = (unpack(packed[None], 8, columns)[0] for packed in (words, run.results[beat]))
    for column in np.nonzero(got != expected)[0]:
        pair = (int(code) - 256 * (int(code) > 127) for code in (expected[column], got[column]))
        yield WrongOutput(beat // steps, beat % steps * columns + int(column), *pair)
