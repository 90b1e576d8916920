"""Engines against golden attention and the recurrence of their cycles; wrong outputs and cycles are noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Signal
from cases import BY_METHOD

from softmaxkit import Exact, Softermax
from softmaxkit.engine import verify
from softmaxkit.engine.arrays import code_at
from softmaxkit.engine.cycles import Times, times
from softmaxkit.engine.engine import Engine
from softmaxkit.engine.golden import Attention
from softmaxkit.engine.vectors import EngineAsUnit, engine_stream, random_head
from softmaxkit.engine.verify import verify_engine, wrong_cycles
from softmaxkit.flow.amaranth_simulator import Simulated
from softmaxkit.flow.faults import Fault
from softmaxkit.flow.outcome import Traffic
from softmaxkit.flow.simulate import can_verilate
from softmaxkit.formats import Float
from softmaxkit.methods import METHODS
from softmaxkit.methods.base.spec import Spec

verilator = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")

DEFERRED = [method for method in BY_METHOD if METHODS[method]().divides_last]
ELEMENT = next(method for method in BY_METHOD if METHODS[method].dataflow == "element")


def engine_of(spec: Spec, channels: int = 8, **sizes: Any) -> Engine:
    return Engine(Attention.of(spec, channels), **({"rows": 2, "columns": 4, "max_keys": 19} | sizes))


def test_a_code_is_one_slice_of_a_word() -> None:
    """Amaranth copies what a slice is taken from: a slice up to the word's end took the square of its length."""
    word = Signal(64)
    (slice_,) = code_at(word, 3).operands
    assert slice_.value is word
    assert (slice_.start, slice_.stop) == (24, 32)


@verilator
@pytest.mark.parametrize(("method", "pipeline"), [(ELEMENT, "element"), *((method, "deferred") for method in DEFERRED)])
def test_small_engines(method: str, pipeline: str) -> None:
    engine = engine_of(METHODS[method](), channels=4, columns=2, pipeline=pipeline)
    result = verify_engine(engine, outputs=3000)
    assert (result.faults, result.mismatches) == ([], 0)
    assert result.compared >= 3000
    assert engine.pipeline == pipeline


