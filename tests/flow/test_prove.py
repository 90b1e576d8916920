"""Proofs that units satisfy the protocol, and that a proof detects units that do not."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import fifo
from cases import BY_METHOD
from unit_checks import depths

from softmaxkit import UQ, ConSmax, Exaq, Q, flow
from softmaxkit.blocks.stream import beats
from softmaxkit.flow.prove import PROPERTIES, Proof, prove
from softmaxkit.methods.base.unit import SoftmaxUnit

PROOFS = {method: cases.proof for method, cases in BY_METHOD.items()}
FOR_EVER = [method for method, case in PROOFS.items() if not case.two_rows]
BUFFERED = [method for method, case in PROOFS.items() if case.two_rows]
LOADABLE = next(method for method, case in PROOFS.items() if case.numbers)


def small_unit(method: str, loadable: bool = False, **sizes: Any) -> SoftmaxUnit:
    spec, numbers, depth, _ = PROOFS[method]
    constants = None if loadable else spec.constants(**numbers)
    return spec.unit(lanes=1, constants=constants, **({"max_row": 2, "depth": depth} | sizes))


def outcomes(proof: Proof) -> dict[str, str]:
    return {name: verdict.outcome for name, verdict in proof.verdicts.items()}


WHOLE = list(itertools.product(FOR_EVER, (0, 1), (False, True)))
QUICK = [(FOR_EVER[0], 0, True)]
"""The fast tests prove another method, with constants baked in, in a shell."""


@pytest.mark.parametrize(
    ("method", "place", "loadable"),
    [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in WHOLE],
)
def test_units_that_are_proved_for_all_time(method: str, place: int, loadable: bool) -> None:
    depth = depths(PROOFS[method].spec, lanes=1, max_row=3)[place]
    proof = prove(small_unit(method, loadable, max_row=3, depth=depth), depth=12)
    assert proof.holds, str(proof)
    assert set(outcomes(proof).values()) == {"proved"}
    assert "proved by induction: an offered result" in str(proof)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=[] if name == "softermax" else pytest.mark.slow)  # below, another one
        for name in BUFFERED
    ],
)
def test_units_with_buffers(method: str) -> None:
    # Enough cycles for two gaps or stalls.
    proof = prove(small_unit(method), depth=PROOFS[method].two_rows + 2, busy=6, induction=0)
    assert proof.holds, str(proof)


@pytest.mark.parametrize(
    ("method", "depth", "busy"),
    [(BUFFERED[0], 20, 12), *(pytest.param(method, 25, 16, marks=pytest.mark.slow) for method in BUFFERED)],
)
def test_full_buffers(method: str, depth: int, busy: int) -> None:
    proof = prove(small_unit(method), depth=depth, busy=busy, induction=0, full=True)
    assert proof.holds, str(proof)
    assert proof.witnesses["full"] is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "more"),
    [({}, 7), ({"storage": "memory"}, 6), ({"max_row": 3}, 6), ({"depth": 6}, 6), ({"loadable": True}, 4)],
    ids=str,
)
@pytest.mark.parametrize("method", BUFFERED)
def test_units_with_buffers_for_more_cycles(method: str, sizes: dict[str, Any], more: int) -> None:
    unit = small_unit(method, **sizes)
    if "loadable" in sizes and unit.registers is None:
        pytest.skip("a unit without constants")
    proof = prove(unit, depth=PROOFS[method].two_rows + more, busy=9, induction=1)
    assert proof.holds, str(proof)
    assert proof.verdicts["steady"].outcome == "proved"


@pytest.mark.slow
def test_serial_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow.prove, "PLACES", 80)  # levels wait longer, so more beats are inside
    one_bit = UQ(1, 1)
    spec = Exaq(scores=Q(3, 1), exponential=one_bit, reciprocal=one_bit, reciprocal_segments=1, output=one_bit)
    unit = spec.unit(lanes=1, constants=spec.constants(clip=-2.0), max_row=31, depth=5)
    assert unit.passes is not None
    proof = prove(unit, depth=40, busy=4, induction=5)  # the first row comes out
    assert "fails" not in outcomes(proof).values(), str(proof)
    assert proof.verdicts["steady"].outcome == "proved"


class Plain(SoftmaxUnit):
    """Two registers of one beat each that forward scores, with optional faults."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        super().__init__(ConSmax(), 1, None, 3, "flip-flops")

    @property
    def result_bits(self) -> int:
        return 8

    def latency(self, length: int) -> int:
        return beats(length, self.lanes) + 1

    def interval(self, length: int) -> int:
        return beats(length, self.lanes)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        scores, results, fault = self.scores, self.results, self.fault
        code = Mux(scores.p.mask | (fault == "unmasked"), scores.p.codes[0], 0)[:8]
        first, first_valid = Signal(9), Signal(reset_less=fault == "keeps")
        advance = ~results.valid | results.ready
        stopped, again = Signal(), Signal()
        if fault == "stops":
            with m.If(scores.valid & ~advance):
                m.d.sync += stopped.eq(1)
        ready: Value = Const(1) if fault == "drops" else (advance | ~first_valid) & ~stopped
        with m.If(advance):
            m.d.sync += [results.valid.eq(first_valid), first_valid.eq(0), Value.cast(results.payload).eq(first)]
        if fault == "doubles":
            with m.If(results.valid & results.ready & ~first_valid & ~again):
                m.d.sync += [results.valid.eq(1), again.eq(1)]
        if fault == "changes":
            with m.If(~advance & first_valid):
                m.d.sync += Value.cast(results.payload).eq(first)
        if fault == "withdraws":
            with m.If(~advance & ~first_valid):
                m.d.sync += results.valid.eq(0)
        with m.If(scores.valid & ready):
            m.d.sync += [first_valid.eq(1), first.eq(Cat(code, scores.p.last & (fault != "endless")))]
        m.d.comb += scores.ready.eq(ready)
        return m


