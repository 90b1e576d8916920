"""Faults injected into the sources of units, and into their gates and tables, are detected."""

from __future__ import annotations

from pkgutil import resolve_name

import pytest
from cases import BY_METHOD
from method_cases import SourceFault
from unit_checks import break_source, faulty_function, verilator

from softmaxkit import verify
from softmaxkit.flow.faults import Fault
from softmaxkit.flow.verify import Verification

SLOW = pytest.mark.slow

NARROW = {name: unit for cases in BY_METHOD.values() for name, unit in cases.narrow.items()}
FAULTS = [fault for cases in BY_METHOD.values() for fault in cases.faults]
ROW_BUFFERS = [pair for cases in BY_METHOD.values() for pair in cases.row_buffers]


def verified(name: str, fault: Fault | None = None) -> Verification:
    spec, sizes = NARROW[name]
    return verify(spec.unit(**sizes), outputs=4_000, fault=fault)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_every_fault_can_be_injected(fault: SourceFault) -> None:
    """Faults that are injected only by the slow tests must not go stale unnoticed."""
    *_, source = faulty_function(fault)
    compile(source.replace(fault.right, fault.wrong), fault.owner, "exec")


@verilator
@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=[] if fault.quick else SLOW, id=fault.what) for fault in FAULTS]
)
def test_faults_in_the_source(fault: SourceFault, monkeypatch: pytest.MonkeyPatch) -> None:
    break_source(monkeypatch, fault)
    outcome = verified(fault.unit)
    assert not outcome.passed
    if outcome.faults[0].endswith("configuration writes were accepted while a row was inside"):
        assert fault.what == "writes inside rows"  # a protocol violation, even if all results are right
        return
    assert outcome.faults[0].endswith("wrong result beats")
    assert 0 < len(outcome.wrong) <= outcome.mismatches <= outcome.compared
    assert all(wrong.got != wrong.expected for wrong in outcome.wrong)


@SLOW
@verilator
@pytest.mark.parametrize(("name", "module"), ROW_BUFFERS)
def test_buffers_that_are_too_short(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    user = resolve_name(f"softmaxkit.{module}")
    right = user.RowBuffer
    monkeypatch.setattr(user, "RowBuffer", lambda width, depth, storage: right(width, 4, storage))
    outcome = verified(name)
    assert not outcome.passed
    assert any("result beats arrived" in fault for fault in outcome.faults)


def is_detected(name: str, fault: Fault) -> bool:
    outcome = verified(name, fault)
    assert fault.what
    return not outcome.passed


@verilator
def test_a_fault_in_a_gate_or_table() -> None:
    assert is_detected(next(iter(NARROW)), Fault(1))


@SLOW
@verilator
@pytest.mark.parametrize("name", NARROW)
def test_more_faults_in_gates_and_tables(name: str) -> None:
    undetected = [fault.what for fault in map(Fault, range(10)) if not is_detected(name, fault)]
    assert len(undetected) <= 1, undetected  # some table bits do not affect any result
