"""Proofs that engines obey the protocol of their streams; and that a proof notices one that does not."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module, Signal
from cases import BY_METHOD

from softmaxkit.engine.engine import Engine
from softmaxkit.engine.golden import Attention
from softmaxkit.engine.vectors import EngineAsUnit
from softmaxkit.flow.prove import prove
from softmaxkit.methods import METHODS

ELEMENT = next(method for method in BY_METHOD if METHODS[method].dataflow == "element")
DEFERRED = [
    method
    for method in BY_METHOD
    if METHODS[method]().divides_last and BY_METHOD[method].proof.spec.deferred_unit(1).pace == 1
]
"""Without engines that need two cycles per beat: their proof takes more than a quarter of an hour."""


def smallest(method: str, pipeline: str | None = None, channels: int = 1) -> Engine:
    """Return an engine of one row and one column, for two keys."""
    case = BY_METHOD[method].proof
    attention = Attention(case.spec, case.spec.constants(**case.numbers), channels, 1, 12, 4)
    depth = 2 if pipeline == "deferred" else case.depth
    return Engine(attention, rows=1, columns=1, max_keys=2, depth=depth, pipeline=pipeline)


def test_an_engine_obeys_the_protocol() -> None:
    proof = prove(EngineAsUnit(smallest(ELEMENT)), depth=15, busy=2, induction=0)
    assert proof.holds, str(proof)


@pytest.mark.slow
@pytest.mark.parametrize("method", [method for method in BY_METHOD if method != ELEMENT])
def test_engines_with_rows(method: str) -> None:
    proof = prove(EngineAsUnit(smallest(method)), depth=BY_METHOD[method].proof.two_rows + 14, busy=2, induction=0)
    assert proof.holds, str(proof)


@pytest.mark.slow
@pytest.mark.parametrize("method", DEFERRED)
def test_engines_with_the_division_last(method: str) -> None:
    proof = prove(EngineAsUnit(smallest(method, "deferred")), depth=24, busy=2, induction=0)
    assert proof.holds, str(proof)


class Broken(EngineAsUnit):
    """An engine with a protocol error at its outputs or its configuration port."""

    def __init__(self, engine: Engine, wrong: str) -> None:
        super().__init__(engine)
        self.wrong = wrong

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        results, port = self.results, self.configuration
        waited = Signal()
        m.d.sync += waited.eq(results.valid & ~results.ready)
        if self.wrong == "withdraws":
            m.d.comb += results.valid.eq(self.engine.outputs.valid & ~waited)
        if self.wrong == "waits":
            m.d.comb += results.valid.eq(self.engine.outputs.valid & results.ready)
        if self.wrong == "endless":
            m.d.comb += results.p.last.eq(0)
        if self.wrong == "loads inside":
            m.d.comb += port.ready.eq(1)
        return m


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "property_"),
    [("withdraws", "steady"), ("waits", "offered"), ("endless", "ordered"), ("loads inside", "apart")],
)
def test_a_proof_notices(wrong: str, property_: str) -> None:
    proof = prove(Broken(smallest(ELEMENT), wrong), depth=16, busy=2, induction=0)
    assert proof.verdicts[property_].outcome == "fails", str(proof)
