"""Traffic and outcome of a simulation, and how they are exchanged with harness.cpp."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from softmaxkit.flow.tools import ToolError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxkit.flow.vectors import Stream


@dataclass(frozen=True)
class Traffic:
    """Timing of the beats at both ends of a unit.

    Attributes:
        gap, longest_gap: probability of a gap before a score beat, of 256, and its longest duration in cycles.
        stall, longest_stall: the same for the results not being accepted.
        seed: of both.
    """

    gap: int = 0
    longest_gap: int = 1
    stall: int = 0
    longest_stall: int = 1
    seed: int = 1


@dataclass
class Outcome:
    """Result of a simulation.

    Attributes:
        taken: score beats that the unit accepted.
        written: configuration writes that it accepted.
        compared: result beats that were compared.
        mismatches: how many of them were wrong.
        wrong_results: wrong results in these beats, if the stream gives the width of a result.
        extra: result beats beyond the expected ones.
        unstable: cycles in which an offered result changed or was withdrawn.
        cycles: number of cycles simulated.
        wrong: `(beat, words)` of the first wrong beats.
        taken_at, given_at: the cycle of each score beat and each result beat, if recorded.
    """

    taken: int = 0
    written: int = 0
    compared: int = 0
    mismatches: int = 0
    wrong_results: int = 0
    extra: int = 0
    unstable: int = 0
    cycles: int = 0
    wrong: list[tuple[int, NDArray[np.uint32]]] = field(default_factory=list)
    taken_at: NDArray[np.uint64] | None = None
    given_at: NDArray[np.uint64] | None = None

    def faults(self, stream: Stream) -> list[str]:
        """Return descriptions of everything that is wrong; empty if nothing is."""
        faults = []
        if self.mismatches:
            faults.append(f"{self.mismatches} wrong result beats")
        if self.compared < len(stream.results):
            faults.append(f"only {self.compared} of {len(stream.results)} result beats came")
        if self.taken < len(stream.scores):
            faults.append(f"only {self.taken} of {len(stream.scores)} score beats were taken")
        if self.written < len(stream.writes):
            faults.append(f"only {self.written} of {len(stream.writes)} configuration writes were taken")
        if self.extra:
            faults.append(f"{self.extra} result beats too many")
        if self.unstable:
            faults.append(f"a waiting result changed in {self.unstable} cycles")
        return faults


def write_stream(path: Path, stream: Stream) -> None:
    """Write the file that the harness reads."""
    sizes = [stream.scores.shape[1], stream.results.shape[1], stream.writes.shape[1] - 1]
    sizes += [len(stream.scores), len(stream.results), len(stream.writes)]
    with path.open("wb") as file:
        for words in (np.asarray(sizes), stream.scores, stream.results, stream.writes):
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
    for line in re.findall(r"^mismatch (.*)$", printed, re.MULTILINE):
        beat, *words = line.split()
        outcome.wrong.append((int(beat), np.asarray([int(word, 16) for word in words], np.uint32)))
    return outcome
