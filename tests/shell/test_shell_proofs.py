"""Proofs that a unit in its shell obeys the protocol of a unit; and that faults of the shell violate it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from amaranth.hdl import Module, Value
from amaranth.lib import wiring
from cases import BY_METHOD
from mutants import broken

from softmaxkit.blocks import queue as queue_module
from softmaxkit.flow.prove import prove
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.shell import register_slice as slice_module
from softmaxkit.shell import results as results_module
from softmaxkit.shell import shell as shell_module
from softmaxkit.shell.options import ShellOptions
from softmaxkit.shell.unit_in_shell import UnitInShell

PROOFS = {method: cases.proof for method, cases in BY_METHOD.items()}
FOR_EVER = [method for method, case in PROOFS.items() if not case.two_rows]
BUFFERED = [method for method, case in PROOFS.items() if case.two_rows]
OPTIONS = ShellOptions(keep=True, status=True, tags=2)
SLICED = replace(OPTIONS, register_slice="both")


class AsUnit(wiring.Component):
    """A unit in its shell, with the unit's streams; masked positions are not kept."""

    def __init__(self, unit: SoftmaxUnit, options: ShellOptions) -> None:
        self.shelled = UnitInShell(unit, options)
        for fact in ("lanes", "max_row", "whole_rows", "masks", "storage", "registers", "memories", "interval"):
            setattr(self, fact, getattr(unit, fact))
        streams = ("scores", "results", *["configuration"] * (unit.registers is not None))
        super().__init__({name: unit.signature.members[name] for name in streams})

    def latency(self, length: int) -> int:
        return self.shelled.unit.latency(length) + self.shelled.shell.options.slices

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.shelled = inner = self.shelled
        source, sink, scores, results = inner.s_axis, inner.m_axis, self.scores, self.results
        unit = inner.unit
        code_bytes, result_bytes = len(source.tdata) // 8 // unit.lanes, len(sink.tdata) // 8 // unit.lanes
        for lane in range(unit.lanes):
            m.d.comb += [
                source.tdata[8 * code_bytes * lane :][: unit.code_shape.width].eq(scores.p.codes[lane]),
                source.tkeep[code_bytes * lane :][:code_bytes].eq(scores.p.mask[lane].replicate(code_bytes)),
                results.p.codes[lane].eq(sink.tdata[8 * result_bytes * lane :][: unit.result_bits]),
            ]
        m.d.comb += [
            source.tuser.eq(-1),
            source.tlast.eq(scores.p.last),
            source.tid.eq(Value.cast(scores.payload)[0]),
            source.tvalid.eq(scores.valid),
            scores.ready.eq(source.tready),
            results.p.last.eq(sink.tlast),
            results.valid.eq(sink.tvalid),
            sink.tready.eq(results.ready),
        ]
        if unit.registers is not None:
            port, bus = self.configuration, inner.s_axis_cfg
            m.d.comb += [
                bus.tdata.eq(port.p.data),
                bus.tdata[-(-unit.registers.data_bits // 8) * 8 :].eq(port.p.address),
                bus.tlast.eq(port.p.last),
                bus.tvalid.eq(port.valid),
                port.ready.eq(bus.tready),
            ]
        return m


def in_shell(method: str, options: ShellOptions = OPTIONS, loadable: bool = False, **sizes: Any) -> Any:
    spec, numbers, depth, _ = PROOFS[method]
    constants = None if loadable else spec.constants(**numbers)
    return AsUnit(spec.unit(lanes=1, constants=constants, **({"max_row": 2, "depth": depth} | sizes)), options)


EVERY_SHELL = [(method, options) for method in FOR_EVER for options in (OPTIONS, SLICED)]
QUICK = [(FOR_EVER[-1], SLICED)]
"""The other method, in the other kind of shell, is that of the next test."""


@pytest.mark.parametrize(
    ("method", "options"),
    [
        pytest.param(*case, id=f"{case[0]}-{case[1].register_slice}", marks=[] if case in QUICK else pytest.mark.slow)
        for case in EVERY_SHELL
    ],
)
def test_shells_that_are_proved_for_ever(method: str, options: ShellOptions) -> None:
    proof = prove(in_shell(method, options, max_row=3), depth=10, induction=60)
    assert proof.holds, str(proof)
    assert {verdict.outcome for verdict in proof.verdicts.values()} == {"proved"}, str(proof)


@pytest.mark.parametrize("options", [OPTIONS, pytest.param(SLICED, marks=pytest.mark.slow)], ids=["plain", "sliced"])
@pytest.mark.parametrize(
    "method", [FOR_EVER[0], *(pytest.param(name, marks=pytest.mark.slow) for name in FOR_EVER[1:])]
)
def test_writes_stay_apart_from_rows(method: str, options: ShellOptions) -> None:
    """Proved without a bound; for some of the other properties no induction is found."""
    proof = prove(in_shell(method, options, loadable=True, max_row=3), depth=10, induction=5)
    assert proof.holds, str(proof)
    assert proof.verdicts["apart"].outcome == "proved", str(proof)


@pytest.mark.slow
@pytest.mark.parametrize("options", [OPTIONS, SLICED], ids=["plain", "sliced"])
@pytest.mark.parametrize("method", BUFFERED)
def test_shells_with_buffers(method: str, options: ShellOptions) -> None:
    proof = prove(in_shell(method, options), PROOFS[method].two_rows + options.slices + 2, busy=6, induction=0)
    assert proof.holds, str(proof)


@pytest.mark.parametrize(
    ("module", "name", "right", "wrong", "property_"),
    [
        (results_module, "write_results", "results.ready.eq(stream.tready)", "results.ready.eq(1)", "steady"),
        (shell_module, "Shell", "goes = inside | offered | ~hold", "goes = inside | offered | hold", "drained"),
    ],
)
def test_faults_show(
    module: Any, name: str, right: str, wrong: str, property_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from softmaxkit.shell import unit_in_shell as unit_in_shell_module

    mutant = broken(module, name, right, wrong)
    monkeypatch.setattr(unit_in_shell_module if name == "Shell" else shell_module, name, mutant)
    proof = prove(in_shell(FOR_EVER[0]), depth=8, busy=4, induction=0)
    assert proof.verdicts[property_].outcome == "fails", str(proof)


SLICE_MUTANTS = {
    "drops": (queue_module, "connect_by_queue", "source.ready.eq(~filled[-1])", "source.ready.eq(1)", "drained"),
    "repeats": (
        queue_module,
        "connect_by_queue",
        "leaves = sink.valid & sink.ready",
        "leaves = sink.ready & filled[-1]",
        "counted",
    ),
    "changes": (
        queue_module,
        "connect_by_queue",
        "with m.If(comes | (leaves & more))",
        "with m.If(source.valid)",
        "steady",
    ),
    "waits": (
        queue_module,
        "connect_by_queue",
        "sink.valid.eq(filled[0])",
        "sink.valid.eq(filled[0] & sink.ready)",
        "offered",
    ),
    "writes ahead": (slice_module, "WritesApart", "source.valid & ~self.busy", "source.valid", "drained"),
    "takes writes": (slice_module, "WritesApart", "sink.ready & ~self.busy", "sink.ready", "apart"),
    "rows in a group": (slice_module, "WritesApart", "source.valid | grouped", "source.valid", "apart"),
    "rows before a write": (slice_module, "WritesApart", "source.valid | grouped", "grouped", "apart"),
}


# In the fast tests, one mutant for each of two properties; others are violated above and in flow/test_prove.py.
QUICK_FAULTS = ("waits", "takes writes")


@pytest.mark.parametrize(
    "mutant", [pytest.param(name, marks=[] if name in QUICK_FAULTS else pytest.mark.slow) for name in SLICE_MUTANTS]
)
def test_faults_of_a_slice_show(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, right, wrong, property_ = SLICE_MUTANTS[mutant]
    monkeypatch.setattr(slice_module, name, broken(module, name, right, wrong))
    proof = prove(in_shell(FOR_EVER[0], SLICED, loadable=True), depth=9, busy=6, induction=0)
    assert proof.verdicts[property_].outcome == "fails", str(proof)
