"""Claims made by papers and our verdicts on them; figures are read from records, never typed in."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Verdict = Literal["reproduced", "not reproduced", "not comparable", "not measured"]
Record = Mapping[str, Any]
Result = Mapping[str, Any]

MEASURE = "softmaxkit claims --measure"
"""Command that writes the records of claims that can be measured within seconds."""


class Unfit(ValueError):
    """A record does not have what a claim is judged by; the message says what."""


class Finding(NamedTuple):
    """The result of judging a claim from records.

    Attributes:
        measured: our figure with its spread, and the setting in which it was measured.
        verdict: "not comparable" where the setting differs so much that reaching the figure would prove nothing.
        why: the reason for the verdict: how our setting differs from the paper's, and what it leaves out.
    """

    measured: str
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Claim:
    """A claim made by a method's paper, and how it is judged.

    Attributes:
        id: short identifier, e.g. "online-2".
        place: location in the paper.
        claim: the claim in our words, with our interpretation where the paper leaves it open.
        published: the paper's figure.
        judge: called with the records of `files`, in order; raises `Unfit` or KeyError if one lacks a figure.
        records: file names in the results folder, each mapped to the command that writes it.
        measure: measures the figures of the claim's own record, within seconds.
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
        """Name of the file that holds the figures of `measure`."""
        return f"claims/{self.id}.json"

    @property
    def files(self) -> dict[str, str]:
        """All record files that `judge` reads, each mapped to the command that writes it."""
        return {**self.records, **({self.own_record: MEASURE} if self.measure else {})}


class Figure(NamedTuple):
    """A figure over several runs: mean, sample standard deviation (0 for one run), and number of runs."""

    mean: float
    spread: float
    runs: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        """Summarise the values of several runs.

        Raises:
            Unfit: `values` is empty.
        """
        runs = list(values)
        if not runs:
            raise Unfit("no run has the figure")
        return cls(statistics.fmean(runs), statistics.stdev(runs) if len(runs) > 1 else 0.0, len(runs))

    def at_most(self, limit: float) -> bool:
        """Return whether the mean plus the spread is at most `limit`."""
        return self.mean + self.spread <= limit

    def at_least(self, limit: float) -> bool:
        """Return whether the mean minus the spread is at least `limit`."""
        return self.mean - self.spread >= limit

    def text(self, digits: int, unit: str = "") -> str:
        """Format the figure, e.g. "1.45 ± 0.58%"."""
        spread = f" ± {self.spread:.{digits}f}" if self.runs > 1 else ""
        return f"{round(self.mean, digits) or 0.0:.{digits}f}{spread}{unit}"


def results_of(record: Record, spec: Mapping[str, Any] | None = None, **fields: Any) -> list[Result]:
    """Return the results of a record whose fields, and whose spec's fields, have the given values.

    Raises:
        Unfit: no result matches.
    """
    wanted = spec or {}
    results = [
        result
        for result in record["results"]
        if all(result.get(name) == value for name, value in fields.items())
        and all((result.get("spec") or {}).get(name) == value for name, value in wanted.items())
    ]
    if not results:
        sought = ", ".join(f"{name} {value!r}" for name, value in {**fields, **wanted}.items())
        raise Unfit(f"no result has {sought}" if sought else "it has no results")
    return results


def only_result(record: Record, **fields: Any) -> Result:
    """Return the single result of a record whose fields have the given values.

    Raises:
        Unfit: no result matches, or several do.
    """
    results = results_of(record, **fields)
    if len(results) > 1:
        of = f" with {fields}" if fields else ""
        raise Unfit(f"expected one result{of}, found {len(results)}")
    return results[0]


def seeds_of(count: int) -> str:
    """Return the number of seeds as text, e.g. "one seed" or "3 seeds"."""
    return "one seed" if count == 1 else f"{count} seeds"
