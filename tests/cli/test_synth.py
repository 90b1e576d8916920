"""`softmaxkit synth`: units, anybody's Verilog, FPGAs, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from softmaxkit import ConSmax, Softermax
from softmaxkit.cli import main
from softmaxkit.flow.simulate import can_verilate
from softmaxkit.flow.vectors import Rows
from softmaxkit.methods.base.forms import Form
from softmaxkit.studies.hardware import TrainedHead
from softmaxkit.studies.silicon import unit_of_head, units_of_forms

pytestmark = [
    pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler"),
    pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable"),
]

MULTIPLIER = """
module multiplier (input clk, input [5:0] a, b, output reg [11:0] q);
  always @(posedge clk) q <= a * b;
endmodule
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    file = tmp_path / "whole.json"
    file.write_text(json.dumps(ConSmax(tables="whole").to_json()))
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
        "consmax_constants_baked_in.path.txt",
        "consmax_constants_baked_in.v",
    ]
    assert "sky130_fd_sc_hd__dfxtp" in (folder / "consmax_constants_baked_in.v").read_text()
    assert "ns" in (folder / "consmax_constants_baked_in.path.txt").read_text()


@pytest.mark.slow
def test_all_methods(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    assert main(["synth", "all", "--storage", "latches", "--no-wires", "--json", str(record)]) == 0
    results = json.loads(record.read_text())["results"]
    assert {result["method"] for result in results} == {"exact", "consmax", "softermax", "exaq"}
    assert all(result["mismatches"] == 0 < result["compared"] for result in results)


def test_anybodys_verilog(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "multiplier.v"
    file.write_text(MULTIPLIER)
    assert main(["synth", "--verilog", str(file), "--json", "-"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["method"] == "multiplier"
    assert 500 < result["area_um2"] < 5000
    assert "energy_pj_per_element" not in result
    assert main(["synth", "--verilog", str(file), "--cells", "xilinx", "--json", "-"]) == 0
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
    assert "a clock of 0.2 ns cannot be met; what can: multiplier" in printed.err
    assert "multiplier" in printed.out


def test_a_memory_where_a_unit_has_no_use_for_one() -> None:
    sizes = {"lanes": 1, "max_row": 32, "depth": None, "storage": "memory"}
    units = units_of_forms([Form("", ConSmax()), Form("", Softermax())], sizes)
    assert [unit.unit.storage for unit in units] == ["latches", "memory"]
    with pytest.raises(ValueError, match="not 'sram'"):
        units_of_forms([Form("", ConSmax())], {**sizes, "storage": "sram"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["softermax", "--cells", "tsmc"], "--cells is sky130, asap7, ice40, ecp5, xilinx, not 'tsmc'"),
        (["softmax"], "softmax"),
        (["softermax", "--clock", "-1"], "--clock is a period in ns, more than 0, not -1"),
        (["softermax", "--lanes", "3"], "lanes divide 16"),
        (["softermax", "--top", "x"], "--top is for --verilog"),
        (["softermax", "--cells", "ice40", "--liberty", "FOLDER/bad.v"], "--liberty is for standard cells"),
        (["softermax", "--verilog", "FOLDER/bad.v"], "--verilog takes the place of METHOD"),
        (["--constants", "baked", "--verilog", "FOLDER/bad.v"], "--verilog takes the place of METHOD"),
        (["softermax", "--constants", "loadable"], "softermax has no unit with loadable constants; leave --constants"),
        (["--verilog", "FOLDER/bad.v", "--top", "absent"], "there is no module absent; there is bad"),
        (["--liberty", "FOLDER/bad.v", "exact"], "bad.v, line"),
        ([], "give either a METHOD or --spec FILE"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.v").write_text("module bad (input a, output b) assign b = a; endmodule")
    assert main(["synth", *(argument.replace("FOLDER", str(tmp_path)) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_verilog_that_does_not_parse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.v"
    file.write_text("module bad (input a, output b);\n assign b = a\nendmodule\n")
    assert main(["synth", "--verilog", str(file)]) == 1
    assert "bad.v:3: ERROR: syntax error" in capsys.readouterr().err
