"""An engine's cycles by `simulate`, compared with cycles counted in its hardware."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from softmaxkit.engine.engine import Engine
from softmaxkit.engine.golden import Attention
from softmaxkit.engine.vectors import EngineAsUnit, Head, engine_stream, random_head
from softmaxkit.flow.outcome import Traffic
from softmaxkit.flow.simulate import Verilated, can_verilate
from softmaxkit.methods import METHODS
from softmaxkit.methods.base.forms import has_constants
from softmaxkit.simulation.cycles import Pace
from softmaxkit.simulation.pipelines import pipelines_of
from softmaxkit.simulation.queries import Queries

pytestmark = [
    pytest.mark.skipif(not can_verilate(), reason="Verilator is not installed"),
    pytest.mark.filterwarnings("ignore:.*created but never used"),
]

SPECS = [method().for_hardware() for method in METHODS.values()]
KINDS = [(spec, pipeline) for spec in SPECS for pipeline in pipelines_of(spec)]
COUNT = 8 * len(KINDS)
"""Number of random configurations, equally many for every method and pipeline."""
QUICK = next(at for at, (spec, _) in enumerate(KINDS) if spec.method == "softermax")
"""A small engine of a method whose unit refuses scores."""


def configuration(number: int) -> tuple[Engine, Queries]:
    """Return a random engine, and the queries of a prompt, for a group of heads or a single one."""
    chosen = random.Random(number)
    spec, pipeline = KINDS[number % len(KINDS)]
    rows, columns, steps = (chosen.choice(sizes) for sizes in ([2, 4, 8], [1, 2, 4], [1, 2, 3, 4]))
    if pipeline == "deferred":
        steps = max(steps, spec.deferred_unit(rows).pace)
    loadable = has_constants(spec) and chosen.random() < 0.3
    attention = Attention.of(spec, columns * steps)
    engine = Engine(attention, rows, columns, 64, loadable=loadable, pipeline=pipeline)
    first, step = chosen.choice([(1, 1), (chosen.randint(1, 30), 0), (chosen.randint(1, 30), 1)])
    positions = 1 if not step else chosen.randint(2, 20)
    return engine, Queries(first, step, positions, chosen.randint(1, 3))


def counted(engine: Engine, heads: list[Head]) -> list[tuple[int, int]]:
    """Return the cycles in which each head's first beat was accepted and its last output was produced."""
    stream = engine_stream(engine, heads)
    outcome = Verilated(EngineAsUnit(engine), fast=False).run(stream, Traffic(), cycles=True)
    assert not outcome.faults(stream)
    assert outcome.compared
    beats = np.cumsum([0, *(len(head.queries) * engine.sizes.steps for head in heads)])
    taken, given = outcome.taken_at, outcome.given_at
    assert taken is not None
    assert given is not None
    return [(int(taken[start]), int(given[end - 1])) for start, end in pairwise(beats)]


def check(number: int) -> None:
    engine, queries = configuration(number)
    pace, generator = Pace(engine), np.random.default_rng(number)
    heads = [random_head(engine, np.asarray([*queries]), generator) for _ in range(2)]
    spans = counted(engine, heads)
    about = (engine.attention.spec.name, engine.sizes, queries)
    assert [end - begin + 1 for begin, end in spans] == [pace.total(queries)] * 2, about
    # The second head is loaded once the first has left.
    assert spans[1][0] - spans[0][1] == pace.load(queries.last), about


@pytest.mark.parametrize("number", [QUICK])
def test_counted_cycles(number: int) -> None:
    check(number)


@pytest.mark.slow
@pytest.mark.parametrize("number", [number for number in range(COUNT) if number != QUICK])
def test_counted_cycles_of_many(number: int) -> None:
    check(number)
