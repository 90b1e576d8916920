"""`softmaxkit synth`: units, Verilog designs, FPGAs, and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softmaxkit import UQ, ConSmax, Q, Sigmoid, Softermax
from softmaxkit.cli import main
from softmaxkit.flow.simulate import can_verilate
from softmaxkit.flow.vectors import Rows
from softmaxkit.methods import ALL_METHODS
from softmaxkit.methods.base.forms import Form
from softmaxkit.studies.hardware import TrainedHead
from softmaxkit.studies.silicon import unit_of_head, units_of_forms

pytestmark = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")

MULTIPLIER = """
module multiplier (input clk, input [3:0] a, b, output reg [7:0] q);
  always @(posedge clk) q <= a * b;
endmodule
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    file = tmp_path / "small.json"
    file.write_text(json.dumps(Sigmoid(scores=Q(3, 0), output=UQ(0, 4)).to_json()))
    return str(file)


def test_a_spec(tmp_path: Path, spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    record, folder = tmp_path / "record.json", tmp_path / "out"
    latches = ("--storage", "latches")
    assert main(["synth", "--spec", spec, *latches, "--no-wires", "--json", str(record), "-o", str(folder)]) == 0
    baked, loadable = json.loads(record.read_text())["results"]
    assert (baked["form"], loadable["form"]) == ("constants baked in", "constants loadable")
    assert baked["area_um2"] < 1200 < loadable["area_um2"]
    assert (baked["mismatches"], loadable["mismatches"], baked["faults"]) == (0, 0, [])
    assert loadable["area_tables_um2"] > 0
    printed = capsys.readouterr().out
    assert f"{baked['compared']:,}" in printed
    names = sorted(path.name for path in folder.iterdir())
    assert [name for name in names if "baked" in name] == [
        "sigmoid_constants_baked_in.path.txt",
        "sigmoid_constants_baked_in.v",
    ]
    assert "sky130_fd_sc_hd__dfxtp" in (folder / "sigmoid_constants_baked_in.v").read_text()
    assert "ns" in (folder / "sigmoid_constants_baked_in.path.txt").read_text()


@pytest.mark.slow
def test_all_methods(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    assert main(["synth", "all", "--storage", "latches", "--no-wires", "--json", str(record)]) == 0
    results = json.loads(record.read_text())["results"]
    assert {result["method"] for result in results} == set(ALL_METHODS)
    assert all(result["mismatches"] == 0 < result["compared"] for result in results)


def test_a_verilog_design(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "multiplier.v"
    file.write_text(MULTIPLIER)
    assert main(["synth", "--verilog", str(file), "--json", "-"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["method"] == "multiplier"
    assert 500 < result["area_um2"] < 5000
    assert "energy_pj_per_element" not in result
    assert main(["synth", "--verilog", str(file), "--cells", "ice40", "--json", "-"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["luts"] + result["dsps"] > 0


def test_units_of_one_kind(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", "--spec", spec, "--cells", "ice40", "--constants", "baked", "--json", "-"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["form"] == "constants baked in"


def test_the_unit_of_a_head() -> None:
    constants = ConSmax().constants(beta=0.5, gamma=60.0)
    head = TrainedHead(0, 0, ConSmax(), constants, Rows(np.zeros((2, 9), int), np.ones((2, 9), bool), np.full(2, 9)))
    sizes = {"lanes": 1, "max_row": 8, "depth": None, "storage": "flip-flops"}
    for baked in (True, False):
        chosen = unit_of_head(head, "layer 0, head 0", sizes, baked=baked)
        assert chosen.unit.constants == (constants if baked else None)
        assert chosen.constants == constants
        assert chosen.rows is not None
        assert chosen.rows.lengths.tolist() == [8, 8]


def test_a_clock_that_cannot_be_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "multiplier.v"
    file.write_text(MULTIPLIER)
    assert main(["synth", "--verilog", str(file), "--clock", "0.2"]) == 1
    printed = capsys.readouterr()
    assert "a clock of 0.2 ns cannot be met; the fastest netlists reach multiplier" in printed.err
    assert "multiplier" in printed.out


def test_memory_storage_for_a_unit_without_rows() -> None:
    sizes = {"lanes": 1, "max_row": 32, "depth": None, "storage": "memory"}
    units = units_of_forms([Form("", ConSmax()), Form("", Softermax())], sizes)
    assert [unit.unit.storage for unit in units] == ["latches", "memory"]
    with pytest.raises(ValueError, match="not 'sram'"):
        units_of_forms([Form("", ConSmax())], {**sizes, "storage": "sram"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["softermax", "--cells", "tsmc"], "--cells must be sky130, asap7, ice40, ecp5, nexus or xilinx, got 'tsmc'"),
        (["softmax"], "softmax"),
        (["softermax", "--clock", "-1"], "--clock must be a period in ns, above 0 and below 1e6, got -1"),
        (["softermax", "--lanes", "3"], "lanes divide 16"),
        (["softermax", "--top", "x"], "only for use with --verilog; leave --top out"),
        (["exaq", "-I", "FOLDER", "-D", "A", "-P", "B=1"], "leave --include and --define and --parameter out"),
        (["softermax", "--cells", "ice40", "--liberty", "FOLDER/bad.v"], "leave --liberty out"),
        (["softermax", "--cells", "ice40", "--corner", "FOLDER/bad.v"], "leave --corner out"),
        (["exaq", "--cells", "ice40", "--clock", "5", "--no-wires"], "leave --clock and --wires out"),
        (
            ["exaq", "--cells", "ecp5", "--device", "25k", "--seed", "2"],
            "only for use with --place; leave --device and --seed out",
        ),
        (["exaq", "--place"], "place and route supports ice40, ecp5, nexus, got sky130"),
        (
            ["exaq", "--place", "--cells", "ecp5", "--device", "5k"],
            "the device must be one of 25k, 45k, 85k for ecp5, got '5k'",
        ),
        (["exaq", "--place", "--cells", "ecp5", "--no-wires"], "uses no cell library; leave --wires out"),
        (["softermax", "--verilog", "FOLDER/bad.v"], "--verilog takes the place of METHOD"),
        (["--constants", "baked", "--verilog", "FOLDER/bad.v"], "leave --constants out"),
        (["--lanes", "1", "--max-row", "256", "--verilog", "FOLDER/bad.v"], "leave --lanes and --max-row out"),
        (
            ["softermax", "--context", "64"],
            "without --model there is no head for --context; add --model, or leave --context out",
        ),
        (["softermax", "--constants", "loadable"], "softermax has no constants to bake in or to load; leave"),
        (["softermax", "--constants", "baked"], "softermax has no constants to bake in or to load; leave --constants"),
        (["--verilog", "FOLDER/bad.v", "--define", "A-B"], "--define must be NAME=VALUE, got 'A-B'"),
        (["--verilog", "FOLDER/bad.v", "--parameter", "W"], "--parameter must be NAME=VALUE, with a value such as 8"),
        (["--verilog", "FOLDER/bad.v", "--include", "FOLDER/absent"], "'FOLDER/absent' does not exist"),
        (["--verilog", "FOLDER/bad.v", "--top", "absent"], "there is no module absent; the files define bad"),
        (["--liberty", "FOLDER/bad.v", "exact"], "bad.v, line"),
        ([], "give either a METHOD or --spec FILE"),
        (["--pareto"], "--pareto needs a METHOD, or all"),
        (["all", "--pareto", "--depth", "4", "--clock", "5"], "leave --clock and --depth out"),
        (["--pareto", "--verilog", "FOLDER/bad.v"], "a --verilog design has no such options; leave --pareto out"),
        (["all", "--pareto", "--cells", "ice40"], "leave --pareto out"),
        (["softermax", "--storage", "memory", "--sram", "FOLDER/bad.v"], "bad.v, line"),
        (["softermax", "--sram", "FOLDER/bad.v"], "--sram needs --storage memory; leave --sram out"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.v").write_text("module bad (input a, output b) assign b = a; endmodule")
    assert main(["synth", *(argument.replace("FOLDER", str(tmp_path)) for argument in arguments)]) == 2
    assert message.replace("FOLDER", str(tmp_path)) in capsys.readouterr().err


def test_verilog_that_does_not_parse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.v"
    file.write_text("module bad (input a, output b);\n assign b = a\nendmodule\n")
    assert main(["synth", "--verilog", str(file)]) == 2
    assert "bad.v:3: ERROR: syntax error" in capsys.readouterr().err


def test_verilog_with_includes_macros_and_parameters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """File names with spaces or equal to ours, an include folder, macros, parameters, and a table from a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOFTMAXKIT_CACHE", "a cache")  # with a space, and relative
    (tmp_path / "my headers").mkdir()
    (tmp_path / "my headers" / "step.vh").write_text("`define NEXT(q) q + `STEP\n")
    (tmp_path / "table.hex").write_text("01 22 43 74\n")
    (tmp_path / "latches.v").write_text("module table4 (input [1:0] a, output [7:0] y);\nreg [7:0] words [0:3];\n"
    'initial $readmemh("table.hex", words);\nassign y = words[a];\nendmodule\n')  # fmt: skip
    (tmp_path / "my counter.v").write_text(
        '`include "step.vh"\nmodule counter #(parameter W = 4, parameter KIND = "up")\n'
        "(input clk, rst, output reg [W-1:0] q, output [7:0] y);\n"
        "table4 table4 (.a(q[1:0]), .y(y));\n"
        'always @(posedge clk) if (rst) q <= 0; else if (KIND == "up") q <= `NEXT(q); else q <= {q, ~q[W-1]};\n'
        "endmodule\n"
    )
    files = ("--verilog", "my counter.v", "--verilog", "latches.v", "--top", "counter")
    given = ("--include", "my headers", "--define", "STEP=3")
    assert main(["synth", *files, *given, "--json", "-"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    flip_flops = sum(count for name, count in result["instances_by_cell"].items() if "__df" in name)
    assert flip_flops == 4
    assert result["instances"] > flip_flops + 8  # the counter's gates and those of the table
    (tmp_path / "ring.v").write_text(
        'module ring #(parameter W = 4, KIND = "up", STEP = 1) (input clk, rst, output reg [W-1:0] q);\n'
        'always @(posedge clk) if (rst) q <= 0; else q <= KIND == "ring" ? {q, ~q[W-1]} : q + STEP; endmodule'
    )
    luts = []
    for parameters in (("--parameter", "W=7", "-P", 'KIND="ring"'), ("-P", "W=7", "-P", "STEP=-1")):
        assert main(["synth", "--verilog", "ring.v", *parameters, "--cells", "ice40", "--json", "-"]) == 0
        (result,) = json.loads(capsys.readouterr().out)["results"]
        assert result["registers"] == 7
        luts.append(result["luts"])
    assert luts[0] <= 1 < luts[1]
    assert (tmp_path / "a cache" / "mapped").is_dir()
    assert main(["synth", *files, "--define", "STEP=3"]) == 2
    assert "the included file step.vh was not found; give its folder with --include" in capsys.readouterr().err
    assert main(["synth", *files, "--include", "my headers"]) == 2
    assert "the macro STEP is not defined; give it with --define STEP=VALUE" in capsys.readouterr().err
    assert main(["synth", *files, *given, "--parameter", "Z=1"]) == 2
    assert capsys.readouterr().err.strip().endswith("error: the module counter has no parameter Z")


def test_systemverilog_that_yosys_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "packaged.sv"
    file.write_text("package p; endpackage\nmodule packaged import p::*; (input a, output b);\nendmodule\n")
    for cells in ("sky130", "ice40"):
        assert main(["synth", "--verilog", str(file), "--cells", cells]) == 2
        error = capsys.readouterr().err
        assert "packaged.sv:2: ERROR: syntax error" in error
        assert "convert the files to Verilog with sv2v" in error


def test_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "wire.v"
    file.write_text("module through (input a, output b, c); assign b = a; assign c = a & ~a; endmodule")
    assert main(["synth", "--verilog", str(file)]) == 2
    assert "through has no gates" in capsys.readouterr().err
