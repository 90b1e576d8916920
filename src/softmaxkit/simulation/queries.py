"""Queries of a job: how many keys each of them attends to, as a rule in place of a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd
from typing import NamedTuple


class Progression(NamedTuple):
    """Queries of which each attends to so many keys more than the one before it.

    Attributes:
        first: keys of the first query.
        step: keys that each next query attends to in addition; 0 where all attend to as many.
        length: number of queries.
    """

    first: int
    step: int
    length: int

    def cycles(self, rows: int, steps: int, least: int) -> int:
        """Return the sum that `Queries.cycles` states.

        Closed: queries whose keys leave the same remainder by `rows` take beats in arithmetic progression.
        """
        total = 0
        for start in range(min(rows, self.length)):  # after so many queries the remainder repeats
            count = -(-(self.length - start) // rows)
            first = -(-(self.first + self.step * start) // rows)
            total += _sum(steps * first, steps * self.step, count, least)
        return total

    def of_beats(self, count: int, rows: int) -> int:
        """Return how many queries take so many beats of `rows` keys."""
        if self.step == 0:
            return self.length if -(-self.first // rows) == count else 0
        begin = max(-(-((count - 1) * rows + 1 - self.first) // self.step), 0)
        end = min((count * rows - self.first) // self.step, self.length - 1)
        return max(end - begin + 1, 0)


@dataclass(frozen=True)
class Queries:
    """Queries on the same keys, in an order in which none attends to fewer keys than the one before it.

    Attributes:
        first: keys of the first query.
        step: keys that each next position attends to in addition; 0 where all attend to as many.
        positions: in the sequence.
        group: query heads, whose queries at a position follow each other.
        every: of all these queries, counted back from the last, one in so many is meant, as they are dealt out in turn;
            one of the first position is among them.
    """

    first: int
    step: int
    positions: int
    group: int
    every: int = 1

    def __iter__(self) -> Iterator[int]:
        """Yield the keys of every query."""
        return map(self._keys_of, self._numbers)

    def __reversed__(self) -> Iterator[int]:
        """Yield the same from the last query back."""
        return map(self._keys_of, reversed(self._numbers))

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self._numbers)

    @property
    def last(self) -> int:
        """Keys of the last query."""
        return self.first + self.step * (self.positions - 1)

    @property
    def keys(self) -> int:
        """Keys of all queries together."""
        return self.cycles(1)

    def cycles(self, rows: int, steps: int = 1, least: int = 1) -> int:
        """Return the sum over all queries of `steps` for each of their beats, but at least `least` for each query.

        Args:
            rows: keys of a beat.
            steps: cycles of a beat.
            least: cycles of a query.
        """
        return sum(times * part.cycles(rows, steps, least) for part, times in self._progressions.items())

    def by_beats(self, rows: int) -> Iterator[tuple[int, int]]:
        """Yield numbers of beats, and how many queries take so many.

        Args:
            rows: keys of a beat.
        """
        for count in range(-(-self.first // rows), -(-self.last // rows) + 1):
            yield count, sum(times * part.of_beats(count, rows) for part, times in self._progressions.items())

    def of_engine(self, engines: int) -> Queries:
        """Return those of the engine that has most to do, where as many take all these queries in turn.

        It is the one with the last query: counted back from there, none of its queries attends to fewer keys than that
        of any other engine.
        """
        every = self.every * min(engines, len(self))
        before = replace(self, every=every)._numbers[0] // self.group  # positions of which others have all queries
        return replace(self, first=self.first + self.step * before, positions=self.positions - before, every=every)

    @property
    def _numbers(self) -> range:
        """The numbers of the queries that are meant, among those of all positions and heads."""
        count = self.positions * self.group
        return range((count - 1) % self.every, count, self.every)

    def _keys_of(self, number: int) -> int:
        """Return the keys of a query by its number."""
        return self.first + self.step * (number // self.group)

    @cached_property
    def _progressions(self) -> Counter[Progression]:
        """The queries, as progressions with how often each of them is there.

        After `group / gcd(group, every)` queries of one engine, the heads that it has at a position repeat.
        """
        repeats = self.group // gcd(self.group, self.every)
        stride = self.every // gcd(self.group, self.every)
        return Counter(
            Progression(self.first + self.step * start, self.step * stride, -(-(self.positions - start) // stride))
            for start in (number // self.group for number in self._numbers[:repeats])
        )


def _sum(first: int, step: int, count: int, least: int) -> int:
    """Return the sum of `count` numbers from `first` in steps of `step`, each at least `least`."""
    if step == 0:
        return count * max(first, least)
    below = min(max(-(-(least - first) // step), 0), count)
    rest = count - below
    return below * least + rest * (first + step * below) + step * rest * (rest - 1) // 2
