"""Queries of a job: how many keys each of them attends to, as a rule in place of a list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Queries:
    """Queries on the same keys, in an order in which none attends to fewer keys than the one before it.

    Attributes:
        first: keys of the first query.
        step: keys that each next position attends to in addition; 0 where all attend to as many.
        positions: in the sequence.
        group: query heads, whose queries at a position follow each other.
    """

    first: int
    step: int
    positions: int
    group: int

    def __iter__(self) -> Iterator[int]:
        """Yield the keys of every query."""
        for position in range(self.positions):
            for _ in range(self.group):
                yield self.first + self.step * position

    def __len__(self) -> int:
        """Return the number of queries."""
        return self.positions * self.group

    @property
    def last(self) -> int:
        """Keys of the last query."""
        return self.first + self.step * (self.positions - 1)

    @property
    def keys(self) -> int:
        """Keys of all queries together."""
        return self.group * self.positions * (self.first + self.last) // 2

    def cycles(self, rows: int, steps: int = 1, least: int = 1) -> int:
        """Return the sum over all queries of `steps` for each of their beats, but at least `least` for each query.

        Closed: positions whose keys leave the same remainder by `rows` take beats in arithmetic progression.

        Args:
            rows: keys of a beat.
            steps: cycles of a beat.
            least: cycles of a query.
        """
        total = 0
        for start in range(min(rows, self.positions)):  # after so many positions the remainder repeats
            count = -(-(self.positions - start) // rows)
            first = -(-(self.first + self.step * start) // rows)
            total += _sum(steps * first, steps * self.step, count, least)
        return self.group * total

    def by_beats(self, rows: int) -> Iterator[tuple[int, int]]:
        """Yield numbers of beats, and how many queries take so many.

        Args:
            rows: keys of a beat.
        """
        for count in range(-(-self.first // rows), -(-self.last // rows) + 1):
            if self.step == 0:
                yield count, len(self)
                continue
            begin = max(-(-((count - 1) * rows + 1 - self.first) // self.step), 0)
            end = min((count * rows - self.first) // self.step, self.positions - 1)
            yield count, self.group * max(end - begin + 1, 0)

    def of_engine(self, engines: int) -> Queries:
        """Return those of the engine that has most to do, where several take them in turn."""
        if self.group % engines == 0:
            return Queries(self.first, self.step, self.positions, self.group // engines)
        if engines % self.group == 0:
            share = engines // self.group
            positions = -(-self.positions // share)
            first = self.last - self.step * share * (positions - 1)
            return Queries(first, self.step * share, positions, 1)
        return Queries(self.first, self.step, self.positions, -(-self.group // engines))


def _sum(first: int, step: int, count: int, least: int) -> int:
    """Return the sum of `count` numbers from `first` in steps of `step`, each at least `least`."""
    if step == 0:
        return count * max(first, least)
    below = min(max(-(-(least - first) // step), 0), count)
    rest = count - below
    return below * least + rest * (first + step * below) + step * rest * (rest - 1) // 2
