"""Cycles of one engine in closed form, from the recurrence that its hardware keeps."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from softmaxkit.blocks.stream import beats
from softmaxkit.engine.cycles import loading, times
from softmaxkit.simulation.queries import Queries

if TYPE_CHECKING:
    from softmaxkit.engine.engine import Engine


class Pace:
    """How fast an engine takes queries, and how long the last of them is inside.

    A query follows the one before it as soon as the QK array is free and the unit takes a further row. Where none
    attends to fewer keys than the one before it, none waits for the PV array: that works as long on a query as the QK
    array does. What the unit refuses of a query holds up the one behind it.

    Args:
        engine: the hardware.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @cached_property
    def steps(self) -> int:
        """Cycles of a beat of keys in either array."""
        return self.engine.sizes.steps

    def latency(self, keys: int) -> int:
        """Return the cycles from a query's first beat to its last output, in an empty engine.

        Each beat more takes as many cycles more: so rows that are longer than the engine is built for follow from those
        that are not.
        """
        sizes = self.engine.sizes
        built = min(keys, sizes.max_keys)
        latency = times(self.engine, [built])[-1].last + 1
        if keys == built:
            return latency
        more = latency - times(self.engine, [built - sizes.rows])[-1].last - 1
        return latency + more * (beats(keys, sizes.rows) - beats(built, sizes.rows))

    def load(self, keys: int) -> int:
        """Return the cycles from the last output before a load of so many keys and values to the first query."""
        built = min(keys, self.engine.sizes.max_keys)
        return loading(self.engine, built) + 2 * (self.words(keys) - self.words(built))

    def words(self, keys: int) -> int:
        """Return the words of a buffer that so many keys, or values, are."""
        return self.steps * beats(keys, self.engine.sizes.rows)

    def interval(self, keys: int) -> int:
        """Return the cycles between two queries that attend to so many keys."""
        return max(self.steps * beats(keys, self.engine.sizes.rows), self.engine.apart)

    def drain(self, keys: int) -> int:
        """Return the cycles that a query stays inside after the next one could begin."""
        return self.latency(keys) - self.interval(keys)

    def refused(self, keys: int) -> int:
        """Return the cycles for which the unit does not take the last scores of a query, behind which others wait."""
        rows = self.engine.sizes.rows
        return self.engine.unit.refuses(rows * beats(keys, rows), self.steps)

    def begins(self, queries: Queries) -> int:
        """Return the cycles from the first query to that which could follow the last."""
        rows = self.engine.sizes.rows
        held = sum(self.refused(rows * count) * number for count, number in queries.by_beats(rows))
        return queries.cycles(rows, self.steps, self.engine.apart) + held - self.refused(queries.last)

    def total(self, queries: Queries, jobs: int = 1) -> int:
        """Return the cycles of jobs of such queries, one after another, from the first beat in to the last beat out.

        A job may begin while the last queries of the one before it are inside, but in an engine into which none may go
        after a longer one.
        """
        drains = jobs if self.engine.ordered and queries.last > queries.first else 1
        held = (jobs - drains) * self.refused(queries.last)
        return jobs * self.begins(queries) + held + drains * self.drain(queries.last)

    def busy(self, queries: Queries) -> int:
        """Return the cycles in which each array works on queries."""
        return queries.cycles(self.engine.sizes.rows, self.steps, self.steps)
