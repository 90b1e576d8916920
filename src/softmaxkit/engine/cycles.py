"""When an engine takes each query and gives its output, in cycles: the recurrence that its hardware keeps.

With `steps` cycles for a beat of `rows` keys, and queries that come and outputs that leave without a pause:

- A query takes up the QK array for `steps` cycles a beat. The next begins right behind it, but no sooner than the unit
  takes rows, `Engine.apart`; and, in an engine that is `ordered`, a query that attends to fewer keys than the one
  before begins once all before it have left.
- `DEPTH` cycles after its last step, a beat's scores reach the unit. A unit that holds rows gives its first result
  `waits` cycles after a row's last scores; any other gives each result `depth` cycles after its scores.
- The PV array takes up a result a cycle after it is offered, `steps` cycles for each, one row behind the other.
- The outputs of a query leave `DEPTH` cycles after the last `steps` steps of it.
- With the division last, what is said of rows and their results holds of slices and their weights, each of which is
  given `waits` cycles after its last scores; and outputs leave a cycle later.

Beats that wait for each other never hold up the unit: no result is offered more than two beats before it is taken up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from softmaxkit.blocks.stream import beats
from softmaxkit.engine.arrays import DEPTH
from softmaxkit.engine.engine import Engine
from softmaxkit.methods.base.unit import DeferredUnit, SoftmaxUnit


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
    if not isinstance(unit, DeferredUnit):
        _check_pace(unit)
    rows: list[Times] = []
    begun = free = before = refused = 0
    for keys in attended:
        if rows and engine.ordered and keys < before:
            begun, refused = max(begun, rows[-1].last + 1), 0
        count = sizes.beats(keys)
        # What the unit refuses of the query before holds up this one, which is in the QK array by then.
        held, refused = refused, unit.refuses(count * sizes.rows, steps)
        scored = begun + steps * count - 1 + DEPTH + held + refused
        behind = DEPTH
        if isinstance(unit, DeferredUnit):
            weighted, free = _by_slices(unit, steps, begun, count, free)
            behind += 1  # the product
        else:
            if unit.holds_rows:
                given = scored + unit.waits(count * sizes.rows, steps)
            else:
                given = scored - steps * (count - 1) + unit.latency(1)
            weighted = max(given + 1, free)
            free = weighted + steps * count
        first = free - steps + behind
        rows.append(Times(begun, scored, weighted, first, first + steps - 1))
        begun += max(steps * count + held, engine.apart)
        before = keys
    return rows


def _by_slices(unit: DeferredUnit, steps: int, begun: int, count: int, free: int) -> tuple[int, int]:
    """Return when the PV array begins with a row and when it is done, with the division last."""
    weighted = -1
    for done in range(0, count, unit.slice_beats):
        taken = min(unit.slice_beats, count - done)
        given = begun + steps * (done + taken) - 1 + DEPTH + unit.waits(taken)
        starts = max(given + 1, free)
        weighted = starts if weighted < 0 else weighted
        free = starts + steps * taken
    return weighted, free


def _check_pace(unit: SoftmaxUnit) -> None:
    """Refuse a unit whose cycles have no recurrence."""
    taken = beats(unit.max_row, unit.lanes)
    refused = unit.refuses(unit.max_row, 1)
    if unit.interval(unit.max_row) > max(taken + refused, unit.interval(1)):
        raise ValueError(
            f"the unit of {unit.spec.name} takes more than a cycle for some beats of a row; its engine runs, but its "
            "cycles have no recurrence"
        )


def loading(engine: Engine, keys: int) -> int:
    """Return the cycles from the last output before a load of so many keys and values to the first query behind it."""
    return 2 + engine.writes(keys)
