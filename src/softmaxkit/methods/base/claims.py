"""Claims of papers, and what becomes of them here: figures and verdicts are read from records, never typed in."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Verdict = Literal["reproduced", "not reproduced", "not comparable", "not measured"]
Record = Mapping[str, Any]
Result = Mapping[str, Any]

MEASURE = "softmaxkit claims --measure"
"""The command that makes the records of claims that take seconds to measure."""


class Finding(NamedTuple):
    """What records say of a claim.

    Attributes:
        measured: our figure, with its spread, and on what it was measured.
        verdict: "not comparable" where the setting differs so much that reaching the figure would show nothing.
        why: what stands between the figure and the verdict: how our setting differs from the paper's, what is left out.
    """

    measured: str
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Claim:
    """A claim of a method's paper, and how it is judged.

    Attributes:
        id: short name, e.g. "online-2".
        place: where in the paper.
        claim: in our words; and what it is taken to mean, where the paper leaves that open.
        published: the paper's figure.
        judge: of the records of `files`, in their order; raises ValueError or KeyError where one lacks a figure.
        records: files in the folder of records, by name, each with the command that makes it.
        measure: returns the figures of a record of its own, within seconds.
    """

    id: str
    place: str
    claim: str
    published: str
    judge: Callable[..., Finding]
    records: Mapping[str, str] = field(default_factory=dict)
    measure: Callable[[], dict[str, Any]] | None = None

    @property
    def own_record(self) -> str:
        """The file that `measure` fills."""
        return f"claims/{self.id}.json"

    @property
    def files(self) -> dict[str, str]:
        """All files it is read from, each with the command that makes it."""
        return {**self.records, **({self.own_record: MEASURE} if self.measure else {})}


class Figure(NamedTuple):
    """A figure over several runs: its mean, its standard deviation (0 for one run), and how many runs."""

    mean: float
    spread: float
    runs: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        """Return the figure of some runs.

        Raises:
            ValueError: there are none.
        """
        found = list(values)
        if not found:
            raise ValueError("no run has the figure")
        return cls(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else 0.0, len(found))

    def at_most(self, limit: float) -> bool:
        """Is it at most that, its spread included?"""
        return self.mean + self.spread <= limit

    def at_least(self, limit: float) -> bool:
        """Is it at least that, its spread included?"""
        return self.mean - self.spread >= limit

    def text(self, digits: int, unit: str = "") -> str:
        """Return it as "1.45 ± 0.58%"."""
        spread = f" ± {self.spread:.{digits}f}" if self.runs > 1 else ""
        return f"{round(self.mean, digits) or 0.0:.{digits}f}{spread}{unit}"


def results_of(record: Record, spec: Mapping[str, Any] | None = None, **fields: Any) -> list[Result]:
    """Return the results of a record that have these values, in themselves and in their spec.

    Raises:
        ValueError: there are none.
    """
    wanted = spec or {}
    found = [
        result
        for result in record["results"]
        if all(result.get(name) == value for name, value in fields.items())
        and all(result["spec"].get(name) == value for name, value in wanted.items())
    ]
    if not found:
        sought = ", ".join(f"{name} {value!r}" for name, value in {**fields, **wanted}.items())
        raise ValueError(f"no result has {sought}")
    return found


def only_result(record: Record, **fields: Any) -> Result:
    """Return the one result of a record that has these values.

    Raises:
        ValueError: there is none, or several.
    """
    found = results_of(record, **fields)
    if len(found) > 1:
        raise ValueError(f"{len(found)} results, where one is expected, have {fields}")
    return found[0]


def seeds_of(count: int) -> str:
    """Return how many seeds a figure is of, in words."""
    return "one seed" if count == 1 else f"{count} seeds"