@verilator
@pytest.mark.parametrize(
    ("spec", "sizes", "depths"),
    [
        (METHODS[ELEMENT](), {"rows": 9, "columns": 9, "channels": 9}, (5, 5)),
        (Softermax(), {"rows": 16, "columns": 2, "channels": 4, "pipeline": "deferred"}, (4, 5)),
        (Exact(), {"columns": 2, "channels": 4}, (5, 4)),
        pytest.param(
            Exact(),
            {"rows": 16, "columns": 2, "channels": 4, "pipeline": "deferred"},
            (5, 5),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["element", "Softermax, deferred", "Exact, token", "Exact, deferred"],
)
def test_arrays_with_additional_stages(spec: Spec, sizes: dict[str, Any], depths: tuple[int, int]) -> None:
    """More than 8 products are too many to sum in one cycle, as is scaling a score and making a float of it."""
    engine = engine_of(spec, **sizes)
    assert (engine.query_key.depth, engine.value.depth) == depths
    result = verify_engine(engine, outputs=3000)
    assert (result.faults, result.mismatches) == ([], 0)


@pytest.mark.slow
@verilator
@pytest.mark.parametrize(
    "sizes",
    [
        {"rows": 4, "columns": 8, "channels": 16, "max_keys": 40},
        {"rows": 1, "columns": 3, "channels": 3, "max_keys": 7},
        {"rows": 8, "columns": 4, "channels": 20, "max_keys": 64, "storage": "memory"},
        {"rows": 16, "columns": 2, "channels": 2, "max_keys": 100},
        {"rows": 4, "columns": 8, "channels": 8, "max_keys": 33, "loadable": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str, sizes: dict[str, Any]) -> None:
    spec = METHODS[method]()
    if sizes.get("loadable") and spec.unit().registers is None:
        pytest.skip("no constants to load")
    result = verify_engine(engine_of(spec, **sizes), outputs=20_000)
    assert (result.faults, result.mismatches) == ([], 0)
    assert result.compared >= 20_000


@pytest.mark.slow
@verilator
@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        (Softermax(), {"rows": 4, "columns": 8, "channels": 16, "max_keys": 70}),
        (Softermax(), {"rows": 1, "columns": 4, "channels": 4, "max_keys": 40}),
        (Softermax(), {"rows": 16, "columns": 4, "channels": 4, "max_keys": 100, "storage": "memory"}),
        (Softermax(rounding="floor", slice_width=4), {"rows": 2, "columns": 4, "channels": 12, "max_keys": 50}),
        (Softermax(integer_maximum="floor", power_segments=2), {"rows": 8, "columns": 8, "channels": 8}),
        (Exact(), {"rows": 4, "columns": 8, "channels": 16, "max_keys": 70}),
        (Exact(), {"rows": 16, "columns": 2, "channels": 6, "max_keys": 100, "storage": "memory"}),
        (Exact(format=Float(5, 5), schedule="online", slice_width=4), {"rows": 4, "columns": 4, "channels": 8}),
        (Exact(taylor_degree=3, exponential_segments=2), {"rows": 1, "columns": 4, "channels": 12, "max_keys": 40}),
    ],
    ids=str,
)
def test_division_last(spec: Spec, sizes: dict[str, Any]) -> None:
    result = verify_engine(engine_of(spec, pipeline="deferred", **sizes), outputs=20_000)
    assert (result.faults, result.mismatches) == ([], 0)


def test_a_unit_that_pauses_within_rows_has_no_recurrence() -> None:
    engine = engine_of(METHODS["exact"](schedule="online"), max_keys=64)
    with pytest.raises(ValueError, match="its cycles have no recurrence"):
        times(engine, [64])


def test_cycles_by_hand() -> None:
    """Three queries of 1, 2 and 2 beats of two steps each, with a unit of `depth` cycles."""
    engine = engine_of(METHODS[ELEMENT]())
    first = 1 + 4 + engine.unit.depth + 1
    assert times(engine, [1, 3, 4]) == [
        Times(0, 1 + 4, first, first + 4, first + 5),
        Times(2, 5 + 4, first + 2, first + 8, first + 9),
        Times(6, 9 + 4, first + 6, first + 12, first + 13),
    ]
    wide = engine_of(METHODS[ELEMENT](), channels=20, columns=10)  # sums of 10 products take another stage
    assert times(wide, [1]) == [Times(0, 1 + 5, first + 1, first + 1 + 4, first + 1 + 4 + 1)]


def test_amaranths_simulator_agrees() -> None:
    engine = engine_of(METHODS[ELEMENT](), channels=4)
    head = random_head(engine, np.asarray([0, 1, 5, 9]), np.random.default_rng(0))
    run = engine_stream(engine, [head, head])
    outcome = Simulated(EngineAsUnit(engine)).run(run, Traffic(), cycles=True)
    assert outcome.faults(run) == []
    assert wrong_cycles(engine, [head, head], outcome) == []


@pytest.mark.slow
@verilator
def test_a_fault_is_noticed() -> None:
    broken = verify_engine(engine_of(METHODS[ELEMENT]()), outputs=3000, fault=Fault(2))
    assert broken.mismatches
    assert "expected" in str(broken.wrong[0])


@verilator
def test_wrong_outputs_and_cycles_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(METHODS[ELEMENT]())
    golden = Engine.golden
    monkeypatch.setattr(Engine, "golden", lambda self, *of: golden(self, *of) ^ (of[3] == 7)[:, None])
    result = verify_engine(engine, outputs=3000)
    assert result.mismatches
    assert abs(result.wrong[0].expected - result.wrong[0].got) == 1
    monkeypatch.setattr(Engine, "golden", golden)
    monkeypatch.setattr(engine.value, "depth", engine.value.depth + 1)
    late = verify_engine(engine, outputs=3000)
    assert late.mismatches == 0
    assert "output beat 0 came in cycle" in late.faults[0]


def test_a_run_of_nothing_does_not_pass() -> None:
    assert not verify.Verification().passed


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"columns": 3}, "columns of an engine divide its 8 channels, not 3"),
        ({"rows": 0}, "rows of an engine is a whole number from 1 to 256, not 0"),
        ({"max_keys": 1 << 17}, "max_keys of an engine is a whole number from 1 to 65536"),
        ({"pipeline": "token"}, "has the pipeline 'element', not 'token'"),
        ({"pipeline": "serial"}, "pipeline is token, element, deferred, or left out"),
        ({"pipeline": "deferred"}, "no hardware that divides after the weighted sum"),
        ({"storage": "latches"}, "storage is 'flip-flops' or 'memory'"),
    ],
    ids=str,
)
def test_refuses(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine_of(METHODS[ELEMENT](), **sizes)


def test_refuses_units_that_cannot_divide_last() -> None:
    with pytest.raises(ValueError, match="lanes must divide a slice of 16 positions, got 3"):
        engine_of(Softermax(), rows=3, pipeline="deferred")
    with pytest.raises(ValueError, match='requires maximum="online"'):
        engine_of(Softermax(maximum="global"), pipeline="deferred")
    with pytest.raises(ValueError, match="lanes must divide a slice of 16 positions, got 3"):
        engine_of(Exact(), rows=3, pipeline="deferred")
    with pytest.raises(ValueError, match="a beat every 2 cycles, so columns are at most 4 of 8 channels, not 8"):
        engine_of(Exact(), columns=8, pipeline="deferred")
    with pytest.raises(ValueError, match="no constants to load"):
        engine_of(Softermax(), loadable=True)
