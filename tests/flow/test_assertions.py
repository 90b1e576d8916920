"""The assertions in the folder: every method satisfies them, and units that violate the protocol do not."""

from __future__ import annotations

import re
import subprocess
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import BY_METHOD
from protocol_mutants import MUTANTS, Mutant, load_between_beats
from test_protocol import LOADABLE

from softmaxkit.flow.export import export
from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.simulate import can_verilate
from softmaxkit.flow.tools import find
from softmaxkit.flow.verilog import to_verilog
from softmaxkit.methods.base.unit import SoftmaxUnit

pytestmark = pytest.mark.skipif(not (find("yosys") and find("make")), reason="needs Yosys and make")
NAME = "unit_under_test"
verilator = pytest.mark.skipif(not can_verilate(), reason="needs Verilator and a C++ compiler")
FORMS = [
    (method, form)
    for method, cases in BY_METHOD.items()
    for form in ("baked", "loadable", "memory", "sets")
    if form == "baked"
    or (form == "loadable" and cases.proof.numbers)
    or (form == "memory" and "memory" in cases.proof.spec.storages)
    or (form == "sets" and cases.proof.spec.unit(lanes=1).takes_sets)
]


def small(method: str, form: str, depth: int | None = None) -> SoftmaxUnit:
    """Return a unit that is small enough for quick proofs."""
    spec, numbers, least, _ = BY_METHOD[method].proof
    constants = None if form in ("loadable", "sets") else spec.constants(**numbers)
    storage = "memory" if form == "memory" else "flip-flops"
    sets = {"sets": 2} if form == "sets" else {}
    return spec.unit(lanes=1, constants=constants, max_row=2, depth=depth or least, storage=storage, **sets)


def exported(unit: SoftmaxUnit, folder: Path) -> Path:
    constants = unit.spec.constants(**BY_METHOD[unit.spec.method].proof.numbers)
    export(unit, NAME, folder, [(constants, random_rows(unit, constants, 60, np.random.default_rng(0)))])
    return folder


def proved(folder: Path) -> tuple[int, str]:
    command = ["make", "-s", "-C", str(folder), "--no-print-directory", "prove", f"YOSYS={find('yosys')}"]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout


def refuted_line(folder: Path) -> str:
    """Prove the assertions of a folder, of which one must fail; return its line."""
    code, printed = proved(folder)
    assert code != 0, printed
    failing = re.search(rf"FAIL: .*: in cycle \d+, {NAME}_sva.sv:(\d+)", printed)
    assert failing is not None, printed
    return (folder / f"{NAME}_sva.sv").read_text().splitlines()[int(failing[1]) - 1]


@pytest.mark.parametrize(
    ("method", "form"),
    [pytest.param(*case, marks=[] if case == ("sigmoid", "loadable") else pytest.mark.slow) for case in FORMS],
)
def test_units_satisfy_the_assertions(method: str, form: str, tmp_path: Path) -> None:
    code, printed = proved(exported(small(method, form), tmp_path / "folder"))
    assert code == 0, printed
    assert re.fullmatch(r"(PASS: [\w ]+: no violation within \d+ cycles\n){2}", printed)


@pytest.mark.parametrize("method", ["sigmoid", "index"])
def test_rows_of_any_length_are_allowed_in_simulation_where_none_waits(method: str, tmp_path: Path) -> None:
    unit = small(method, "loadable" if method == "sigmoid" else "baked")
    text = (exported(unit, tmp_path / "folder") / f"{NAME}_sva.sv").read_text()
    only_proofs = re.search(r"`ifdef FORMAL\n  localparam int LONGEST = .*\n.*_given \(ends\);\n`endif", text)
    assert bool(only_proofs) == (not unit.holds_rows)


BROKEN = {
    "waits": "assert (results_valid)",
    "waits for an edge": "assert (results_valid)",
    "resets once": "",
    "changes": "assert (results_valid && results_payload == results_held)",
    "withdraws": "assert (results_valid && results_payload == results_held)",
    "ends early": "assert (ended ==",
    "ends late": "assert (ended ==",
    "endless": "assert (ended ==",
    "doubles": "assert (count != 0)",
    "drops": "",
    "overruns": "",
    "unmasked": "assert (results_payload[1:0] == 0)",
    "loads inside": "",
    "loads halfway": "assert (!configuration_valid && !open_group)",
    "remembers": "",
    "takes in reset": "",
    "stuck if empty": "assert (rows == 0 && !refused)",
}
"""The assertion that fails; empty if it may be one of several.

Left out are mutants that do not fail within so few cycles, or that have wrong constants, which are not protocol.
"""


