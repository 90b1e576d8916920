"""Verification: every output of a unit against golden, in Verilator, on rows of all kinds, with gaps and stalls."""

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

if TYPE_CHECKING:
    from softmaxkit.methods.base.constants import Constants, Sets
    from softmaxkit.methods.base.unit import SoftmaxUnit

OUTPUTS = 2_000_000
"""Outputs that are compared by default."""

FEWER = 50
"""Amaranth's simulator, which is slow, compares this many times fewer."""

SHORT = 150_000
"""Runs of up to this many outputs are compiled without optimisation and leave out longer exhaustive tests."""

BATCH = 250_000
"""Outputs per run, to limit memory."""

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
"""Patterns of gaps and stalls: none, one of them, both, and bursts; ready that answers valid; and resets."""

Progress = Callable[[int, int], None]


class Wrong(NamedTuple):
    """A result that differs from golden.

    Attributes:
        lane: of the unit.
        row: index of the row within its run.
        position: in the row; may be beyond its end, where 0 is right.
        code: of the score; None beyond the end of the row.
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
        simulator: its name.
        compared: number of outputs compared.
        mismatches: how many of them were wrong.
        faults: descriptions of everything that is wrong; empty if the unit is right.
        wrong: the first wrong results, each a `Wrong`, or a `WrongOutput` of an engine.
        cycles: number of cycles simulated.
        parts: parts that were tested exhaustively.
        seconds: run time.
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
        """Nothing is wrong, and something was compared."""
        return self.compared > 0 and not self.faults


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

    The unit sees all score codes, if there are not too many, and random rows of all lengths, in patterns of gaps,
    stalls and resets; its tables and multiplier see every input. Without a C++ compiler, Amaranth's simulator does
    part of this.

    Args:
        unit: baked or loadable.
        constants: what to load in turn, of one head each or `Sets`; default: those baked in, or the spec's examples.
        outputs: minimum number of outputs to compare.
        seed: of all random numbers.
        rows: further rows with their constants, for example from a real model.
        fault: to inject into the unit, as a test of the verification itself.
        waveform: file for the waveform (VCD) of the first failing run or, if none fails, of a short run.
        progress: called with the number of outputs compared so far and in total.

    Raises:
        ToolError: a tool is missing or failed.
        ValueError: the unit cannot take the rows or constants.
    """
    started = time.monotonic()
    if constants is None:
        constants = [unit.constants] if unit.constants is not None else unit.loads(unit.spec.examples())
    fast = can_verilate()
    if not fast and (fault is not None or waveform is not None):
        raise ToolError(f"to inject a fault or to write a waveform takes Verilator; {missing_hardware()}")
    simulator: Simulator = Verilated(unit, fault, fast=outputs > SHORT) if fast else Simulated(unit)
    verification = Verification(simulator.name)
    outputs = outputs if fast else outputs // FEWER
    failing: tuple[Stream, Traffic] | None = None
    shown: tuple[Stream, Traffic] | None = None
    runs = _runs(unit, constants, outputs, np.random.default_rng(seed), rows, fast, verification)
    for number, (segments, traffic) in enumerate(runs):
        run = stream(unit, segments), Traffic(**{**vars(traffic), "seed": seed + number + 1})
        outcome = simulator.run(*run)
        _add(verification, unit, segments, run[0], outcome)
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
        _write_waveform(unit, fault, failing or shown, waveform)
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
    # Enough runs for every pattern of traffic, with every set of constants in each.
    size = min(BATCH, max(outputs // len(TRAFFIC), 1))
    done = 0
    while verification.compared < outputs or done < len(TRAFFIC):
        share = max(size // (2 * len(constants)), 1)
        segments = [(loaded, random_rows(unit, loaded, share, random)) for _ in range(2) for loaded in constants]
        yield segments, TRAFFIC[done % len(TRAFFIC)]
        done += 1


def _add(verification: Verification, unit: SoftmaxUnit, segments: Segments, run: Stream, outcome: Outcome) -> None:
    """Add the outcome of a run."""
    verification.compared += outcome.positions(run)
    verification.mismatches += outcome.wrong_results
    verification.cycles += outcome.cycles
    verification.faults += outcome.faults(run)
    for beat, words in outcome.wrong:
        if len(verification.wrong) < 100:
            verification.wrong += _locate(unit, segments, run, beat, words)


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
    here = np.nonzero(at.beat == beat - before)[0]
    row, start = int(at.rows[here[0]]), int(at.keys[here[0]])
    for lane in np.nonzero(got != expected)[0]:
        position = start + int(lane) * per_lane // unit.masks
        code = int(rows.codes[row, position]) if position < rows.lengths[row] else None
        yield Wrong(int(lane), first_row + row, position, code, int(expected[lane]), int(got[lane]))


def _try_all(verification: Verification, part: Part) -> None:
    """Test a part with all its inputs."""
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


def _write_waveform(unit: SoftmaxUnit, fault: Fault | None, run: tuple[Stream, Traffic], path: Path) -> None:
    """Write the waveform of the first 2000 beats of a run."""
    whole, traffic = run
    path.parent.mkdir(parents=True, exist_ok=True)
    Verilated(unit, fault, waveform=path.resolve()).run(whole.first(min(len(whole.scores), 2000)), traffic)
