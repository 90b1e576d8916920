"""The queries of a job and how many keys each attends to, as arithmetic progressions instead of a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd
from typing import NamedTuple


class Progression(NamedTuple):
    """Queries whose numbers of keys form an arithmetic progression.

    Attributes:
        first: keys of the first query.
        step: additional keys of each next query; 0 if all attend to the same number.
        length: number of queries.
    """

    first: int
    step: int
    length: int

    def cycles(self, rows: int, steps: int, least: int) -> int:
        """Return the sum described in `Queries.cycles`, in closed form.

        The beats of queries whose numbers of keys are congruent modulo `rows` form arithmetic progressions.
        """
        total = 0
        for start in range(min(rows, self.length)):  # the remainder repeats after `rows` queries
            count = -(-(self.length - start) // rows)
            first = -(-(self.first + self.step * start) // rows)
            total += _sum(steps * first, steps * self.step, count, least)
        return total

    def of_beats(self, count: int, rows: int) -> int:
        """Return the number of queries that take `count` beats of `rows` keys."""
        if self.step == 0:
            return self.length if -(-self.first // rows) == count else 0
        begin = max(-(-((count - 1) * rows + 1 - self.first) // self.step), 0)
        end = min((count * rows - self.first) // self.step, self.length - 1)
        return max(end - begin + 1, 0)


@dataclass(frozen=True)
class Queries:
    """Queries on the same keys, ordered so that none attends to fewer keys than its predecessor.

    Attributes:
        first: keys of the first query.
        step: additional keys of each next position; 0 if all attend to the same number.
        positions: number of positions in the sequence.
        group: number of query heads; their queries at one position are consecutive.
        every: stride of a round-robin share of the queries: every `every`-th one, counted back from the last. The
            share includes a query of the first position.
    """

    first: int
    step: int
    positions: int
    group: int
    every: int = 1

    def __iter__(self) -> Iterator[int]:
        """Yield the number of keys of each query."""
        return map(self._keys_of, self._numbers)

    def __reversed__(self) -> Iterator[int]:
        """Yield the number of keys of each query, from the last to the first."""
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
        """Total number of keys of all queries."""
        return self.cycles(1)

    def cycles(self, rows: int, steps: int = 1, least: int = 1) -> int:
        """Return the sum over all queries of `max(steps * beats, least)`.

        Args:
            rows: keys in a beat.
            steps: cycles per beat.
            least: minimum cycles per query.
        """
        return sum(times * part.cycles(rows, steps, least) for part, times in self._progressions.items())

    def by_beats(self, rows: int) -> Iterator[tuple[int, int]]:
        """Yield pairs (number of beats, number of queries that take that many).

        Args:
            rows: keys in a beat.
        """
        for count in range(-(-self.first // rows), -(-self.last // rows) + 1):
            yield count, sum(times * part.of_beats(count, rows) for part, times in self._progressions.items())

    def of_engine(self, engines: int) -> Queries:
        """Return the queries of the busiest of `engines` engines that share these queries round-robin.

        The busiest engine has the last query: counted back from there, each of its queries attends to at least as many
        keys as the corresponding query of any other engine.
        """
        every = self.every * min(engines, len(self))
        before = replace(self, every=every)._numbers[0] // self.group  # first positions without a query of this engine
        return replace(self, first=self.first + self.step * before, positions=self.positions - before, every=every)

    @property
    def _numbers(self) -> range:
        """The indices of the selected queries among those of all positions and heads."""
        count = self.positions * self.group
        return range((count - 1) % self.every, count, self.every)

    def _keys_of(self, number: int) -> int:
        """Return the number of keys of a query by its index."""
        return self.first + self.step * (number // self.group)

    @cached_property
    def _progressions(self) -> Counter[Progression]:
        """The queries as progressions, each with its multiplicity.

        The heads of one engine's queries repeat after `group / gcd(group, every)` queries.
        """
        repeats = self.group // gcd(self.group, self.every)
        stride = self.every // gcd(self.group, self.every)
        return Counter(
            Progression(self.first + self.step * start, self.step * stride, -(-(self.positions - start) // stride))
            for start in (number // self.group for number in self._numbers[:repeats])
        )


def _sum(first: int, step: int, count: int, least: int) -> int:
    """Return the sum of `max(first + step * i, least)` for `i` from 0 to `count - 1`."""
    if step == 0:
        return count * max(first, least)
    below = min(max(-(-(least - first) // step), 0), count)
    rest = count - below
    return below * least + rest * (first + step * below) + step * rest * (rest - 1) // 2
