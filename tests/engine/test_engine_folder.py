"""The bench, assertions and constraints in the folder of an engine; engines that are broken in the Verilog fail."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from softmaxkit import ConSmax, Softermax
from softmaxkit.engine.engine import Engine
from softmaxkit.engine.export import export_engine
from softmaxkit.engine.golden import Attention
from softmaxkit.flow.cells.processes import library_of
from softmaxkit.flow.cells.writing import to_liberty
from softmaxkit.flow.constraints import Constraints
from softmaxkit.flow.mapping import map_design
from softmaxkit.flow.simulate import can_verilate
from softmaxkit.flow.sources import Source
from softmaxkit.flow.timing import analyse
from softmaxkit.flow.tools import find
from softmaxkit.methods.base.spec import Spec

pytestmark = pytest.mark.skipif(not (find("yosys") and find("make")), reason="needs Yosys and make")
icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="needs Icarus Verilog")
NAME = "attention"
CONSTRAINTS = Constraints(40.0, input_delay=3.0, output_delay=5.0)


def exported(spec: Spec, pipeline: str, folder: Path, storage: str = "flip-flops") -> Path:
    engine = Engine(Attention.of(spec, 4), rows=2, columns=2, max_keys=5, pipeline=pipeline, storage=storage)
    export_engine(engine, NAME, folder, CONSTRAINTS)
    return folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(ConSmax(), "element", tmp_path_factory.mktemp("engine") / "folder")


def ran(command: list[str], folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False
    )
    return done.returncode, done.stdout


def bench(folder: Path, *plusargs: str) -> tuple[int, str]:
    """Run the bench in Icarus once."""
    code, printed = ran(["make", "-s", f"{NAME}.vvp"], folder)
    assert code == 0, printed
    return ran(["vvp", "-N", f"{NAME}.vvp", *plusargs], folder)


def test_constraints(sound: Path) -> None:
    """They are for all ports of the engine, and are the numbers that were given."""
    sdc = (sound / f"{NAME}.sdc").read_text()
    values = dict(re.findall(r"\{ set (\w+) (\S+) \}", sdc))
    assert (values["period"], values["input_delay"], values["output_delay"]) == ("40.0", "3.0", "5.0")
    assert values["interface"] == NAME
    header = re.search(rf"^module {NAME}\(([^)]*)\)", (sound / f"{NAME}.sv").read_text(), re.MULTILINE)
    assert header is not None
    assert set(re.findall(r"^      (\w+)", sdc, re.MULTILINE)) == set(re.findall(r"\w+", header[1])) - {"clk"}
    assert "#   configuration_valid to queries_ready\n" in sdc


@icarus
@pytest.mark.parametrize(
    ("spec", "pipeline", "storage"),
    [(Softermax(), "token", "memory"), pytest.param(Softermax(), "deferred", "flip-flops", marks=pytest.mark.slow)],
    ids=str,
)
def test_the_bench_starts_from_x(spec: Spec, pipeline: str, storage: str, tmp_path: Path) -> None:
    """No handshake is X while nothing is offered, also where the next query may have to wait for the one before."""
    folder = exported(spec, pipeline, tmp_path / "folder", storage)
    code, printed = ran(["make", "-s", "test"], folder)
    assert code == 0, printed
    assert printed.count("PASS") == 2


CHANGED, BEATS = "an offer changed or was withdrawn", "an output has too few or too many beats"
FAULTS = {
    "withdraws": ({"outputs_valid": "{} & ~waited"}, CHANGED),
    "changes": ({"outputs_payload": "{} ^ waited"}, CHANGED),
    "endless": ({"outputs_payload": "{} & ~(17'b1 << 16)"}, BEATS),
    "ends early": ({"outputs_payload": "{} | (17'b1 << 16)"}, BEATS),
    "twice": ({"outputs_ready": "{} & (again | ~outputs_payload[16])"}, "an output belongs to no query"),
    "loads inside": ({"configuration_ready": "1'b1"}, "a write was accepted while a query was inside"),
    "passes": ({"queries_ready": "1'b1"}, "a query passed a write"),
    "unknown": ({"queries_ready": "{} & (queries_valid | ~queries_payload[0])"}, "a handshake of the engine is X"),
    "silent": ({"outputs_valid": "1'b0", "outputs_ready": "1'b0"}, "an output is missing"),
    "waits": ({"outputs_valid": "{} & outputs_ready"}, "an output waits for ready"),
}
"""What is wrong about the signals of a sound engine, by port, and the assertion that fails."""

PLUSARGS = {"twice": ["+gaps=95"], "silent": ["+gaps=0", "+stalls=0"], "waits": ["+stalls=100"]}


def break_engine(folder: Path, fault: str) -> None:
    """Put a module with a fault at some ports around the engine."""
    path = folder / f"{NAME}.sv"
    wrong, _ = FAULTS[fault]
    text = path.read_text().replace(f"module {NAME}(", f"module {NAME}_sound(")
    sva = (folder / f"{NAME}_sva.sv").read_text()
    ports = re.findall(r"^  input wire +(\[\S+\])? +(\w+),?$", sva, re.MULTILINE)
    outputs = {"queries_ready", "outputs_payload", "outputs_valid", "configuration_ready"}
    declared = ", ".join(f"{'output' if name in outputs else 'input'} wire {bits} {name}" for bits, name in ports)
    lines = []
    for bits, name in [port for port in ports if port[1] in wrong]:
        source, sink = (f"sound_{name}", name) if name in outputs else (name, f"sound_{name}")
        lines.append(f"  wire {bits} sound_{name};\n  assign {sink} = {wrong[name].format(source)};\n")
    connections = ", ".join(f".{name}({'sound_' if name in wrong else ''}{name})" for _, name in ports)
    path.write_text(
        f"{text}\nmodule {NAME}({declared});\n  reg waited = 0, again = 0;\n"
        "  always @(posedge clk) waited <= outputs_valid && !outputs_ready;\n"
        "  always @(posedge clk) if (outputs_valid && outputs_ready && outputs_payload[16]) again <= ~again;\n"
        f"{''.join(lines)}  {NAME}_sound engine({connections});\nendmodule\n"
    )


@icarus
@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=[] if name in ("withdraws", "unknown") else pytest.mark.slow) for name in FAULTS]
)
def test_a_broken_engine_violates_an_assertion(fault: str, sound: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sound, tmp_path / "copy")
    break_engine(folder, fault)
    code, printed = bench(folder, *PLUSARGS.get(fault, []))
    assert code != 0
    assert re.search(rf"^FATAL: {NAME}_sva\.sv:\d+: {FAULTS[fault][1]}$", printed, re.MULTILINE), printed


@pytest.mark.slow
@pytest.mark.skipif(not can_verilate(), reason="needs Verilator and a C++ compiler")
def test_the_assertions_bind_in_verilator(sound: Path, no_python: None, tmp_path: Path) -> None:
    run = ["make", "-s", "test-verilator", f"VERILATOR={find('verilator')}"]
    folder = shutil.copytree(sound, tmp_path / "copy")
    code, printed = ran(run, folder)
    assert code == 0, printed
    assert printed.count("PASS") == 2
    shutil.rmtree(folder / "build")
    break_engine(folder, "withdraws")
    code, printed = ran(run, folder)
    assert code != 0
    assert CHANGED in printed


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sta") is None, reason="needs OpenSTA (Debian: apt install opensta)")
def test_opensta_under_the_constraints(sound: Path, tmp_path: Path) -> None:
    """It reports no error, as it would for a port that is missing, and the slack is ours."""
    folder = shutil.copytree(sound, tmp_path / "copy")
    library = replace(library_of("sky130"), wire=0.0)
    (design,) = map_design(Source(NAME, {f"{NAME}.sv": (folder / f"{NAME}.sv").read_text()}), library, 5.0, ["small"])
    (folder / "netlist.v").write_text(design.to_verilog())
    (folder / "cells.lib").write_text(to_liberty(design.netlist.library, analysis=True))
    variables = ["LIBERTY=cells.lib", "NETLIST=netlist.v", "TOP=" + re.findall(r"module (\w+)", design.to_verilog())[0]]
    code, printed = ran(["env", *variables, "sta", "-no_splash", "-exit", f"{NAME}_sta.tcl"], folder)
    assert code == 0, printed
    assert not re.search(r"\b[Ee]rror\b|no clock|unconstrained", printed), printed
    slacks = [float(slack) for slack in re.findall(r"(-?[\d.]+)\s+slack", printed.partition("Hold:")[0])]
    assert "40.000000   clock clk (rise edge)" in printed
    ours = analyse(design.netlist, CONSTRAINTS.input_slew, CONSTRAINTS.load, *CONSTRAINTS.delays)
    close = 1e-5 * CONSTRAINTS.period  # OpenSTA computes in float32 and reads six digits of each library value
    assert min(slacks) == pytest.approx(ours.slack(CONSTRAINTS.period), abs=close)
