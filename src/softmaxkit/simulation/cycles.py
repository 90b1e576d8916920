"""Cycles of one engine in closed form, derived from the recurrence that its hardware obeys."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from softmaxkit.blocks.stream import beats
from softmaxkit.engine.cycles import loading, times
from softmaxkit.simulation.queries import Queries

if TYPE_CHECKING:
    from softmaxkit.engine.engine import Engine


class Pace:
    """How fast an engine accepts queries, and how long the last one takes to drain.

    A query starts as soon as the QK array is free and the unit accepts another row. If no query attends to fewer keys
    than its predecessor, none waits for the PV array, which works as long on a query as the QK array does.
    Backpressure from the unit on one query delays the next.

    Args:
        engine: the hardware.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._begins: dict[Queries, int] = {}  # of long prompts, each takes a second

    @cached_property
    def steps(self) -> int:
        """Cycles per beat of keys, in either array."""
        return self.engine.sizes.steps

    def latency(self, keys: int) -> int:
        """Return the cycles from a query's first beat to its last output, in an empty engine.

        Rows longer than the engine is built for are extrapolated: every further beat takes the same number of cycles.
        """
        sizes = self.engine.sizes
        built = min(keys, sizes.max_keys)
        latency = times(self.engine, [built])[-1].last + 1
        if keys == built:
            return latency
        per_beat = latency - times(self.engine, [built - sizes.rows])[-1].last - 1
        return latency + per_beat * (beats(keys, sizes.rows) - beats(built, sizes.rows))

    def load(self, keys: int) -> int:
        """Return the cycles to load `keys` keys and values, from the last output before to the first query after."""
        built = min(keys, self.engine.sizes.max_keys)
        return loading(self.engine, built) + 2 * (self.words(keys) - self.words(built))

    def words(self, keys: int) -> int:
        """Return the number of buffer words that `keys` keys, or values, occupy."""
        return self.steps * beats(keys, self.engine.sizes.rows)

    def interval(self, keys: int) -> int:
        """Return the cycles between the starts of two queries that attend to `keys` keys each."""
        return max(self.steps * beats(keys, self.engine.sizes.rows), self.engine.query_interval)

    def drain(self, keys: int) -> int:
        """Return the cycles for which a query stays in the engine after the next one could start."""
        return self.latency(keys) - self.interval(keys)

    def refused(self, keys: int) -> int:
        """Return the cycles for which the unit stalls the last scores of a query, and with them the next query."""
        rows = self.engine.sizes.rows
        return self.engine.unit.refused_cycles(rows * beats(keys, rows), self.steps)

    def begins(self, queries: Queries) -> int:
        """Return the cycles from the start of the first query to when one could start after the last."""
        if queries not in self._begins:
            rows = self.engine.sizes.rows
            stalled = sum(self.refused(rows * count) * number for count, number in queries.by_beats(rows))
            whole = queries.cycles(rows, self.steps, self.engine.query_interval) + stalled
            self._begins[queries] = whole - self.refused(queries.last)
        return self._begins[queries]

    def total(self, queries: Queries, jobs: int = 1) -> int:
        """Return the cycles of `jobs` consecutive jobs of these queries, from the first beat in to the last beat out.

        A job may start while the last queries of the previous one are still in the engine, unless the engine requires
        rows of increasing length.
        """
        drains = jobs if self.engine.drains_before_shorter_rows and queries.last > queries.first else 1
        stalled = (jobs - drains) * self.refused(queries.last)
        return jobs * self.begins(queries) + stalled + drains * self.drain(queries.last)

    def busy(self, queries: Queries) -> int:
        """Return the cycles for which each array is busy with the queries."""
        return queries.cycles(self.engine.sizes.rows, self.steps, self.steps)