def other_sets(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a later stage of a unit use the words of the set whose row is entering."""
    right, entered = module.words_of, []

    def wrong(m: Any, stage: str, sets: Any, number: Any, *names: str) -> Any:
        entered.append(number)
        return right(m, stage, sets, entered[0], *names)

    monkeypatch.setattr(module, "words_of", wrong)


def swapped(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a unit use the words of the neighbouring set."""
    right = module.number_of_set
    monkeypatch.setattr(module, "number_of_set", lambda scores: ~right(scores))


@pytest.mark.parametrize(
    ("method", "fault", "depth"),
    [
        ("sigmoid", swapped, 1),
        pytest.param("consmax", swapped, 1, marks=pytest.mark.slow),
        pytest.param("consmax", other_sets, 2, marks=pytest.mark.slow),
    ],
)
def test_the_constants_of_another_set_fail(
    method: str, fault: Any, depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported(small(method, "sets", depth), tmp_path / "folder")
    fault(import_module(f"softmaxkit.methods.{method}.unit"), monkeypatch)
    (folder / f"{NAME}.sv").write_text(to_verilog(small(method, "sets", depth), NAME))
    line = refuted_line(folder)
    assert "== first_result" in line


def failing_line(folder: Path) -> str:
    """Return the assertion that fails in simulation; empty if the simulation passes."""
    run = ["make", "-s", "-C", str(folder), "--no-print-directory", "test-verilator", f"VERILATOR={find('verilator')}"]
    done = subprocess.run(run, text=True, capture_output=True, check=False)
    if done.returncode == 0:
        return ""
    line = re.search(rf"{NAME}_sva.sv:(\d+)", done.stdout + done.stderr)
    assert line is not None, done.stdout + done.stderr
    return (folder / f"{NAME}_sva.sv").read_text().splitlines()[int(line[1]) - 1]


@pytest.mark.slow
@verilator
def test_a_set_that_changes_within_a_row_fails(tmp_path: Path) -> None:
    """In simulation, this is a requirement on the surrounding logic."""
    folder = exported(small("consmax", "sets"), tmp_path / "folder")
    assert failing_line(folder) == ""
    wrapper = folder / f"{NAME}_axis.sv"
    text = wrapper.read_text()
    broken = re.sub(r"(s_axis_tuser\[1[^\]]*\])", r"(\1 ^ s_axis_tlast)", text)
    assert broken != text, text
    wrapper.write_text(broken)
    assert "== set_of_row" in failing_line(folder)


@pytest.mark.slow
@verilator
def test_a_row_that_is_too_long_by_less_than_a_beat_fails(tmp_path: Path) -> None:
    unit = BY_METHOD["exact"].proof.spec.unit(lanes=4, max_row=5)
    folder = exported(unit, tmp_path / "folder")
    assert failing_line(folder) == ""
    beats = (folder / "scores.hex").read_text()
    masks = 4 * unit.code_shape.width  # first bit of the masks in a beat; the end of the row is after them
    rows = [int(beat, 16) for beat in beats.split()]
    broken = [beat | 2 << masks if before >> (masks + 4) == 0 else beat for before, beat in pairwise([-1, *rows])]
    assert broken != rows
    (folder / "scores.hex").write_text("".join(f"{beat:0{len(beats.split()[0])}x}\n" for beat in broken))
    assert "(ends && scores_payload" in failing_line(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(small(LOADABLE, "loadable"), tmp_path_factory.mktemp("assertions") / "folder")


@pytest.mark.parametrize(
    "mutant", [pytest.param(name, marks=[] if name == "waits" else pytest.mark.slow) for name in BROKEN]
)
def test_mutants_violate_the_assertions(mutant: str, folder: Path) -> None:
    unit: Any = Mutant(small(LOADABLE, "loadable"), mutant)
    (folder / f"{NAME}.sv").write_text(to_verilog(unit, NAME))
    line = refuted_line(folder)
    assert "assert" in line
    assert BROKEN[mutant] in line


def test_a_write_between_the_beats_of_a_row_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = exported(small(LOADABLE, "loadable"), tmp_path / "folder")
    monkeypatch.setattr(import_module(f"softmaxkit.methods.{LOADABLE}.unit"), "hold_between_rows", load_between_beats)
    (folder / f"{NAME}.sv").write_text(to_verilog(small(LOADABLE, "loadable"), NAME))
    line = refuted_line(folder)
    assert "if (writing) assert" in line


def test_which_mutants_are_left_out() -> None:
    assert set(MUTANTS) - set(BROKEN) == {"sound", "forgets", "stuck if stalled"}
