"""The assertions in the folder: they hold of every method, and fail of units that break the protocol."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import BY_METHOD
from protocol_mutants import MUTANTS, Mutant
from test_protocol import LOADABLE

from softmaxkit.flow.export import export
from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.tools import find
from softmaxkit.flow.verilog import to_verilog
from softmaxkit.methods.base.unit import SoftmaxUnit

pytestmark = [
    pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable"),
    pytest.mark.skipif(not (find("yosys") and find("make")), reason="needs Yosys and make"),
]
NAME = "unit_under_test"
FORMS = [
    (method, form)
    for method, cases in BY_METHOD.items()
    for form in ("baked", "loadable", "memory")
    if form == "baked" or (cases.proof.numbers if form == "loadable" else "memory" in cases.proof.spec.storages)
]


def small(method: str, form: str) -> SoftmaxUnit:
    """Return the unit about which proofs are soon made."""
    spec, numbers, depth, _ = BY_METHOD[method].proof
    constants = None if form == "loadable" else spec.constants(**numbers)
    storage = "memory" if form == "memory" else "flip-flops"
    return spec.unit(lanes=1, constants=constants, max_row=2, depth=depth, storage=storage)


def exported(unit: SoftmaxUnit, folder: Path) -> Path:
    constants = unit.spec.constants(**BY_METHOD[unit.spec.method].proof.numbers)
    export(unit, NAME, folder, [(constants, random_rows(unit, constants, 60, np.random.default_rng(0)))])
    return folder


def proved(folder: Path) -> tuple[int, str]:
    command = ["make", "-s", "-C", str(folder), "--no-print-directory", "prove", f"YOSYS={find('yosys')}"]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("method", "form"),
    [pytest.param(*case, marks=[] if case == (LOADABLE, "loadable") else pytest.mark.slow) for case in FORMS],
)
def test_they_hold(method: str, form: str, tmp_path: Path) -> None:
    code, printed = proved(exported(small(method, form), tmp_path / "folder"))
    assert code == 0, printed
    assert re.fullmatch(r"(PASS: [\w ]+: no violation within \d+ cycles\n){2}", printed)


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
"""The assertion that fails; empty where it may be one of several.

Left out is what does not show within so few cycles, and the wrong constants, which are no matter of the protocol.
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(small(LOADABLE, "loadable"), tmp_path_factory.mktemp("assertions") / "folder")


@pytest.mark.parametrize(
    "mutant", [pytest.param(name, marks=[] if name == "waits" else pytest.mark.slow) for name in BROKEN]
)
def test_they_fail_of_a_mutant(mutant: str, folder: Path) -> None:
    unit: Any = Mutant(small(LOADABLE, "loadable"), mutant)
    (folder / f"{NAME}.sv").write_text(to_verilog(unit, NAME))
    code, printed = proved(folder)
    assert code != 0, printed
    failing = re.search(rf"FAIL: .*: in cycle \d+, {NAME}_sva.sv:(\d+)", printed)
    assert failing is not None, printed
    line = (folder / f"{NAME}_sva.sv").read_text().splitlines()[int(failing[1]) - 1]
    assert "assert" in line
    assert BROKEN[mutant] in line


def test_which_mutants_are_left_out() -> None:
    assert set(MUTANTS) - set(BROKEN) == {"sound", "forgets", "stuck if stalled"}
