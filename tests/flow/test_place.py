"""Placement in FPGAs: the wrapper of a unit, figures that equal nextpnr's report, devices that are too small."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from netlists import whole_table

from softmaxkit import Softermax
from softmaxkit.cli import main
from softmaxkit.flow import place as placing_module
from softmaxkit.flow.fpga import FRAME, count_cells, resources
from softmaxkit.flow.frame import frame_of
from softmaxkit.flow.place import DoesNotFit, Placing, place_unit, place_verilog
from softmaxkit.flow.routers import ROUTERS, device_of
from softmaxkit.flow.sources import Source, read_verilog
from softmaxkit.flow.tools import ToolError, find
from softmaxkit.flow.verilog import to_rtlil

pytestmark = pytest.mark.skipif(find("yosys") is None, reason="needs Yosys")


def needs(family: str) -> Any:
    """Return the skip mark of a test that runs the router of a family."""
    tool = ROUTERS[family].tool
    return pytest.mark.skipif(find(tool) is None, reason=f"needs {tool} (pip install 'softmaxkit[fpga]')")


@pytest.mark.slow
@pytest.mark.parametrize("family", [pytest.param(family, marks=needs(family)) for family in ROUTERS])
def test_figures_are_those_of_the_report(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = []
    critical = placing_module._critical
    monkeypatch.setattr(placing_module, "_critical", lambda report: reports.append(report) or critical(report))
    placement = place_unit(whole_table(), family, Placing(seed=3, target=50.0))
    (report,) = reports
    figures = placement.figures()
    (clock,) = report["fmax"].values()
    assert figures["fmax_mhz"] == round(clock["achieved"], 3)
    assert clock["constraint"] == pytest.approx(50.0)
    assert figures["clock_met"] == (figures["fmax_mhz"] >= 50.0)
    path = figures["longest_path"]
    assert 1e3 / (path["logic_ns"] + path["routing_ns"]) == pytest.approx(figures["fmax_mhz"], rel=0.01)
    # The unit alone is as counted, and the wrapper adds a register per input and two per output.
    unit = Source("unit", {"design.il": to_rtlil(whole_table(), "unit")})
    alone = count_cells(unit, family)
    assert figures["luts"] == pytest.approx(alone.pop("luts"), rel=0.1)  # restructured in the wrapper
    assert {kind: figures[kind] for kind in alone} == alone
    ports = re.findall(r"(stimulus|result)\[\d+ \+: (\d+)\]", frame_of(whole_table(), "unit"))
    around = sum(int(bits) * (1 if side == "stimulus" else 2) for side, bits in ports)
    assert around - 2 <= figures["frame_registers"] <= around  # the lowest bit of a chain may be optimised away
    assert figures["placed_registers"] == figures["registers"] + figures["frame_registers"]
    assert figures["placed_luts"] >= figures["luts"]
    for kind, bel in ROUTERS[family].resources.items():
        assert figures[f"device_{kind}"] == report["utilization"][bel]["available"] > figures[f"placed_{kind}"]
    assert placement.bitstream
    assert len(placement.bitstream) > 50_000


@pytest.mark.slow
@needs("ice40")
def test_seeds() -> None:
    first, again, other = (place_unit(whole_table(), "ice40", Placing(seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first.bitstream != other.bitstream


@pytest.mark.slow
@needs("ecp5")
def test_external_memories_are_block_memories() -> None:
    placement = place_unit(Softermax().unit(1, None, storage="memory", max_row=256), "ecp5")
    assert placement.frame["block_rams"] == 1
    assert placement.used["block_rams"] == placement.counts["block_rams"] + 1
    assert placement.path["from"].startswith(("unit.", "power_memory"))


@needs("ice40")
@pytest.mark.slow
def test_a_device_that_is_too_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "many.v"
    squares = " ^ ".join(f"a[{place}+:16] * b[{place}+:16]" for place in range(0, 144, 16))
    file.write_text(f"module many (input [143:0] a, b, output [31:0] x); assign x = {squares}; endmodule")
    with pytest.raises(
        DoesNotFit, match="does not fit into iCE40UP5K, SG48: it has too few ICESTORM_DSP; give another"
    ):
        place_verilog(read_verilog([file], None), "ice40")
    assert main(["synth", "--verilog", str(file), "--cells", "ice40", "--place"]) == 1
    printed = capsys.readouterr()
    assert "does not fit into iCE40UP5K" in printed.err
    assert "does not fit" in printed.out


COUNTER = """
module counter #(parameter WIDTH = 4) (input clock, input [WIDTH-1:0] step, output reg [WIDTH-1:0] count);
  always @(posedge clock) count <= count + step;
endmodule
"""


@needs("ice40")
@pytest.mark.slow
def test_users_verilog(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "counter.v"
    file.write_text(COUNTER)
    arguments = [
        "synth",
        "--verilog",
        str(file),
        "--cells",
        "ice40",
        "--place",
        "-P",
        "WIDTH=6",
        "-o",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, "--clock", "20", "--json", "-"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["registers"] == 6
    assert result["clock_met"]
    assert result["target_mhz"] == pytest.approx(50)
    assert (tmp_path / "out" / "counter.bit").stat().st_size > 50_000
    assert main([*arguments, "--clock", "0.5"]) == 1
    assert "a clock of 0.5 ns cannot be met; the fastest netlists reach counter" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("module m (input a, b, output reg x, y); always @(posedge a) x <= b; always @(posedge b) y <= a;", "a and b"),
        ("module m (inout a, output b); assign b = a;", "port a of m is an inout"),
    ],
)  # fmt: skip
@needs("ice40")
def test_designs_that_cannot_be_placed(body: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "m.v"
    file.write_text(f"{body} endmodule\n")
    with pytest.raises(ToolError, match=message):
        place_verilog(read_verilog([file], None), "ice40")


@pytest.mark.parametrize("family", ["xilinx", "ice"])
def test_families_without_a_router(family: str) -> None:
    with pytest.raises(ValueError, match=f"place and route supports ice40, ecp5, nexus, got {family}"):
        place_verilog(Source("m", {"m.v": "module m; endmodule"}), family)


def test_missing_tools_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softmaxkit.flow.tools._candidates", lambda tool: [])
    for family, router in ROUTERS.items():
        with pytest.raises(
            ToolError, match=rf"^{router.tool} is not installed; get it with pip install 'softmaxkit\[fpga\]'$"
        ):
            place_unit(whole_table(), family)
    with pytest.raises(ValueError, match="the device must be one of 25k, 45k, 85k for ecp5, got '12k'"):
        device_of("ecp5", "12k")


def test_cells_with_several_tables() -> None:
    assert resources({"LUT4": 3, "CCU2C": 2, "TRELLIS_DPR16X4": 1, "TRELLIS_FF": 5, "PFUMX": 9}, "ecp5") == {
        "luts": 3 + 4 + 4,
        "carries": 2,
        "registers": 5,
        "dsps": 0,
        "block_rams": 0,
    }
    assert f"module {FRAME} (" in frame_of(whole_table(), "unit")
