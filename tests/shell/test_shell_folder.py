"""The files that a shell adds to the folder of a unit: clean in lint, and checked by their own test bench."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softmaxkit.flow.export import export
from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.tools import find
from softmaxkit.methods import ALL_METHODS, METHODS, method_class
from softmaxkit.shell.options import ShellOptions

pytestmark = pytest.mark.skipif(not find("yosys"), reason="needs Yosys")
icarus = pytest.mark.skipif(not (shutil.which("iverilog") and find("make")), reason="needs Icarus Verilog and make")
verilator = pytest.mark.skipif(not (find("verilator") and find("make")), reason="needs Verilator and make")

NAME = "unit_under_test"
KINDS: dict[str, dict[str, Any]] = {
    "kept": {"keep": True},
    "streams": {"keep": True, "status": True, "tags": 3},
    "ports": {"row_length": True, "status": True, "keep": True},
    "registers": {"keep": True, "row_length": True, "status": True, "axi_lite": True},
    "passage": {"status": True, "axi_lite": True},
    "tags": {"keep": True, "status": True, "axi_lite": True, "tags": 3},
    "sliced": {"keep": True, "status": True, "register_slice": "both"},
}
MEMORIES = [method for method in METHODS if "memory" in method_class(method).storages]
HOLDS_ROWS = "index"
LOADABLE = next(method for method in METHODS if method_class(method)().unit(lanes=1).registers is not None)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def make_folder(method: str, kind: str, storage: str = "flip-flops", sram: str = "") -> Path:
        spec = method_class(method)()
        unit, examples = spec.unit(lanes=2, max_row=24, storage=storage), spec.examples()
        sets = examples if unit.registers is not None else examples[:1]
        segments = [(constants, random_rows(unit, constants, 200, np.random.default_rng(1))) for constants in sets]
        folder = tmp_path_factory.mktemp("shell") / "folder"
        export(unit, NAME, folder, segments, shell=ShellOptions(**KINDS[kind]) if kind else None, sram=sram or None)
        return folder

    return make_folder


def make(folder: Path, target: str) -> tuple[int, str]:
    """Run make in an environment without softmaxkit."""
    command = ["make", "-s", "-C", str(folder), "--no-print-directory", target, f"VERILATOR={find('verilator')}"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": ""}
    done = subprocess.run(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=300
    )
    return done.returncode, done.stdout


def passes(folder: Path) -> None:
    code, printed = make(folder, "test-shell")
    assert code == 0, printed
    beats = len((folder / "axi_results.hex").read_text().splitlines())
    assert beats > 50
    assert re.findall(r"^PASS: (\d+) result beats", printed, re.MULTILINE) == [str(beats)] * 2


@icarus
def test_ready_does_not_depend_on_payloads_that_are_not_offered(exported: Any, tmp_path: Path) -> None:
    """A full `tkeep` queue evaluates `tlast` only while a beat is offered; otherwise ready would be X."""
    assert method_class(HOLDS_ROWS)().unit(lanes=1).holds_rows
    folder = shutil.copytree(exported(HOLDS_ROWS, "kept"), tmp_path / "copy")
    passes(folder)
    monitored = (folder / f"{NAME}_axi.sv").read_text()
    broken = monitored.replace(".s_axis_tvalid(s_axis_tvalid)", ".s_axis_tvalid(s_axis_tvalid | s_axis_tlast)")
    assert broken != monitored
    (folder / f"{NAME}_axi.sv").write_text(broken)
    code, printed = make(folder, "test-shell")
    assert code != 0
    assert "is X" in printed


@icarus
@pytest.mark.parametrize(
    ("method", "kind"),
    [(LOADABLE, "tags"), (HOLDS_ROWS, "ports"), pytest.param(LOADABLE, "registers", marks=pytest.mark.slow)],
)
def test_its_bench_passes(method: str, kind: str, exported: Any, tmp_path: Path) -> None:
    passes(shutil.copytree(exported(method, kind), tmp_path / "copy"))


@pytest.mark.slow
@icarus
@verilator
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ALL_METHODS)
def test_every_bench_passes(method: str, kind: str, exported: Any) -> None:
    if kind == "passage" and method_class(method)().unit(lanes=1).registers is None:
        kind = "registers"
    folder = exported(method, kind)
    passes(folder)
    assert make(folder, "lint") == (0, "")


@pytest.mark.slow
@verilator
@pytest.mark.parametrize("kind", ["registers", "tags"])
def test_its_bench_in_verilator(kind: str, exported: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(exported(LOADABLE, kind), tmp_path / "copy")
    code, printed = make(folder, "test-shell-verilator")
    assert code == 0, printed
    assert printed.count("PASS") == 2


@verilator
@pytest.mark.parametrize(("method", "kind"), [(LOADABLE, "tags"), (HOLDS_ROWS, "kept")])
def test_lint_is_clean(method: str, kind: str, exported: Any) -> None:
    """In the unit of `index`, Verilator 5.006 sees loops where there are none; the shell around it must pass too."""
    folder = exported(method, kind)
    assert make(folder, "lint") == (0, "")
    waived = [re.findall(r"-W\w+-?\w+", line) for line in (folder / "Makefile").read_text().splitlines()]
    assert {tuple(flags) for flags in waived if "-Wall" in flags} == {("-Wall", "-Wno-UNOPTFLAT")}
    core = (folder / f"{NAME}.core").read_text()
    assert re.findall(r"verilator_options: (.*)", core) == ["[-Wall, -Wno-UNOPTFLAT]"] * 2


@pytest.mark.slow
@icarus
@pytest.mark.parametrize("kind", ["", "streams"])
@pytest.mark.parametrize("sram", ["sky130", "mine:16x16/4"])
@pytest.mark.parametrize("method", MEMORIES)
def test_memories_of_macros(method: str, sram: str, kind: str, exported: Any) -> None:
    folder = exported(method, kind, "memory", sram)
    code, printed = make(folder, "test")
    assert code == 0, printed
    assert printed.count("PASS") >= (4 if kind else 2)
    if find("verilator"):
        assert make(folder, "lint") == (0, "")
    macro = next(path.stem for path in folder.glob("*.sv") if not path.stem.startswith(NAME))
    facts = json.loads((folder / "parameters.json").read_text())
    assert f"{macro} macro (" in (folder / f"{NAME}_memory.sv").read_text()
    assert all(f"`{memory['name']}`" in (folder / "README.md").read_text() for memory in facts["memories"])


@pytest.mark.slow
@icarus
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("_axi.sv", ".rst(~aresetn)", ".rst(1'b0)"),
        ("_axi.sv", ".m_axis_tready(m_axis_tready)", ".m_axis_tready(1'b1)"),
        ("_axi.sv", ".s_axis_tkeep(s_axis_tkeep)", ".s_axis_tkeep(2'b11)"),
        ("_axi.sv", ".s_axil_awaddr(s_axil_awaddr)", ".s_axil_awaddr(s_axil_awaddr ^ 4)"),
        ("_axi.sv", ".s_axil_rdata(s_axil_rdata)", ".s_axil_rdata()"),
    ],
)
def test_a_broken_design_fails(file: str, right: str, wrong: str, exported: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(exported(LOADABLE, "registers"), tmp_path / "copy")
    text = (folder / f"{NAME}{file}").read_text()
    assert right in text
    (folder / f"{NAME}{file}").write_text(text.replace(right, wrong))
    code, printed = make(folder, "test-shell")
    assert code != 0
    assert "FAIL" in printed


TAGS, PORTS = (LOADABLE, "tags"), (HOLDS_ROWS, "ports")
SHELL_MUTANTS = {  # the name is what a bench needs to notice it
    "pins at rest": (*TAGS, "else if (filled_and) write_payload_value <=", "else write_payload_value <="),
    "responses": (*TAGS, "bus_bresp_mux_2 ? 2'h2 : 2'h0;", "2'h0;"),
    "strobes": (*TAGS, "write_valid_all = & strobe;", "write_valid_all = strobe[0];"),
    "responses that wait": (*TAGS, "bus_bresp_not = ~ bus_bvalid;", "bus_bresp_not = 1'h1;"),
    "tags beyond the sets": (*TAGS, "s_axis_tid < 2'h3", "1'h1"),
    "constants of the same tag": (*TAGS, "loading_any = | { rst, load };", "loading_any = rst;"),
    "writes while rows are inside": (LOADABLE, "passage", "= write_ready_not | write_ready_and;", "= 1'h1;"),
    "disabled interrupts": (*PORTS, "interrupt_and = errors & enable;", "interrupt_and = errors;"),
    "status between rows": (*PORTS, "cut_not = ~ source_payload[28];", "cut_not = 1'h1;"),
    "a full queue": (*PORTS, "word_4_mux = filled_5 ? word_5 : source_payload;", "word_4_mux = source_payload;"),
    "a queue of one": (*PORTS, "filled_0_and_4 = filled_0 & sink_ready;", "filled_0_and_4 = 1'h0;"),
    "a restart within a row": (*PORTS, "if (restart_7_any) restart_7 <=", "if (1'h1) restart_7 <="),
}


QUICK_MUTANTS = ("responses", "responses that wait", "constants of the same tag", "disabled interrupts")
QUICK_MUTANTS += ("status between rows", "a queue of one")


@icarus
@pytest.mark.parametrize(
    ("method", "kind", "right", "wrong"),
    [
        pytest.param(*mutant, marks=[] if name in QUICK_MUTANTS else pytest.mark.slow, id=name)
        for name, mutant in SHELL_MUTANTS.items()
    ],
)
def test_a_broken_shell_fails(method: str, kind: str, right: str, wrong: str, exported: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(exported(method, kind), tmp_path / "copy")
    text = (folder / f"{NAME}_shell.sv").read_text()
    assert text.count(right) == 1
    (folder / f"{NAME}_shell.sv").write_text(text.replace(right, wrong))
    code, printed = make(folder, "test-shell")
    assert code != 0
    assert "FAIL" in printed


@pytest.mark.slow
@icarus
@pytest.mark.parametrize(
    ("kind", "file", "digit"),
    [
        ("registers", "results", -1),
        ("registers", "reads", -1),  # the response
        ("registers", "writes", -1),
        ("ports", "steps", 43),  # `busy`
    ],
)
def test_other_vectors_fail(kind: str, file: str, digit: int, exported: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(exported(LOADABLE, kind), tmp_path / "copy")
    *lines, last = (folder / f"axi_{file}.hex").read_text().splitlines()
    digits = [*last]
    digits[digit] = f"{int(digits[digit], 16) ^ 1:x}"
    (folder / f"axi_{file}.hex").write_text("\n".join([*lines, "".join(digits)]) + "\n")
    code, printed = make(folder, "test-shell")
    assert code != 0, printed
    assert "FAIL" in printed


def test_files(exported: Any) -> None:
    added = {f"{NAME}{end}" for end in ("_axi.sv", "_shell.sv", "_axi_tb.sv", ".rdl")}
    added |= {"shell.vlt", "axi_scores.hex", "axi_results.hex", "axi_writes.hex", "axi_reads.hex"}
    with_shell, without = ({path.name for path in exported(LOADABLE, kind).iterdir()} for kind in ("registers", ""))
    assert with_shell - without - {f"{NAME}_axi.vvp"} == added
    facts = json.loads((exported(LOADABLE, "registers") / "parameters.json").read_text())["shell"]
    header = (exported(LOADABLE, "registers") / f"{NAME}_axi.sv").read_text().split(");")[0]
    assert [port["name"] for port in facts["ports"]] == re.findall(r"(\w+),?$", header, re.MULTILINE)[1:]
    assert {name for name, value in facts["options"].items() if value} == {*KINDS["registers"]}
    assert facts["constants"]["address"] + facts["constants"]["stride"] == 1 << next(
        port["bits"] for port in facts["ports"] if port["name"] == "s_axil_awaddr"
    )
    text = (exported(LOADABLE, "registers") / "README.md").read_text()
    for name in ("s_axis_tkeep", "irq", f"{NAME}.rdl", "row_length", "causal_offset"):
        assert name in text
    longest = json.loads((exported(LOADABLE, "registers") / "parameters.json").read_text())["max_row"]
    assert f"`positions` 17 (write, {longest} after a reset)" in text
    assert "A read where there is no register, or of a constant, returns 0 with SLVERR." in text
    assert "## The shell" not in (exported(LOADABLE, "") / "README.md").read_text()
