"""Verification and proofs detect units that violate their stream protocol."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from cases import BY_METHOD
from protocol_mutants import MUTANTS, Mutant, load_between_beats

from softmaxkit.flow import verify as verification
from softmaxkit.flow.interface import unit_ports
from softmaxkit.flow.prove import prove
from softmaxkit.flow.simulate import TOP, Verilated, can_verilate
from softmaxkit.flow.tools import find
from softmaxkit.flow.verify import verify
from softmaxkit.flow.verilog import to_verilog
from softmaxkit.methods.base.unit import SoftmaxUnit

LOADABLE = next(method for method, cases in BY_METHOD.items() if cases.proof.numbers)


def loadable_with_rows() -> SoftmaxUnit:
    """Return a narrow unit with a row buffer and loadable constants."""
    units = (narrow.spec.unit(**narrow.sizes) for cases in BY_METHOD.values() for narrow in cases.narrow.values())
    return next(unit for unit in units if unit.registers is not None and unit.holds_rows)


def chosen_by_a_file(unit: SoftmaxUnit) -> str:
    """Return Verilog that contains all mutants of a unit; the file `mutant` selects one."""
    broken = Mutant(unit)
    ports = unit_ports(unit)
    headers = ", ".join(f"{port.direction} [{port.bits - 1}:0] {port.name}" for port in ports)
    inner = ", ".join(f".{port.name}({port.name})" for port in ports)
    return f"""{to_verilog(broken, "broken")}
module {TOP}({headers});
  reg [7:0] mutant[0:0];
  initial $readmemh("mutant", mutant);
  broken broken({inner}, .mutant(mutant[0]));
endmodule
"""


class Chosen:
    """The simulation of all mutants, run as one of them."""

    name = "verilator"

    def __init__(self, simulation: Verilated, mutant: str, folder: Path) -> None:
        self.simulation, self.folder = simulation, folder
        (folder / "mutant").write_text(f"{list(MUTANTS).index(mutant):x}\n")

    def run(self, *run: Any) -> Any:
        return self.simulation.run(*run, folder=self.folder)


SOME = ["sound", "waits", "resets once", "changes", "withdraws", "overruns", "unmasked"]
SOME += ["loads inside", "remembers", "stuck if stalled"]
OTHERS = [name for name in MUTANTS if name not in SOME]


@pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")
@pytest.mark.parametrize("mutants", [SOME, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["some", "others"])
def test_verification_catches_every_mutant(mutants: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unit = loadable_with_rows()
    simulation = Verilated(unit, fast=False, verilog=chosen_by_a_file(unit))
    passed: list[str] = []
    faults: dict[str, str] = {}
    monkeypatch.setattr(verification, "all_codes", lambda *_: None)  # only the protocol matters here
    for mutant in mutants:
        chosen = Chosen(simulation, mutant, tmp_path)
        monkeypatch.setattr(verification, "Verilated", lambda *_, chosen=chosen, **__: chosen)
        result = verify(Mutant(unit, mutant), outputs=15_000)
        passed += [mutant] * result.passed
        faults[mutant] = "; ".join(result.faults)
    assert passed == [mutant for mutant in mutants if mutant == "sound"], faults
    message = {
        "waits": "changed with ready|score beats were accepted|result beats arrived",
        "changes": "a waiting result changed",
        "withdraws": "a waiting result changed",
        "loads inside": "while a row was inside",
    }
    for mutant in set(message).intersection(mutants):
        assert re.search(message[mutant], faults[mutant]), faults[mutant]


BROKEN = {
    "waits": "offered",
    "waits for an edge": "offered",
    "resets once": "counted",
    "changes": "steady",
    "withdraws": "steady",
    "ends early": "ordered",
    "ends late": "ordered",
    "endless": "ordered",
    "doubles": "counted",
    "drops": "drained",
    "overruns": "drained",
    "unmasked": "masked",
    "loads inside": "apart",
    "loads halfway": "apart",
    "forgets": "apart",
    "remembers": "counted",
    "takes in reset": "counted",
    "stuck if empty": "drained",
    "stuck if stalled": "drained",
}
"""The property that each mutant violates."""

QUICK = ("loads halfway",)


@pytest.mark.skipif(find("yosys") is None, reason="needs Yosys")
@pytest.mark.parametrize(
    "mutant", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in MUTANTS]
)
def test_proofs_catch_every_mutant(mutant: str) -> None:
    case = BY_METHOD[LOADABLE].proof
    proof = prove(Mutant(case.spec.unit(lanes=1, max_row=3, depth=case.depth), mutant), depth=14, induction=0)
    broken = {name for name, verdict in proof.verdicts.items() if verdict.outcome == "fails"}
    assert (BROKEN[mutant] in broken) if mutant in BROKEN else proof.holds, str(proof)


@pytest.mark.slow  # of the mutants above, "loads halfway" violates the same property
@pytest.mark.skipif(find("yosys") is None, reason="needs Yosys")
def test_proofs_catch_a_write_between_the_beats_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module(f"softmaxkit.methods.{LOADABLE}.unit"), "hold_between_rows", load_between_beats)
    case = BY_METHOD[LOADABLE].proof
    proof = prove(case.spec.unit(lanes=1, max_row=3, depth=case.depth), depth=8, induction=0)
    assert proof.verdicts["apart"].outcome == "fails", str(proof)
