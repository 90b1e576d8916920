"""Proofs that a unit in its shell keeps the protocol of a unit; and that a fault of the shell breaks one."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.hdl import Module, Value
from amaranth.lib import wiring
from cases import BY_METHOD
from mutants import broken

from softmaxkit.flow.prove import prove
from softmaxkit.methods.base.unit import SoftmaxUnit
from softmaxkit.shell import results as results_module
from softmaxkit.shell import shell as shell_module
from softmaxkit.shell.options import ShellOptions
from softmaxkit.shell.shelled import Shelled

pytestmark = pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")

PROOFS = {method: cases.proof for method, cases in BY_METHOD.items()}
FOR_EVER = [method for method, case in PROOFS.items() if not case.two_rows]
BUFFERED = [method for method, case in PROOFS.items() if case.two_rows]
OPTIONS = ShellOptions(keep=True, status=True, tags=2)


class AsUnit(wiring.Component):
    """A unit in its shell, with the unit's streams: what is masked is not kept."""

    def __init__(self, unit: SoftmaxUnit, options: ShellOptions) -> None:
        self.shelled = Shelled(unit, options)
        sizes = ("lanes", "max_row", "whole_rows", "masks", "storage")
        for fact in (*sizes, "registers", "memories", "latency", "interval"):
            setattr(self, fact, getattr(unit, fact))
        super().__init__({name: unit.signature.members[name] for name in ("scores", "results")})

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
        return m


def in_shell(method: str, **sizes: Any) -> Any:
    spec, numbers, depth, _ = PROOFS[method]
    unit = spec.unit(lanes=1, constants=spec.constants(**numbers), **({"max_row": 2, "depth": depth} | sizes))
    return AsUnit(unit, OPTIONS)


@pytest.mark.parametrize("method", FOR_EVER)
def test_shells_that_are_proved_for_ever(method: str) -> None:
    proof = prove(in_shell(method, max_row=3), depth=10, induction=60)
    assert proof.holds, str(proof)
    assert {verdict.outcome for verdict in proof.verdicts.values()} == {"proved"}, str(proof)


@pytest.mark.slow
@pytest.mark.parametrize("method", BUFFERED)
def test_shells_with_buffers(method: str) -> None:
    proof = prove(in_shell(method), depth=PROOFS[method].two_rows + 2, busy=6, induction=0)
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
    from softmaxkit.shell import shelled as shelled_module

    mutant = broken(module, name, right, wrong)
    monkeypatch.setattr(shelled_module if name == "Shell" else shell_module, name, mutant)
    proof = prove(in_shell(FOR_EVER[0]), depth=8, busy=4, induction=0)
    assert proof.verdicts[property_].outcome == "fails", str(proof)
