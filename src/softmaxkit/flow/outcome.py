"""Traffic and outcome of a simulation, and the formats in which harness.cpp reads and prints them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from softmaxkit.flow.tools import ToolError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxkit.flow.vectors import Stream


SHOWN = 100
"""Number of wrong beats to record; all are counted."""

Ready = Literal["free", "late", "early"]
"""How the ready of the results depends on valid: "free": random, whatever valid is; "late": low until valid is high;
"early": high until valid is high, then low for a cycle or more."""


@dataclass(frozen=True)
class Traffic:
    """Timing of the beats at both ends of a unit, and resets.

    Attributes:
        gap, longest_gap: probability of a gap before a score beat, in 256ths, and its longest duration in cycles.
        stall, longest_stall: the same for cycles in which results are not accepted.
        ready: how the ready of the results depends on valid.
        resets: whether resets come at any time; otherwise there is one, at the start.
        seed: seed of all random choices.
    """

    gap: int = 0
    longest_gap: int = 1
    stall: int = 0
    longest_stall: int = 1
    ready: Ready = "free"
    resets: bool = False
    seed: int = 1

    def arguments(self) -> list[int]:
        """Return the arguments of the harness."""
        mode = get_args(Ready).index(self.ready)
        return [self.gap, self.longest_gap, self.stall, self.longest_stall, mode, int(self.resets), self.seed]


@dataclass
class Outcome:
    """Result of a simulation.

    Attributes:
        taken: score beats that the unit accepted.
        written: configuration writes that it accepted.
        received: result beats that were compared, or lost in a reset.
        mismatches: result beats that were wrong.
        wrong_results: wrong results in these beats, if the stream gives the width of a result; else wrong beats.
        extra: surplus result beats.
        unstable: cycles in which an offered result changed or was withdrawn.
        dependent: cycles in which an offered result changed with ready.
        intruding: writes that were accepted while a row was inside.
        resets: number of resets after the first.
        lost: `(first, end)` of the result beats that were inside when a reset came.
        cycles: number of cycles simulated.
        wrong: `(beat, words)` of the first wrong beats.
        taken_at, given_at: the cycle in which each score beat and each result beat was accepted, if recorded.
    """

    taken: int = 0
    written: int = 0
    received: int = 0
    mismatches: int = 0
    wrong_results: int = 0
    extra: int = 0
    unstable: int = 0
    dependent: int = 0
    intruding: int = 0
    resets: int = 0
    cycles: int = 0
    lost: list[tuple[int, int]] = field(default_factory=list)
    wrong: list[tuple[int, NDArray[np.uint32]]] = field(default_factory=list)
    taken_at: NDArray[np.uint64] | None = None
    given_at: NDArray[np.uint64] | None = None

    @property
    def compared(self) -> int:
        """Number of result beats that were compared."""
        return self.received - sum(end - first for first, end in self.lost)

    def positions(self, stream: Stream) -> int:
        """Return the number of score positions whose results were compared."""
        lost = sum(int(stream.positions[first:end].sum()) for first, end in self.lost)
        return int(stream.positions[: self.received].sum()) - lost

    def faults(self, stream: Stream) -> list[str]:
        """Return descriptions of everything that is wrong; empty if nothing is."""
        faults = []
        if self.mismatches:
            faults.append(f"{self.mismatches} wrong result beats")
        if self.received < len(stream.results):
            faults.append(f"only {self.received} of {len(stream.results)} result beats arrived")
        if self.taken < len(stream.scores):
            faults.append(f"only {self.taken} of {len(stream.scores)} score beats were accepted")
        if self.written < len(stream.writes):
            faults.append(f"only {self.written} of {len(stream.writes)} configuration writes were accepted")
        if self.extra:
            faults.append(f"{self.extra} surplus result beats")
        if self.unstable:
            faults.append(f"a waiting result changed in {self.unstable} cycles")
        if self.dependent:
            faults.append(f"an offered result changed with ready in {self.dependent} cycles")
        if self.intruding:
            faults.append(f"{self.intruding} configuration writes were accepted while a row was inside")
        return faults


def write_stream(path: Path, stream: Stream) -> None:
    """Write the file that the harness reads."""
    sizes = [stream.scores.shape[1], stream.results.shape[1], stream.writes.shape[1] - 1]
    sizes += [len(stream.scores), len(stream.results), len(stream.writes), len(stream.places)]
    with path.open("wb") as file:
        for words in (np.asarray(sizes), stream.scores, stream.results, stream.writes, stream.places):
            file.write(np.ascontiguousarray(words, "<u4").tobytes())


def read_outcome(printed: str) -> Outcome:
    """Read the output of the harness.

    Raises:
        ToolError: the simulation did not run to its end.
    """
    done = re.search(r"^done (.*)$", printed, re.MULTILINE)
    if done is None:
        raise ToolError("the simulation ended without a result")
    outcome = Outcome()
    for key, count in (pair.split("=") for pair in done[1].split()):
        setattr(outcome, key, int(count))
    for first, end in re.findall(r"^lost (\d+) (\d+)$", printed, re.MULTILINE):
        outcome.lost.append((int(first), int(end)))
    for line in re.findall(r"^mismatch (.*)$", printed, re.MULTILINE):
        beat, *words = line.split()
        outcome.wrong.append((int(beat), np.asarray([int(word, 16) for word in words], np.uint32)))
    return outcome
