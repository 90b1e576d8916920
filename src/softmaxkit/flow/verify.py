"""Verification: a unit's every output against golden, in Verilator, with gaps and stalls, over rows of all kinds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from softmaxkit.blocks.parts import Part, Streamed
from softmaxkit.flow.faults import Fault
from softmaxkit.flow.rows import all_codes, random_rows
from softmaxkit.flow.simulate import Outcome, Simulated, Simulator, Traffic, Verilated, can_verilate
from softmaxkit.flow.vectors import Rows, Stream, pack, places, stream, unpack

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.methods.base.constants import Constants

OUTPUTS = 2_000_000
"""Outputs that are compared by default."""

FEWER = 50
"""How many times fewer they are in Amaranth's simulator."""

SHORT = 150_000
"""Outputs up to which compiling matters more than running, and what takes more is left out."""

BATCH = 250_000
"""Outputs of one run, so that memory stays small."""

TRAFFIC = (
    Traffic(),
    Traffic(gap=128, longest_gap=3),
    Traffic(stall=128, longest_stall=3),
    Traffic(gap=100, longest_gap=4, stall=100, longest_stall=4),
    Traffic(gap=8, longest_gap=60, stall=200, longest_stall=2),
    Traffic(stall=6, longest_stall=120),
)
"""Gaps and stalls: none, either, both, and bursts."""

Segments = Sequence[tuple[Any, Rows]]
Progress = Callable[[int, int], None]


class Wrong(NamedTuple):
    """A result that is not golden's.

    Attributes:
        lane: of the unit.
        row: of the run that it came in.
        position: in the row; beyond its end, where 0 is right.
        code: of the score; None beyond the end of the row.
        expected, got: codes of the result.
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
    """What a verification found.

    Attributes:
        simulator: which.
        compared: outputs that were compared.
        mismatches: how many of them were wrong.
        faults: all that is wrong, in words; nothing where the unit is right.
        wrong: the first wrong results.
        cycles: simulated.
        parts: what was tried with all its inputs.
        seconds: it took.
    """

    simulator: str = ""
    compared: int = 0
    mismatches: int = 0
    faults: list[str] = field(default_factory=list)
    wrong: list[Wrong] = field(default_factory=list)
    cycles: int = 0
    parts: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Is all well, and was anything compared?"""
        return self.compared > 0 and not self.faults


