"""Closed forms compared with the recurrence, and the chip's recurrence with the engine's."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from softmaxkit.engine.cycles import times
from softmaxkit.engine.engine import Engine
from softmaxkit.engine.golden import Attention
from softmaxkit.methods import METHODS
from softmaxkit.simulation.cycles import Pace
from softmaxkit.simulation.pipelines import pipelines_of
from softmaxkit.simulation.queries import Queries
from softmaxkit.simulation.timeline import timeline

pytestmark = pytest.mark.filterwarnings("ignore:.*created but never used")


SPECS = [method().for_hardware() for method in METHODS.values()]


def random_queries(random: random.Random) -> Queries:
    return Queries(random.randint(1, 40), random.choice([0, 1, 2]), random.randint(1, 60), random.randint(1, 3))


def engines(random: random.Random, count: int) -> Iterator[Engine]:
    for _ in range(count):
        spec = random.choice(SPECS)
        rows, columns, steps = (random.choice(sizes) for sizes in ([1, 2, 4, 8, 16], [1, 2, 4, 8], [1, 2, 4, 8]))
        pipeline = random.choice(pipelines_of(spec))
        if pipeline == "deferred":
            steps = max(steps, spec.deferred_unit(rows).pace)
        yield Engine(Attention.of(spec, columns * steps), rows, columns, 256, pipeline=pipeline)


def test_sums_over_queries_are_those_of_a_list() -> None:
    chosen = random.Random(0)
    for _ in range(500):
        queries, rows = random_queries(chosen), chosen.randint(1, 17)
        steps, least = chosen.randint(1, 8), chosen.randint(1, 30)
        listed = [*queries]
        assert queries.cycles(rows, steps, least) == sum(max(steps * -(-keys // rows), least) for keys in listed)
        assert (queries.keys, len(queries), queries.last) == (sum(listed), len(listed), listed[-1])
        by_beats = Counter(-(-keys // rows) for keys in listed)
        assert {count: number for count, number in queries.by_beats(rows) if number} == by_beats


def test_the_busiest_of_the_engines_that_share_a_head() -> None:
    chosen = random.Random(1)
    for _ in range(500):
        queries = Queries(
            chosen.randint(1, 9), chosen.choice([0, 1, 2]), chosen.randint(1, 40), chosen.choice([1, 2, 3, 4, 6, 12])
        )
        share, rows, steps = chosen.randint(1, 13), chosen.randint(1, 17), chosen.randint(1, 8)
        hands = [[*queries][engine::share] for engine in range(share)]

        def cycles(hand: list[int], rows: int = rows, steps: int = steps) -> int:
            return sum(max(steps * -(-keys // rows), 5) for keys in hand)

        own = queries.of_engine(share)
        assert [*own] in hands
        assert len(own) == len([*own]) == max(map(len, hands))
        assert (own.first, own.last) == (next(iter(own)), queries.last)
        assert own.keys == sum(own) == max(map(sum, hands)), (queries, share)
        assert own.cycles(rows, steps, 5) == cycles([*own]) == max(map(cycles, hands)), (queries, share)
        by_beats = Counter(-(-keys // rows) for keys in own)
        assert {count: number for count, number in own.by_beats(rows) if number} == by_beats


def test_closed_forms_equal_the_recurrence() -> None:
    chosen = random.Random(2)
    for engine in engines(chosen, 60):
        queries, jobs = random_queries(chosen), chosen.randint(1, 3)
        stepped = times(engine, [*queries] * jobs)[-1].last + 1
        assert Pace(engine).total(queries, jobs) == stepped, (engine.attention.spec, engine.sizes, queries, jobs)


def test_jobs_wait_where_a_unit_refuses_the_last_scores_of_a_row() -> None:
    softermax = METHODS["softermax"]().for_hardware()
    refused = set()
    for rows in (1, 4):
        pace = Pace(Engine(Attention.of(softermax, 32), rows, 8, 256))
        for keys in range(1, 50):
            queries = Queries(keys, 0, 3, 1)
            refused.add(pace.refused(keys))
            assert pace.total(queries, 3) == times(pace.engine, [*queries] * 3)[-1].last + 1, (rows, keys)
    assert len(refused) > 3


@pytest.mark.parametrize("queries", [Queries(1, 1, 100, 2), Queries(5, 3, 4, 1), Queries(40, 0, 1, 1)], ids=str)
def test_a_timeline_shows_the_last_queries_of_jobs(queries: Queries) -> None:
    engine = Engine(Attention.of(METHODS["softermax"]().for_hardware(), 32), 4, 8, 128)
    rows = ([*queries] * 6)[-6:]
    shown = timeline(engine, queries)
    assert [(row["query"], row["keys"]) for row in shown] == [*enumerate(rows)]
    for row, stepped in zip(shown, times(engine, rows), strict=True):
        works = 4 * -(-row["keys"] // 4)  # 32 channels in 8 columns: 4 cycles for 4 keys
        assert row["qk"] == (stepped.begun, stepped.begun + works)
        assert row["unit"] == (stepped.begun + 4, stepped.weighted)
        assert row["pv"] == (stepped.weighted, stepped.weighted + works)
    assert timeline(engine, Queries(129, 0, 1, 1)) == []


def test_rows_longer_than_the_engine_follow_from_its_own() -> None:
    chosen = random.Random(3)
    for spec, pipeline in [(method, pipeline) for method in SPECS for pipeline in pipelines_of(method)]:
        attention = Attention.of(spec, 16)
        short, long = (Pace(Engine(attention, 8, 8, keys, pipeline=pipeline)) for keys in (512, 2048))
        for keys in (600, 1024, chosen.randint(513, 2048)):
            assert short.latency(keys) == long.latency(keys)
            assert short.interval(keys) == long.interval(keys)
            assert short.load(keys) == long.load(keys)


def test_the_parts_of_a_queries_time_add_up() -> None:
    engine = Engine(Attention.of(METHODS["softermax"](), 64), 16, 16, 1024)
    pace, queries = Pace(engine), Queries(1, 1, 100, 2)
    waiting = pace.begins(queries) - pace.busy(queries)
    assert waiting == 0
    assert pace.total(queries) == pace.busy(queries) + waiting + pace.drain(queries.last)
