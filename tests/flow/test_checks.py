"""Users' designs that are refused because their figures would be wrong, and the messages."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from softmaxkit.flow.cells.processes import library_of
from softmaxkit.flow.checks import check_clocks, check_outputs, latches_of
from softmaxkit.flow.mapping import Mapped, map_design
from softmaxkit.flow.sources import read_verilog
from softmaxkit.flow.tools import ToolError, find

yosys = pytest.mark.skipif(not find("yosys"), reason="needs Yosys")


def module(inputs: str, outputs: str, *cells: str) -> dict[str, Any]:
    """Return a design in Yosys's JSON form; cells are "type pin=net pin=net", ports "name" or "name:bits"."""
    bits: dict[str, int] = {}

    def bit(net: str) -> int:
        return bits.setdefault(net, len(bits) + 2)

    ports = {}
    for direction, names in (("input", inputs), ("output", outputs)):
        for port in names.split():
            name, _, width = port.partition(":")
            port_bits = [bit(f"{name}[{place}]") for place in range(int(width))] if width else [bit(name)]
            ports[name] = {"direction": direction, "bits": port_bits}
    built = {}
    for number, (kind, *pins) in enumerate(cell.split() for cell in cells):
        connections = {pin: [bit(net)] for pin, net in (pair.split("=") for pair in pins)}
        built[f"cell{number}"] = {"type": kind, "connections": connections}
    names = {name: {"hide_name": 0, "bits": [place]} for name, place in bits.items()}
    return {"ports": ports, "cells": built, "netnames": names}


PLAIN = ("$_DFF_P_ C=clk D=d Q=q", "$_DFFE_PP_ C=clk D=q E=d Q=r")

REFUSED = {
    "two clocks": (
        module("clk other d", "q", *PLAIN, "$_DFF_PN0_ C=other D=d Q=s R=d"),
        "the design has several clocks \\(clk and other\\); a design must have a single clock",
    ),
    "a gated clock": (module("clk d", "q", "$_AND_ A=clk B=d Y=g", "$_DFF_P_ C=g D=d Q=q"), "the clock g is gated"),
    "a divided clock": (module("clk d", "q", *PLAIN, "$_DFF_P_ C=r D=d Q=s"), "the clock r is divided"),
    "a clock of a latch": (module("e d", "q", "$_DLATCH_P_ E=e D=d Q=g", "$_DFF_P_ C=g D=d Q=q"), "the clock g is"),
    "one bit of a port": (module("clk:2 d", "q", "$_DFF_P_ C=clk[1] D=d Q=q"), r"the clock clk\[1\] is one bit of a"),
    "the clock as data": (module("clk d", "q", *PLAIN, "$_DFF_P_ C=clk D=clk Q=s"), "the clock clk is used as data"),
    "through a gate": (
        module("clk d", "q", *PLAIN, "$_AND_ A=clk B=d Y=x", "$_NOT_ A=x Y=y", "$_DFF_P_ C=clk D=y Q=s"),
        "the clock clk is used as data in y",
    ),
    "to an output": (module("clk d", "q y", *PLAIN, "$_AND_ A=clk B=d Y=y"), "the clock clk is used as data in y"),
    "as a reset": (module("clk d", "q", *PLAIN, "$_DFF_PN0_ C=clk R=clk D=d Q=s"), "the clock clk is used as data"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_clocks_that_are_refused(what: str) -> None:
    design, message = REFUSED[what]
    with pytest.raises(ToolError, match=message):
        check_clocks(design)


def test_a_clock_without_a_driver() -> None:
    design = module("d", "q", "$_DFF_P_ C=c D=d Q=q")
    design["cells"]["cell0"]["connections"]["C"] = ["x"]
    with pytest.raises(ToolError, match="the clock 'x' is constant"):
        check_clocks(design)


def test_one_clock_and_latches_that_it_opens() -> None:
    """As in units, where the clock goes through a gate to the enable of a latch."""
    latches = ("$_NAND_ A=clk B=d Y=e", "$_DLATCH_N_ E=e D=q Q=held", "$_DLATCH_P_ E=clk D=q Q=other")
    design = module("clk d", "held", *PLAIN, *latches)
    check_clocks(design)
    assert latches_of(design) == ["held", "other"]
    check_clocks(module("a b", "y", "$_AND_ A=a B=b Y=y"))  # without a clock
    check_outputs(design)


def map_text(text: str, folder: Path) -> Mapped:
    (folder / "design.v").write_text(text, encoding="utf-8")
    (design,) = map_design(read_verilog([folder / "design.v"], "top"), library_of("sky130"), 5.0, ["small"])
    return design


COUNTER = "always @(posedge %s) if (rst) q <= 0; else q <= q + 1; endmodule"

DESIGNS = {
    "gated": f"wire gated = clk & en; {COUNTER % 'gated'}",
    "half": f"reg half; always @(posedge clk) half <= rst ? 0 : ~half; {COUNTER % 'half'}",
    "clk and en": f"reg p; always @(posedge en) p <= rst; {COUNTER.replace('rst', 'p') % 'clk'}",
    "q": "always @* q = en ? {4{rst}} : 4'bz; endmodule",
}


@yosys
@pytest.mark.parametrize(
    "signal", [pytest.param(name, marks=[] if name in ("gated", "q") else pytest.mark.slow) for name in DESIGNS]
)
def test_refused_verilog_names_the_signal(signal: str, tmp_path: Path) -> None:
    kind = "tri-state" if signal == "q" else "a design must have a single clock"
    with pytest.raises(ToolError, match=rf"(?:clock |clocks \(|^){signal}\b.*{kind}"):
        map_text(f"module top (input clk, rst, en, output reg [3:0] q); {DESIGNS[signal]}", tmp_path)


@yosys
def test_tables_keep_their_contents(tmp_path: Path) -> None:
    """A memory that is never written is a table, as in any synthesis tool."""
    table = "reg [7:0] m [0:15]; integer i; initial for (i = 0; i < 16; i = i + 1) m[i] = i * i + 3; assign y = m[a];"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        design = map_text(f"module top (input [3:0] a, output [7:0] y); {table} endmodule", tmp_path)
    assert len(design.netlist.names) >= 8


@yosys
def test_registers_lose_their_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTMAXKIT_CACHE", str(tmp_path / "cache"))
    written = "initial q = 1; initial m[0] = 85; always @(posedge clk) begin q <= y[0]; if (q) m[a] <= d; end"
    ports = "input clk, input [1:0] a, input [7:0] d, output [7:0] y, output reg q"
    text = f"module top ({ports}); reg [7:0] m [0:3]; {written} assign y = m[a]; endmodule"
    for _ in range(2):  # the second time from the cache
        with pytest.warns(
            UserWarning, match=r"top: the initial values of q, m\[0\] are dropped, since cells have none"
        ):
            map_text(text, tmp_path)


@yosys
def test_modules_with_keep_hierarchy_are_mapped_too(tmp_path: Path) -> None:
    part = "(* keep_hierarchy *) module part (input clk, d, output reg q); always @(posedge clk) q <= ~d; endmodule\n"
    design = map_text(f"{part} module top (input clk, d, output q); part part (clk, d, q); endmodule", tmp_path)
    assert sorted(name.split("__")[1][:5] for name in design.netlist.counts()) == ["dfxtp", "inv_1"]


@yosys
def test_latches_are_reported(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="top: q are latches; their paths are timed from the opening"):
        map_text("module top (input e, d, output reg q); always @* if (e) q = d; endmodule", tmp_path)