def verify(
    unit: SoftmaxUnit,
    constants: Sequence[Constants] | None = None,
    outputs: int = OUTPUTS,
    seed: int = 0,
    rows: Segments = (),
    fault: Fault | None = None,
    waveform: Path | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Compare a unit's every output with golden.

    Every code of a score where these are few, every input of its tables and multiplier, and random rows of all lengths
    up to its longest, in six patterns of gaps and stalls. Without a C++ compiler, Amaranth's simulator does a part.

    Args:
        unit: baked or loadable.
        constants: to load, one after the other; left out: those that are baked in, or the spec's examples.
        outputs: how many to compare, at least.
        seed: of everything random.
        rows: more rows, with their constants, as from a real model.
        fault: to put into the unit, which is then to be found wrong.
        waveform: file for the waveform (VCD) of the first run that goes wrong, or of a short one.
        progress: called with the outputs compared and all.

    Raises:
        ToolError: a tool is missing or failed.
        ValueError: the rows or constants are none for the unit.
    """
    started = time.monotonic()
    if constants is None:
        constants = [unit.constants] if unit.constants is not None else unit.spec.examples()
    fast = can_verilate()
    simulator: Simulator = Verilated(unit, fault, fast=outputs > SHORT) if fast else Simulated(unit)
    found = Verification(simulator.name)
    outputs = outputs if fast else outputs // FEWER
    failing: tuple[Stream, Traffic] | None = None
    shown: tuple[Stream, Traffic] | None = None
    for number, segments in enumerate(_runs(unit, constants, outputs, np.random.default_rng(seed), rows, fast)):
        traffic = TRAFFIC[number % len(TRAFFIC)]
        run = stream(unit, segments), Traffic(**{**vars(traffic), "seed": seed + number + 1})
        outcome = simulator.run(*run)
        _add(found, unit, segments, run[0], outcome)
        shown = run
        failing = failing or (run if found.faults else None)
        if progress:
            progress(min(found.compared, outputs), outputs)
        if found.faults:
            break
    if fast and fault is None and not found.faults:
        for part in unit.parts():
            _try_all(found, part)
    if waveform is not None and shown is not None and fast:
        _write_waveform(unit, fault, failing or shown, waveform)
    found.seconds = time.monotonic() - started
    return found


def _runs(
    unit: SoftmaxUnit,
    constants: Sequence[Any],
    outputs: int,
    random: np.random.Generator,
    rows: Segments,
    exhaustive: bool,
) -> Iterator[Segments]:
    """Yield what is to be run: every code, the given rows, and random rows until there are enough outputs."""
    count = 0
    if exhaustive:
        for each in constants:
            found = all_codes(unit, each)
            if found is not None and found.lengths.sum() <= max(outputs, SHORT):
                count += int(found.lengths.sum())
                yield [(each, found)]
    if rows:
        count += sum(int(each.lengths.sum()) for _, each in rows)
        yield rows
    # Every pattern of gaps and stalls gets its turn, with every set of constants.
    size = min(BATCH, max(outputs // len(TRAFFIC), 1))
    done = 0
    while count < outputs or done < len(TRAFFIC):
        share = max(size // (2 * len(constants)), 1)
        segments = [(each, random_rows(unit, each, share, random)) for _ in range(2) for each in constants]
        count, done = count + sum(int(each.lengths.sum()) for _, each in segments), done + 1
        yield segments


def _add(found: Verification, unit: SoftmaxUnit, segments: Segments, run: Stream, outcome: Outcome) -> None:
    """Add the outcome of a run."""
    found.compared += int(run.positions[: outcome.compared].sum())
    found.mismatches += outcome.wrong_results
    found.cycles += outcome.cycles
    found.faults += outcome.faults(run)
    for beat, words in outcome.wrong:
        if len(found.wrong) < 100:
            found.wrong += _locate(unit, segments, run, beat, words)


def _locate(unit: SoftmaxUnit, segments: Segments, run: Stream, beat: int, words: Any) -> Iterator[Wrong]:
    """Yield the wrong results of a beat."""
    lanes = unit.lanes * unit.masks
    got, expected = (unpack(each[None], unit.result_bits, lanes)[0] for each in (words, run.results[beat]))
    before = first_row = 0
    for constants, rows in segments:
        each = unit.positions_a_lane(constants)
        at = places(rows, unit.lanes * each)
        if beat < before + len(at.last):
            break
        before, first_row = before + len(at.last), first_row + len(rows.lengths)
    here = np.nonzero(at.beat == beat - before)[0]
    row, start = int(at.rows[here[0]]), int(at.keys[here[0]])
    for lane in np.nonzero(got != expected)[0]:
        position = start + int(lane) * each // unit.masks
        code = int(rows.codes[row, position]) if position < rows.lengths[row] else None
        yield Wrong(int(lane), first_row + row, position, code, int(expected[lane]), int(got[lane]))


def _try_all(found: Verification, part: Part) -> None:
    """Try a part with all its inputs."""
    scores = pack([(part.inputs[:, None], part.input_bits)])
    results = pack([(part.expected[:, None], part.output_bits)])
    count = len(part.inputs)
    run = Stream(scores, results, np.zeros((0, 1), np.uint32), np.ones(count, np.int64), part.output_bits)
    outcome = Verilated(Streamed(part), fast=False).run(run, Traffic())
    found.compared += outcome.compared
    found.mismatches += outcome.wrong_results
    found.cycles += outcome.cycles
    found.faults += [f"{part.name}: {each}" for each in outcome.faults(run)]
    found.parts.append(f"{part.name}, {count} inputs")


def _write_waveform(unit: SoftmaxUnit, fault: Fault | None, run: tuple[Stream, Traffic], path: Path) -> None:
    """Write the waveform of the beginning of a run."""
    whole, traffic = run
    beats = min(len(whole.scores), 2000)
    begin = Stream(
        whole.scores[:beats],
        whole.results[:beats],
        whole.writes[whole.writes[:, 0] < beats] if whole.writes.shape[1] > 1 else whole.writes,
        whole.positions[:beats],
        whole.result_bits,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    Verilated(unit, fault, waveform=path.resolve()).run(begin, traffic)
