"""A timeline of an engine's stages over the last queries of a job, for a chart."""

from __future__ import annotations

from itertools import islice
from typing import Any

from softmaxkit.engine.cycles import times
from softmaxkit.engine.engine import Engine
from softmaxkit.simulation.queries import Queries

SHOWN = 6
"""Number of queries in the chart."""


def timeline(engine: Engine, queries: Queries) -> list[dict[str, Any]]:
    """Return when each stage works on the last queries of a job, or of several jobs if one has too few.

    Returns:
        Dicts of `query`, `keys`, and the (start, end) cycles of the QK array (`qk`), the unit (`unit`: until the first
        weights leave) and the PV array (`pv`); empty if there are more keys than the engine is built for.
    """
    if queries.last > engine.sizes.max_keys:
        return []
    jobs = -(-SHOWN // len(queries))
    attended = list(islice((keys for _ in range(jobs) for keys in reversed(queries)), SHOWN))[::-1]
    shown = []
    for number, (keys, query_times) in enumerate(zip(attended, times(engine, attended), strict=True)):
        works = engine.sizes.steps * engine.sizes.beats(keys)
        stages = {
            "qk": (query_times.begun, query_times.begun + works),
            "unit": (query_times.begun + engine.sizes.steps, query_times.weighted),
            "pv": (query_times.weighted, query_times.weighted + works),
        }
        shown.append({"query": number, "keys": keys, **stages})
    return shown
