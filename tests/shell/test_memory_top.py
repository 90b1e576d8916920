"""The top module that joins a unit, or its shell, to its memories: simulated by the folder's benches, and placed."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import BY_METHOD
from test_shell_folder import MEMORIES, NAME, icarus, make, verilator

from softmaxkit.flow.export import export
from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.tools import find
from softmaxkit.shell.options import ShellOptions

pytestmark = pytest.mark.skipif(not find("yosys"), reason="needs Yosys")
TOP = f"{NAME}_top"
SHELL = ShellOptions(keep=True, status=True)
KINDS: dict[str, tuple[ShellOptions | None, str | None]] = {
    "model": (None, None),
    "macros": (None, "mine:16x8/4"),
    "shell": (SHELL, "sky130"),
}
Folder = Callable[..., Path]
RUN_KINDS = [pytest.param(kind, marks=pytest.mark.slow if kind == "macros" else []) for kind in KINDS]
"""The fast tests run and lint the memory model, and macros behind a shell."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    @cache
    def write(kind: str, method: str = MEMORIES[0]) -> Path:
        spec = BY_METHOD[method].proof.spec  # narrow, so that it builds quickly
        shell, sram = KINDS[kind]
        unit, constants = spec.unit(lanes=2, max_row=24, storage="memory"), spec.examples()[0]
        rows = random_rows(unit, constants, 200, np.random.default_rng(1))
        folder = tmp_path_factory.mktemp("top") / "folder"
        export(unit, NAME, folder, [(constants, rows)], shell=shell, sram=sram)
        return folder

    return write


def bench_of(kind: str) -> str:
    return "test-shell" if KINDS[kind][0] else "test"


@icarus
@pytest.mark.parametrize("kind", RUN_KINDS)
def test_the_bench_simulates_it(kind: str, exported: Folder, tmp_path: Path) -> None:
    folder = shutil.copytree(exported(kind), tmp_path / "copy")
    bench = (folder / f"{NAME}{'_axi' if KINDS[kind][0] else ''}_tb.sv").read_text()
    assert f"  {TOP} dut (" in bench
    assert "_memory #(" not in bench
    code, printed = make(folder, bench_of(kind))
    assert code == 0, printed
    beats = len((folder / f"{'axi_' if KINDS[kind][0] else ''}results.hex").read_text().splitlines())
    assert f"PASS: {beats} result beats compared" in printed


def break_memory(folder: Path, fault: str) -> None:
    """Put a fault into the connections of the top's last memory."""
    path = folder / f"{TOP}.sv"
    text = path.read_text()
    start = text.rindex(f"  {NAME}_memory #(")
    before, memory = text[:start], text[start:]
    (name,) = re.findall(r"\) (\w+) \(", memory)[:1]
    width, bits = (int(re.findall(rf"\.{size}\((\d+)\)", memory)[0]) for size in ("WIDTH", "ADDRESS"))
    edits = {
        "address width": (f".ADDRESS({bits})", f".ADDRESS({bits - 1})"),
        "swapped data": (f"({name}_write_data)", f"({{{name}_write_data[0], {name}_write_data[{width - 1}:1]}})"),
        "no write": (f"({name}_write_enable)", "(1'b0)"),
        "late read": (f".read_enable({name}_read_enable)", f".read_enable(~{name}_read_enable)"),
        "one address": (f"({name}_read_address)", f"({name}_write_address)"),
    }
    right, wrong = edits[fault]
    assert memory.count(right) >= 1, memory
    path.write_text(before + memory.replace(right, wrong, 1))


@icarus
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("address width", "macros"),
        ("swapped data", "shell"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product(("address width", "no write", "late read", "one address"), ("model", "shell"))
        ),
    ],
)
def test_a_broken_memory_fails(fault: str, kind: str, exported: Folder, tmp_path: Path) -> None:
    folder = shutil.copytree(exported(kind), tmp_path / "copy")
    break_memory(folder, fault)
    code, printed = make(folder, bench_of(kind))
    assert code != 0
    assert "FAIL: " in printed


@pytest.mark.slow
@verilator
@pytest.mark.parametrize("method", MEMORIES)
@pytest.mark.parametrize("kind", KINDS)
def test_in_verilator(kind: str, method: str, exported: Folder, no_python: None, tmp_path: Path) -> None:
    folder = shutil.copytree(exported(kind, method), tmp_path / "copy")
    target = "test-shell-verilator" if KINDS[kind][0] else "test-verilator"
    code, printed = make(folder, target)
    assert code == 0, printed
    assert "PASS" in printed
    for fault in ("address width", "swapped data"):
        broken = shutil.copytree(exported(kind, method), tmp_path / fault.replace(" ", "_"))
        break_memory(broken, fault)
        code, printed = make(broken, target)
        assert code != 0
        # A comparison of the bench, or an assertion on the streams, whichever is first.
        assert "FAIL: " in printed or f"%Error: {NAME}_sva.sv" in printed


@verilator
@pytest.mark.parametrize("kind", RUN_KINDS)
def test_lint_is_clean(kind: str, exported: Folder) -> None:
    folder = exported(kind)
    assert f"--top-module {TOP} " in (folder / "Makefile").read_text()
    assert make(folder, "lint") == (0, "")


@pytest.mark.parametrize("kind", KINDS)
def test_its_ports_and_files(kind: str, exported: Folder) -> None:
    """Of what it contains, it has all ports but those of the memories; all files and constraints name it."""
    shell, sram = KINDS[kind]
    folder = exported(kind)
    facts: dict[str, Any] = json.loads((folder / "parameters.json").read_text())
    inner = facts["shell"]["ports"] if shell else facts["axis_ports"]
    names = [port["name"] for port in inner if "_memory_" not in port["name"]]
    header, body = (folder / f"{TOP}.sv").read_text().split(");", 1)
    assert re.findall(r"(\w+),?$", header, re.MULTILINE)[1:] == names
    assert re.findall(rf"  {NAME}_memory #\(.*\) (\w+) \(", body) == [memory["name"] for memory in facts["memories"]]
    assert f"  {NAME}_{'axi' if shell else 'axis'} unit (" in body
    netlist = TOP if sram else NAME
    assert json.loads((folder / "librelane.json").read_text())["DESIGN_NAME"] == netlist
    sdc = (folder / f"{NAME}.sdc").read_text()
    assert f"set interface {netlist} }}" in sdc
    (ports,) = re.findall(rf"^  {TOP} {{\n(.*?)^  }}", sdc, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"^      (\w+)", ports, re.MULTILINE)) == {*names} - {"aclk"}
    assert {name for path in facts["combinational_paths"][TOP] for name in path.values()} <= {*names}
    assert f"toplevel: {TOP}" in (folder / f"{NAME}.core").read_text()
    assert f"| `{TOP}.sv` |" in (folder / "README.md").read_text()


def test_what_a_team_supplies_is_named(exported: Folder) -> None:
    own, of_pdk = ((exported(kind) / "README.md").read_text() for kind in ("macros", "shell"))
    assert "`mine.gds`, `mine.lef` and `mine.lib`" in own
    assert "PDN_MACRO_CONNECTIONS" in own
    assert "are those of the PDK" in of_pdk
    assert "PDN_MACRO_CONNECTIONS" not in of_pdk
    assert "`DIE_AREA`" in own
    assert "`DIE_AREA`" in of_pdk
    assert "LibreLane](https" in (exported("model") / "README.md").read_text()
    assert "`DIE_AREA`" not in (exported("model") / "README.md").read_text()
