"""The cycles in which an engine accepts queries and delivers outputs: a recurrence that the hardware matches exactly.

A beat of `rows` keys takes `steps` cycles. Without gaps at the input and stalls at the output:

- A query occupies the QK array for `steps` cycles per beat. The next query follows immediately, but begins at least
  `apart` cycles after the previous one, the rate at which the unit accepts rows. If the engine drains before shorter
  rows, a query that attends to fewer keys than the previous one begins only after all earlier outputs have left.
- The scores of a beat reach the unit `score_depth` cycles after its last step. A unit that buffers rows offers its
  first result `waits` cycles after the last scores of the row; any other unit offers each result `depth` cycles after
  its scores.
- The PV array begins with a beat of results in the cycle after it is offered and works on it for `steps` cycles, one
  row after another.
- The outputs of a query leave `output_depth` cycles after the `steps` steps of its last beat.
- If the division comes last, slices and their weights take the place of rows and their results: the weights of a slice
  are offered `waits` cycles after its last scores, and outputs leave one cycle later.

The PV array never stalls the unit: no more than two beats of results wait for it at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from softmaxkit.blocks.stream import beats
from softmaxkit.engine.engine import Engine
from softmaxkit.methods.base.deferred_unit import DeferredUnit
from softmaxkit.methods.base.unit import SoftmaxUnit


class Times(NamedTuple):
    """The cycles of one query, counted from the cycle in which the first query's first beat is accepted.

    Attributes:
        begun: its first beat is accepted, and the QK array begins with it.
        scored: the unit accepts its last scores.
        weighted: the PV array begins with its first weights.
        first: its first output beat is offered.
        last: its last output beat is offered.
    """

    begun: int
    scored: int
    weighted: int
    first: int
    last: int


def times(engine: Engine, attended: Sequence[int]) -> list[Times]:
    """Return the cycles of consecutive queries on the same keys.

    Args:
        engine: baked or loadable.
        attended: number of keys that each query attends to.

    Raises:
        ValueError: the unit needs more than one cycle for some beats of a row, so the recurrence does not apply.
    """
    unit, sizes, steps = engine.unit, engine.sizes, engine.sizes.steps
    score_depth, output_depth = engine.query_key.depth, engine.value.depth
    if not isinstance(unit, DeferredUnit):
        _check_pace(unit)
    rows: list[Times] = []
    begun = free = before = refused = 0
    for keys in attended:
        if rows and engine.drains_before_shorter_rows and keys < before:
            begun, refused = max(begun, rows[-1].last + 1), 0
        count = sizes.beats(keys)
        # If the unit refuses scores of the previous query, this one is delayed, since it is in the QK array by then.
        held, refused = refused, unit.refused_cycles(count * sizes.rows, steps)
        scored = begun + steps * count - 1 + score_depth + held + refused
        behind = output_depth
        if isinstance(unit, DeferredUnit):
            weighted, free = _by_slices(unit, steps, begun + score_depth, count, free)
            behind += 1  # the product
        else:
            if unit.holds_rows:
                offered = scored + unit.delay(count * sizes.rows, steps)
            else:
                offered = scored - steps * (count - 1) + unit.latency(1)
            weighted = max(offered + 1, free)
            free = weighted + steps * count
        first = free - steps + behind
        rows.append(Times(begun, scored, weighted, first, first + steps - 1))
        begun += max(steps * count + held, engine.query_interval)
        before = keys
    return rows


def _by_slices(unit: DeferredUnit, steps: int, arrives: int, count: int, free: int) -> tuple[int, int]:
    """Return the cycle in which the PV array begins with a row and the one in which it is free again.

    `arrives` is the cycle in which scores that took no steps would reach the unit.
    """
    weighted = -1
    for done in range(0, count, unit.slice_beats):
        taken = min(unit.slice_beats, count - done)
        offered = arrives + steps * (done + taken) - 1 + unit.delay(taken)
        starts = max(offered + 1, free)
        weighted = starts if weighted < 0 else weighted
        free = starts + steps * taken
    return weighted, free


def _check_pace(unit: SoftmaxUnit) -> None:
    """Refuse a unit to which the recurrence does not apply."""
    taken = beats(unit.max_row, unit.lanes)
    refused = unit.refused_cycles(unit.max_row, 1)
    if unit.interval(unit.max_row) > max(taken + refused, unit.interval(1)):
        raise ValueError(
            f"the unit of {unit.spec.name} needs more than one cycle for some beats of a row; its engine runs, but "
            "its cycles have no recurrence"
        )


def loading(engine: Engine, keys: int) -> int:
    """Return the cycles from the last output before a load of `keys` keys and values to the first query after it."""
    return 2 + engine.writes(keys)
