"""Verification: every output of a unit is compared with golden, in Verilator, on all kinds of rows and traffic."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from softmaxkit.blocks.parts import Part, Streamed
from softmaxkit.flow.amaranth_simulator import Simulated
from softmaxkit.flow.faults import Fault
from softmaxkit.flow.outcome import Outcome, Traffic
from softmaxkit.flow.rows import all_codes, random_rows
from softmaxkit.flow.simulate import Simulator, Verilated, can_verilate
from softmaxkit.flow.tools import ToolError, missing_hardware
from softmaxkit.flow.vectors import Segments, Stream, pack, places, stream, unpack
from softmaxkit.methods.base.spec import check_unit

if TYPE_CHECKING:
    from softmaxkit.methods.base.constants import Constants, Sets
    from softmaxkit.methods.base.unit import SoftmaxUnit

OUTPUTS = 2_000_000
"""Default number of outputs to compare."""

FEWER = 50
"""Factor by which fewer outputs are compared in Amaranth's simulator, which is slow."""

SHORT = 150_000
"""Verifications of up to this many outputs are compiled without optimisation and skip longer exhaustive tests."""

BATCH = 250_000
"""Outputs per run, to limit memory."""

MOST_WRONG = 100
"""Number of wrong results after which no more are located."""

WAVEFORM = 2000
"""Maximum number of score beats in a waveform."""

TRAFFIC = (
    Traffic(),
    Traffic(gap=128, longest_gap=3),
    Traffic(stall=128, longest_stall=3),
    Traffic(gap=100, longest_gap=4, stall=100, longest_stall=4),
    Traffic(gap=8, longest_gap=60, stall=200, longest_stall=2),
    Traffic(stall=6, longest_stall=120),
    Traffic(gap=64, longest_gap=8, stall=100, longest_stall=4, ready="late"),
    Traffic(gap=64, longest_gap=8, stall=100, longest_stall=4, ready="early"),
    Traffic(gap=32, longest_gap=6, stall=64, longest_stall=6, resets=True),
)
"""Traffic patterns: neither gaps nor stalls, one of them, both, bursts of them; ready that follows valid; resets."""

Progress = Callable[[int, int], None]


class Wrong(NamedTuple):
    """A result that differs from golden.

    Attributes:
        lane: lane of the result.
        row: index of the row within its run.
        position: position in the row; may be beyond its end, where 0 is expected.
        code: score code; None beyond the end of the row.
        expected, got: result codes.
    """

    lane: int
    row: int
    position: int
    code: int | None
    expected: int
    got: int

    def __str__(self) -> str:
        where = f"lane {self.lane}, row {self.row}, position {self.position}"
        score = "beyond the row's end" if self.code is None else f"score code {self.code}"
        return f"{where}, {score}: expected {self.expected}, got {self.got}"


@dataclass
class Verification:
    """Result of a verification.

    Attributes:
        simulator: name of the simulator.
        compared: number of outputs compared.
        mismatches: number of wrong outputs.
        faults: descriptions of everything that is wrong; empty if the unit is correct.
        wrong: the first wrong results, each a `Wrong`, or a `WrongOutput` of an engine.
        cycles: number of cycles simulated.
        parts: the parts that were tested exhaustively.
        seconds: run time in seconds.
    """

    simulator: str = ""
    compared: int = 0
    mismatches: int = 0
    faults: list[str] = field(default_factory=list)
    wrong: list[Any] = field(default_factory=list)
    cycles: int = 0
    parts: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether outputs were compared and nothing was wrong."""
        return self.compared > 0 and not self.faults

    def add(self, run: Stream, outcome: Outcome) -> None:
        """Add the outcome of a run, but for the place of what is wrong."""
        self.compared += outcome.positions(run)
        self.mismatches += outcome.wrong_results
        self.cycles += outcome.cycles
        self.faults += outcome.faults(run)


def verify(
    unit: SoftmaxUnit,
    constants: Sequence[Constants | Sets] | None = None,
    outputs: int = OUTPUTS,
    seed: int = 0,
    rows: Segments = (),
    fault: Fault | None = None,
    waveform: Path | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Compare every output of a unit with golden.

    The unit is run on all score codes, if there are not too many, and on random rows of all lengths, with patterns of
    gaps, stalls and resets; its tables and multiplier are tested with every input. Without a C++ compiler, Amaranth's
    simulator does part of this.

    Args:
        unit: baked or loadable.
        constants: constants to load in turn, each of one head or `Sets`; default: those baked in, or the examples of
            the spec.
        outputs: minimum number of outputs to compare.
        seed: seed of all random numbers.
        rows: further rows with their constants, for example from a real model.
        fault: fault to inject into the unit, to test the verification itself.
        waveform: file for the waveform (VCD) of the first failing run or, if none fails, of the last run.
        progress: called with the number of outputs compared so far and in total.

    Raises:
        ToolError: a tool is missing or failed.
        ValueError: there are no constants, or the unit does not support them or the rows.
        TypeError: the unit is not one, but a spec for instance.
    """
    check_unit(unit)
    started = time.monotonic()
    if constants is None:
        constants = [unit.constants] if unit.constants is not None else unit.loads(unit.spec.examples())
    if not constants:
        raise ValueError("constants must contain at least one set; leave them out for the examples of the spec")
    fast = can_verilate()
    if not fast and (fault is not None or waveform is not None):
        raise ToolError(f"injecting a fault or writing a waveform requires Verilator; {missing_hardware()}")
    simulator: Simulator = Verilated(unit, fault, fast=outputs > SHORT) if fast else Simulated(unit)
    verification = Verification(simulator.name)
    outputs = outputs if fast else outputs // FEWER
    failing: tuple[Stream, Traffic] | None = None
    shown: tuple[Stream, Traffic] | None = None
    runs = _runs(unit, constants, outputs, np.random.default_rng(seed), rows, fast, verification)
    order = np.random.default_rng(seed)
    for number, (segments, traffic) in enumerate(runs):
        run = stream(unit, segments, order), Traffic(**{**vars(traffic), "seed": seed + number + 1})
        outcome = simulator.run(*run)
        verification.add(run[0], outcome)
        for beat, words in outcome.wrong:
            if len(verification.wrong) < MOST_WRONG:
                verification.wrong += _locate(unit, segments, run[0], beat, words)
        shown = run
        failing = failing or (run if verification.faults else None)
        if progress:
            progress(min(verification.compared, outputs), outputs)
        if verification.faults:
            break
    if fast and fault is None and not verification.faults:
        for part in unit.parts():
            _try_all(verification, part)
    if waveform is not None and shown is not None and fast:
        write_waveform(unit, fault, failing or shown, waveform)
    verification.seconds = time.monotonic() - started
    return verification


