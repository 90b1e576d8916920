"""What an engine does with the last queries of a job, stage by stage, for a picture."""

from __future__ import annotations

from itertools import islice
from typing import Any

from softmaxkit.engine.cycles import times
from softmaxkit.engine.engine import Engine
from softmaxkit.simulation.queries import Queries

SHOWN = 6
"""Queries in a picture."""


def timeline(engine: Engine, queries: Queries) -> list[dict[str, Any]]:
    """Return when each stage works on the last queries of a job, or of several where one has few.

    Returns:
        dicts of `query`, `keys`, and the cycles from which and to which the QK array (`qk`), the unit (`unit`: until
        the first weights leave) and the PV array (`pv`) work; empty where the keys are more than the engine is built
        for.
    """
    if queries.last > engine.sizes.max_keys:
        return []
    jobs = -(-SHOWN // len(queries))
    attended = list(islice((keys for _ in range(jobs) for keys in reversed(queries)), SHOWN))[::-1]
    shown = []
    for number, (keys, each) in enumerate(zip(attended, times(engine, attended), strict=True)):
        works = engine.sizes.steps * engine.sizes.beats(keys)
        stages = {
            "qk": (each.begun, each.begun + works),
            "unit": (each.begun + engine.sizes.steps, each.weighted),
            "pv": (each.weighted, each.weighted + works),
        }
        shown.append({"query": number, "keys": keys, **stages})
    return shown