def test_a_correct_unit_is_proved() -> None:
    proof = prove(Plain(), depth=10)
    assert proof.holds, str(proof)
    assert outcomes(proof) == dict.fromkeys(PROPERTIES, "proved")


@pytest.mark.parametrize(
    ("fault", "broken"),
    [
        ("changes", "steady"),
        ("endless", "ordered"),
        ("unmasked", "masked"),
        *(  # the fast tests break the other properties in shells
            pytest.param(fault, broken, marks=pytest.mark.slow)
            for broken, faults in {
                "steady": ("withdraws",),
                "counted": ("keeps", "doubles"),
                "drained": ("drops", "stops"),
            }.items()
            for fault in faults
        ),
    ],
)
def test_a_fault_is_detected(fault: str, broken: str) -> None:
    proof = prove(Plain(fault), depth=6, induction=0)
    verdict = proof.verdicts[broken]
    assert not proof.holds
    assert verdict.outcome == "fails", str(proof)
    assert f"fails in cycle {verdict.cycles}" in str(proof)
    # The replayed counterexample ends in the cycle that violates the property.
    lines = verdict.trace.splitlines()
    assert len(lines) == verdict.cycles + 1
    assert lines[-1].endswith(f"<- {broken}")
    assert all("<-" not in line for line in lines[:-1])


class Buffered(Plain):
    """The same with a buffer that accepts beats when it is full."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.buffer = buffer = fifo.SyncFIFO(width=9, depth=4)
        code = Mux(self.scores.p.mask, self.scores.p.codes[0], 0)[:8]
        # The queue refuses the beat, so its contents stay and the new beat is lost.
        m.d.comb += [
            self.scores.ready.eq(1),
            buffer.w_en.eq(self.scores.valid),
            buffer.w_data.eq(Cat(code, self.scores.p.last)),
            self.results.valid.eq(buffer.r_rdy),
            Value.cast(self.results.payload).eq(buffer.r_data),
            buffer.r_en.eq(self.results.ready),
        ]
        return m


def test_an_overflow_is_detected_only_with_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow.prove, "PLACES", 8)  # twice as many as the buffer has
    assert prove(Buffered(), depth=4, induction=0).holds
    proof = prove(Buffered(), depth=10, busy=4, induction=0, full=True)
    assert proof.verdicts["counted"].outcome == "fails", str(proof)


def test_too_small_a_depth_is_no_proof() -> None:
    proof = prove(Plain(), depth=3, induction=0)
    assert proof.verdicts["steady"].outcome == "bounded"
    assert proof.witnesses["rows"] is None
    assert not proof.holds


def test_latches_are_refused() -> None:
    with pytest.raises(ValueError, match="latches"):
        prove(small_unit(LOADABLE, loadable=True, storage="latches"), depth=5)