def _runs(
    unit: SoftmaxUnit,
    constants: Sequence[Any],
    outputs: int,
    random: np.random.Generator,
    rows: Segments,
    exhaustive: bool,
    verification: Verification,
) -> Iterator[tuple[Segments, Traffic]]:
    """Yield the runs: all codes, the caller's rows, then random rows until enough outputs have been compared."""
    whole = itertools.cycle(traffic for traffic in TRAFFIC if not traffic.resets)
    if exhaustive:
        for loaded in constants:
            codes = all_codes(unit, loaded)
            if codes is not None and codes.lengths.sum() <= max(outputs, SHORT):
                yield [(loaded, codes)], next(whole)
    if rows:
        yield rows, next(whole)
    # Enough runs for every traffic pattern, each with every set of constants.
    size = min(BATCH, max(outputs // len(TRAFFIC), 1))
    done = 0
    while verification.compared < outputs or done < len(TRAFFIC):
        share = max(size // (2 * len(constants)), 1)
        segments = [(loaded, random_rows(unit, loaded, share, random)) for _ in range(2) for loaded in constants]
        yield segments, TRAFFIC[done % len(TRAFFIC)]
        done += 1


def _locate(unit: SoftmaxUnit, segments: Segments, run: Stream, beat: int, words: Any) -> Iterator[Wrong]:
    """Yield the wrong results of a beat."""
    lanes = unit.lanes * unit.masks
    got, expected = (unpack(packed[None], unit.result_bits, lanes)[0] for packed in (words, run.results[beat]))
    before = first_row = 0
    for constants, rows in segments:
        per_lane = unit.positions_a_lane(constants)
        at = places(rows, unit.lanes * per_lane)
        if beat < before + len(at.last):
            break
        before, first_row = before + len(at.last), first_row + len(rows.lengths)
    first = np.nonzero(at.beat == beat - before)[0][0]
    row, start = int(at.rows[first]), int(at.keys[first])
    for lane in np.nonzero(got != expected)[0]:
        position = start + int(lane) * per_lane // unit.masks
        code = int(rows.codes[row, position]) if position < rows.lengths[row] else None
        yield Wrong(int(lane), first_row + row, position, code, int(expected[lane]), int(got[lane]))


def _try_all(verification: Verification, part: Part) -> None:
    """Test a part with every input, and add the outcome to the verification."""
    scores = pack([(part.inputs[:, None], part.input_bits)])
    results = pack([(part.expected[:, None], part.output_bits)])
    count = len(part.inputs)
    run = Stream(scores, results, np.zeros((0, 1), np.uint32), np.ones(count, np.int64), part.output_bits)
    outcome = Verilated(Streamed(part), fast=False).run(run, Traffic())
    verification.compared += outcome.compared
    verification.mismatches += outcome.wrong_results
    verification.cycles += outcome.cycles
    verification.faults += [f"{part.name}: {wrong}" for wrong in outcome.faults(run)]
    verification.parts.append(f"{part.name}, {count} inputs")


def write_waveform(unit: Any, fault: Fault | None, run: tuple[Stream, Traffic], path: Path) -> None:
    """Write the waveform of the first beats of a run of a unit, or of an engine that is driven like one."""
    vectors, traffic = run
    path.parent.mkdir(parents=True, exist_ok=True)
    Verilated(unit, fault, waveform=path.resolve()).run(vectors.first(min(len(vectors.scores), WAVEFORM)), traffic)
