"""When an engine takes each query and gives its output, in cycles: the recurrence that its hardware keeps.

With `steps` cycles for a beat of `rows` keys, and queries that come and outputs that leave without a pause:

- A query takes up the QK array for `steps` cycles a beat. The next begins right behind it, but no sooner than the unit
  takes rows, `Engine.apart`; and, where the unit holds rows, a query that attends to fewer keys than the one before
  begins once all before it have left.
- `DEPTH` cycles after its last step, a beat's scores reach the unit. A unit that holds rows gives its first result
  `waits` cycles after a row's last scores; any other gives each result `depth` cycles after its scores.
- The PV array takes up a result a cycle after it is offered, `steps` cycles for each, one row behind the other.
- The outputs of a query leave `DEPTH` cycles after the last `steps` steps of it.

Beats that wait for each other never hold up the unit: no result is offered more than two beats before it is taken up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from softmaxkit.blocks.stream import beats
from softmaxkit.engine.arrays import DEPTH
from softmaxkit.engine.engine import Engine


class Times(NamedTuple):
    """The cycles of one query; the first query's first beat is taken in cycle 0.

    Attributes:
        begun: its first beat is taken, and the QK array begins with it.
        scored: the unit takes its last scores.
        weighted: the PV array begins with its first weights.
        first: its first output beat is offered.
        last: its last output beat is.
    """

    begun: int
    scored: int
    weighted: int
    first: int
    last: int


def times(engine: Engine, attended: Sequence[int]) -> list[Times]:
    """Return the cycles of queries on the keys of one load.

    Args:
        engine: whose hardware this is.
        attended: how many keys each query attends to.

    Raises:
        ValueError: the unit takes cycles of its own inside a row, so that they do not follow from these rules.
    """
    unit, sizes, steps = engine.unit, engine.sizes, engine.sizes.steps
    longest = sizes.max_keys
    if unit.interval(longest) > max(beats(longest, sizes.rows), unit.interval(1)):
        raise ValueError(
            f"the unit of {unit.spec.name} takes more than a cycle for some beats of a row; its engine runs, but its "
            "cycles have no recurrence"
        )
    rows: list[Times] = []
    begun = free = before = 0
    for keys in attended:
        if rows and unit.holds_rows and keys < before:
            begun = max(begun, rows[-1].last + 1)
        count = sizes.beats(keys)
        scored = begun + steps * count - 1 + DEPTH
        if unit.holds_rows:
            given = scored + unit.waits(count * sizes.rows, steps)
        else:
            given = scored - steps * (count - 1) + unit.latency(1)
        weighted = max(given + 1, free)
        free = weighted + steps * count
        first = free - steps + DEPTH
        rows.append(Times(begun, scored, weighted, first, first + steps - 1))
        begun += max(steps * count, engine.apart)
        before = keys
    return rows


def loading(engine: Engine, keys: int) -> int:
    """Return the cycles from the last output before a load of so many keys and values to the first query behind it."""
    return 2 + engine.writes(keys)
