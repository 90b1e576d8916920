"""The search for combinational paths: in small modules, in units and in their wrappers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softmaxkit.flow.export import export
from softmaxkit.flow.interface import unit_ports
from softmaxkit.flow.paths import combinational_paths
from softmaxkit.flow.rows import random_rows
from softmaxkit.flow.tools import find
from softmaxkit.flow.verilog import to_verilog
from softmaxkit.methods import method_class
from softmaxkit.shell.options import ShellOptions

pytestmark = pytest.mark.skipif(find("yosys") is None, reason="needs Yosys")


PORTS = "input clk, input [3:0] a, b, input c, output [3:0] x, output reg [3:0] y"


def path_ends(body: str) -> list[str]:
    paths = combinational_paths({"top": f"module top ({PORTS});\n{body}\nendmodule\n"})["top"]
    return [f"{path.start} {path.end}" for path in paths]


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ("assign x = a; always @* y = b;", ["a x", "b y"]),
        ("assign x = a + b; always @(posedge clk) y <= a;", ["a x", "b x"]),
        ("reg [3:0] r; always @(posedge clk) begin r <= a; y <= x & b; end assign x = r;", []),
        ("reg [3:0] r; always @(posedge clk) r <= a; assign x = c ? r : 4'd0; always @* y = 0;", ["c x"]),
        # A bus is searched bit by bit: bit 0 reaches only bit 0.
        ("wire [3:0] w = a ^ {b[3:1], 1'b0}; assign x = {3'b0, w[0]}; always @* y = w & 4'd14;", ["a x", "a y", "b y"]),
        ("wire [3:0] w = a + b[0]; assign x = {3'b0, w[0]}; always @* y = c ? 4'd1 : 4'd2;", ["a x", "b x", "c y"]),
        # No path goes through a latch, which is written and read by registers.
        ("reg [3:0] l; always_latch if (c) l = a; assign x = l; always @* y = 0;", []),
        # Reads of a memory, asynchronous or synchronous.
        ("reg [3:0] m[0:15]; always @(posedge clk) if (c) m[a] <= a; assign x = m[b]; always @* y = 0;", ["b x"]),
        ("reg [3:0] m[0:15]; always @(posedge clk) begin if (c) m[a] <= a; y <= m[b]; end assign x = y;", []),
        ("wire signed [1:0] s = a[1:0]; wire signed [3:0] t = s; assign x = t & 4'b1000; always @* y = 0;", ["a x"]),
        ("assign x = clk ? 4'd1 : 4'd0; always @* y = 0;", ["clk x"]),
    ],
)  # fmt: skip
def test_small_modules(body: str, paths: list[str]) -> None:
    assert path_ends(body) == paths


def test_registers_stay_outside_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    """To move them into a read port, Yosys proves every bit of every word, which takes minutes with an engine's."""
    searched: list[dict[str, Any]] = []
    monkeypatch.setattr("softmaxkit.flow.paths.search", searched.append)
    body = "reg [3:0] m[0:15]; always @(posedge clk) begin if (c) m[a] <= a; y <= m[b]; end assign x = y;"
    combinational_paths({"top": f"module top ({PORTS});\n{body}\nendmodule\n"})
    (memory,) = [cell for cell in searched[0]["cells"].values() if cell["type"] == "$mem_v2"]
    assert memory["parameters"]["RD_CLK_ENABLE"] == "0"


READY = "results_ready", "scores_ready"
OFFERED = ("scores_payload", "scores_ready"), ("scores_valid", "scores_ready")
ISSUED = {
    ("consmax", "latches"): {READY, ("configuration_valid", "scores_ready")},
    # A slice that waits for space refuses a beat that ends a slice, which depends on payload and valid.
    ("softermax", "flip-flops"): {READY, *OFFERED},
    ("softermax", "memory"): {
        READY,
        *OFFERED,
        ("power_memory_read_data", "scores_ready"),
        ("power_memory_read_data", "power_memory_write_enable"),
        ("results_ready", "power_memory_read_enable"),
        ("results_ready", "power_memory_write_enable"),
    },
}


@pytest.mark.parametrize(("method", "storage"), ISSUED)
def test_units(method: str, storage: str) -> None:
    """Paths expected from the units' code; test_opensta.py compares all units with OpenSTA."""
    unit = method_class(method)().unit(1, None, storage=storage, max_row=8)
    verilog = to_verilog(unit, "unit")
    # A wrapper module with one more path.
    ports = ", ".join(f"{port.direction} [{port.bits - 1}:0] {port.name}" for port in unit_ports(unit))
    around = f"module planted ({ports});\nwire valid;\nunit unit (.results_valid(valid), .*);\n"
    around += "assign results_valid = valid & scores_valid;\nendmodule\n"
    paths = combinational_paths({"unit": verilog, "planted": around})
    assert set(paths["unit"]) == ISSUED[method, storage]
    assert set(paths["planted"]) == ISSUED[method, storage] | {("scores_valid", "results_valid")}


def test_the_folder_lists_the_paths(tmp_path: Path) -> None:
    spec = method_class("exaq")()
    unit = spec.unit(2, None, storage="memory", max_row=8)
    constants = spec.examples()[0]
    export(
        unit,
        "attention",
        tmp_path / "folder",
        [(constants, random_rows(unit, constants, 20, np.random.default_rng(0)))],
        shell=ShellOptions(status=True),
    )
    facts = json.loads((tmp_path / "folder" / "parameters.json").read_text())["combinational_paths"]
    of_shell = ("attention", "attention_shell", "attention_axi")
    joined = ("attention_memory", "attention_top")
    files = {name: (tmp_path / "folder" / f"{name}.sv").read_text() for name in (*of_shell, "attention_axis", *joined)}
    texts = {name: files[name] for name in ("attention", "attention_axis")}
    texts["attention_axi"] = "".join(files[name] for name in of_shell)
    of_top = {"attention_top": texts["attention_axi"] + "".join(files[name] for name in joined)}
    paths_of = combinational_paths(texts) | combinational_paths(of_top)
    assert facts == {name: [path._asdict() for path in paths] for name, paths in paths_of.items()}
    assert {"start": "s_axis_cfg_tvalid", "end": "s_axis_tready"} in facts["attention_axis"]
    readme = (tmp_path / "folder" / "README.md").read_text()
    sdc = (tmp_path / "folder" / "attention.sdc").read_text()
    for paths in facts.values():
        for path in paths:
            assert f"`{path['start']}` to `{path['end']}`" in readme
    listed = re.findall(r"^#   (\S+) to (\S+)$", sdc, re.MULTILINE)
    assert listed == [(path["start"], path["end"]) for paths in facts.values() for path in paths]
    assert "attention_axi {" in sdc
