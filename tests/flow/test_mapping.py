"""Mapping of users' Verilog to cells, refusals and their messages, the cache, and FPGA resource counts."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from netlists import PREFIX, cell_of, hand_netlist, mapped, settled, whole_table

from softmaxkit.flow import mapping
from softmaxkit.flow.activity import state_nets
from softmaxkit.flow.buffering import MOST
from softmaxkit.flow.cells.liberty import LibertyError
from softmaxkit.flow.cells.library import Cell, Library
from softmaxkit.flow.cells.processes import library_of
from softmaxkit.flow.fpga import FAMILIES, count_cells
from softmaxkit.flow.mapping import RECIPES, Mapped, map_design
from softmaxkit.flow.simulate import can_verilate
from softmaxkit.flow.sources import Source, read_verilog
from softmaxkit.flow.timing import analyse
from softmaxkit.flow.tools import ToolError
from softmaxkit.flow.verilog import to_rtlil

yosys = pytest.mark.skipif(not can_verilate(), reason="needs Yosys, Verilator and a C++ compiler")

GOOD = """
module adder (input [3:0] a, b, output [4:0] sum);
  assign sum = a + b;
endmodule

module sums (input clk, reset_n, set, enable, open, input [3:0] a, b, output reg [4:0] sum, kept, output reg held);
  wire [4:0] next;
  adder adder (.a(a), .b(b), .sum(next));
  always @(posedge clk or negedge reset_n) if (!reset_n) sum <= 5'd2; else sum <= next;
  always @(posedge clk) if (enable) kept <= sum;
  always @* if (open) held = a[0];
endmodule
"""


def refused(text: str, message: str, folder: Path, top: str | None = None, library: str = "sky130") -> str:
    with pytest.raises(ToolError, match=message) as caught:
        map_text(text, folder, top, library)
    return str(caught.value)


def map_text(text: str, folder: Path, top: str | None = None, library: str = "sky130") -> Mapped:
    path = folder / "design.v"
    path.write_text(text, encoding="utf-8")
    (design,) = map_design(read_verilog([path], top), library_of(library), 5.0, ["small"])
    return design


def module(body: str, ports: str = "input clk, a, b, output reg q") -> str:
    return f"module top ({ports});\n{body}\nendmodule\n"


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SOFTMAXKIT_CACHE", str(folder))
    return folder


@yosys
@pytest.mark.parametrize("process", ["sky130", "asap7"])
def test_registers_latches_and_clock_gates(process: str, tmp_path: Path) -> None:
    # ASAP7 has no flip-flop with only a clear or only a preset.
    text = GOOD if process == "sky130" else GOOD.replace(" or negedge reset_n", "")
    design = map_text(text, tmp_path, "sums", process)
    netlist = design.netlist
    assert netlist.clock == "clk"
    assert {name: len(nets) for name, nets in netlist.outputs.items()} == {"sum": 5, "kept": 5, "held": 1}
    kinds: dict[str, int] = {}
    for group in netlist.groups:
        if group.cell.state is not None:
            kinds[group.cell.state.kind] = kinds.get(group.cell.state.kind, 0) + len(group.instances)
    assert kinds == {"flip-flop": 10, "latch": 1, "gate": 1}
    assert sum(netlist.clock_nets) == 2
    timing, verilog = analyse(netlist), design.to_verilog()
    assert 0.1 < timing.period < 10
    assert verilog.startswith("module sums(")
    cells = [step.instance for step in timing.path if step.cell in netlist.library.cells]
    assert cells
    assert all(re.search(rf"{re.escape(name)} +\(", verilog) for name in cells)
    assert netlist.areas()[""] == pytest.approx(
        sum(library_of(process).cells[name].area * count for name, count in netlist.counts().items()), rel=1e-12
    )


FIRST, *OTHERS = RECIPES


@yosys
@pytest.mark.parametrize("recipe", [FIRST, *(pytest.param(recipe, marks=pytest.mark.slow) for recipe in OTHERS)])
def test_every_recipe_preserves_the_function(recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "design.v"
    path.write_text(GOOD, encoding="utf-8")
    (design,) = map_design(read_verilog([path], "adder"), library_of("sky130"), 1.0, [recipe])
    a, b = np.meshgrid(np.arange(16), np.arange(16))
    bits = {name: ((value.ravel()[:, None] >> np.arange(4)) & 1) > 0 for name, value in {"a": a, "b": b}.items()}
    netlist = design.netlist
    where = {net: (name, bit) for name, nets in netlist.inputs.items() for bit, net in enumerate(nets)}
    states = np.stack([bits[where[net][0]][:, where[net][1]] for net in state_nets(netlist)], axis=1)
    total = (settled(netlist, states)[netlist.outputs["sum"]] << np.arange(5)[:, None]).sum(axis=0)
    assert (total == (a + b).ravel()).all()
    assert design.recipe == recipe


@yosys
@pytest.mark.parametrize("limit", [pytest.param(5, marks=pytest.mark.slow), -5, -(2**31) - 5])
def test_parameters_keep_their_sign(limit: int, tmp_path: Path) -> None:
    """A negative value is compared and extended as a signed number, also beyond 32 bits."""
    path = tmp_path / "design.v"
    path.write_text("module top #(parameter L = 8) (input signed [3:0] a, output y, output [39:0] b);\n")
    with path.open("a") as file:
        file.write("assign y = a < L, b = L; endmodule\n")
    source = read_verilog([path], None, parameters=[f"L={limit}"])
    (design,) = map_design(source, library_of("sky130"), 1.0, ["small"])
    netlist, a = design.netlist, np.arange(-8, 8)
    bits = {net: ((a >> bit) & 1) > 0 for bit, net in enumerate(netlist.inputs["a"])}
    values = settled(netlist, np.stack([bits[net] for net in state_nets(netlist)], axis=1))
    assert (values[netlist.outputs["y"][0]] == (a < limit)).all()
    assert sum(int(values[net][0]) << bit for bit, net in enumerate(netlist.outputs["b"])) == limit % 2**40


REFUSED = {
    "a falling edge": (module("always @(negedge clk) q <= a & b;"), "falling edge"),
    "both edges": (
        module("reg p; always @(posedge clk) p <= a;\nalways @(negedge clk) q <= p;"),
        "falling edge",
    ),
    "a loop": (module("wire x = ~(a & y), y = ~(b & x);\nalways @(posedge clk) q <= x;"), "loop"),
    "an unknown module": (module("other other (.a(a));"), "other"),
    "two drivers": (module("assign q = a;\nassign q = b;", "input a, b, output q"), "conflicting|multiple|driver"),
    "a port of both directions": (module("assign q = a;", "input a, inout q"), "inout"),
}


@yosys
@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=pytest.mark.slow if what == "both edges" else []) for what in REFUSED]
)
def test_designs_that_are_refused(what: str, tmp_path: Path, empty_cache: Path) -> None:
    text, message = REFUSED[what]
    refused(text, message, tmp_path)
    assert not list((empty_cache / "mapped").glob(".*"))  # no partial result is left


@yosys
def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    message = refused(module("assign q = a +;\n", "input a, output q"), "reading top", tmp_path)
    assert "design.v:2" in message
    assert "syntax error" in message


@yosys
def test_a_reset_that_no_flip_flop_has(tmp_path: Path) -> None:
    refused(GOOD, "reading sums(.|\n)*async set or reset", tmp_path, "sums", "asap7")


@yosys
def test_latches_require_a_library_with_latches(tmp_path: Path) -> None:
    path = tmp_path / "design.v"
    path.write_text(module("always @* if (a) q = b;"), encoding="utf-8")
    library = library_of("sky130").without(["*__dlx*", "*__dlr*"])
    with pytest.raises(ToolError, match=r"the design has latches, but sky130.* has none"):
        map_design(read_verilog([path], None), library, 5.0, ["small"])


@yosys
@pytest.mark.parametrize(("left_out", "kept"), [("*dlxtn*", "dlxtp"), ("*dlxtp*", "dlxtn")])
def test_a_latch_of_the_other_polarity(left_out: str, kept: str, tmp_path: Path) -> None:
    path = tmp_path / "design.v"
    path.write_text(module("always @* if (!a) q = b;\nalways @* if (a) r = b;", "input a, b, output reg q, r"))
    library = library_of("sky130").without([left_out])
    (design,) = map_design(read_verilog([path], None), library, 5.0, ["small"])
    latches = {name: count for name, count in design.netlist.counts().items() if "dlx" in name}
    assert latches == {f"{PREFIX}{kept}_1": 2}


def test_the_top_must_be_named(tmp_path: Path) -> None:
    path = tmp_path / "design.v"
    path.write_text(GOOD, encoding="utf-8")
    with pytest.raises(ValueError, match=r"name the top module with --top; the files define adder, sums"):
        read_verilog([path], None)
    with pytest.raises(ValueError, match=r"there is no module other; the files define adder, sums"):
        read_verilog([path], "other")
    assert read_verilog([path], "adder").top == "adder"
    path.write_text("// nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match="the files define no module"):
        read_verilog([path], None)
    with pytest.raises(OSError, match="missing"):
        read_verilog([tmp_path / "missing.v"], None)


@pytest.mark.parametrize(
    "text",
    [
        "/* module old (a); */\n// module older\nmodule new (input a);\nendmodule",
        "(* keep *) module new (input a);\nendmodule",
        "/*\n  module old (a);\n*/ module new (input a); endmodule",
    ],
    ids=["comments", "attribute", "long comment"],
)
def test_the_only_module_is_the_top(text: str, tmp_path: Path) -> None:
    path = tmp_path / "design.v"
    path.write_text(text, encoding="utf-8")
    assert read_verilog([path], None).top == "new"


@yosys
def test_several_files_with_the_same_name(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "part.v" for folder in "ab"]
    for path, text in zip(paths, GOOD.split("\n\n"), strict=True):
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
    source = read_verilog(paths, "sums")
    assert len(source.files) == 2
    (design,) = map_design(source, library_of("sky130"), 5.0, ["small"])
    assert design.netlist.counts() == map_text(GOOD, tmp_path, "sums").netlist.counts()


def without(library: Library, unwanted: Any) -> Library:
    return replace(library, cells={name: cell for name, cell in library.cells.items() if not unwanted(cell)})


def is_inverter(cell: Cell) -> bool:
    return cell.name.startswith(tuple(PREFIX + kind for kind in ("inv", "clkinv", "bufinv")))


def test_libraries_that_lack_cells() -> None:
    source, library = Source("top", {"design.v": module("")}), library_of("sky130")
    registers = without(library, lambda cell: cell.state is not None)
    with pytest.raises(LibertyError, match=r"sky130.* has no plain flip-flop"):
        map_design(source, registers, 5.0)
    with pytest.raises(LibertyError, match=r"sky130.* has no inverter"):
        map_design(source, without(library, is_inverter), 5.0)


def test_outputs_load_their_nets() -> None:
    library = library_of("sky130")
    inverter = cell_of("inv_1")
    pins = {"A": inverter.pins["A"]._replace(capacitance=0.5), "Y": inverter.pins["Y"]._replace(capacitance=0.125)}
    loaded = replace(library, cells=library.cells | {inverter.name: replace(inverter, pins=pins)}, wire=0.0)
    chain = hand_netlist("a", "z", ["one inv_1 A=a Y=y", "two inv_1 A=y Y=z"], loaded)
    assert chain.netlist.loads[[chain.net["a"], chain.net["y"]]].tolist() == [0.5, 0.625]


@yosys
def test_every_core_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    """With a core for each recipe, all of them run at once."""
    together, plain = threading.Barrier(len(RECIPES)), mapping._yosys

    def run(yosys: str, script: str, work: Path, doing: str) -> None:
        if script != "front.ys":
            together.wait(timeout=30)
            raise ToolError("all at once")
        plain(yosys, script, work, doing)

    monkeypatch.setattr(mapping, "_yosys", run)
    monkeypatch.setattr("os.cpu_count", lambda: len(RECIPES))
    (tmp_path / "good.v").write_text(GOOD)
    with pytest.raises(ToolError, match="all at once"):
        map_design(read_verilog([tmp_path / "good.v"], "adder"), library_of("sky130"), 5.0)


@yosys
@pytest.mark.slow
def test_an_empty_cache_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit, designs = whole_table(), []
    for folder in ("one", "two", "two"):
        monkeypatch.setenv("SOFTMAXKIT_CACHE", str(tmp_path / folder))
        designs.append(mapped(unit))
    one, two, again = designs
    assert one.design == two.design == again.design
    assert one.netlist.counts() == two.netlist.counts()
    assert analyse(one.netlist).path == analyse(two.netlist).path == analyse(again.netlist).path
    kept = sorted(entry.name for entry in (tmp_path / "two" / "mapped").iterdir())
    assert kept == sorted(entry.name for entry in (tmp_path / "one" / "mapped").iterdir())
    assert len(kept) == 2  # from design to gates, and from gates to cells


def families(fast: str) -> list[Any]:
    """Return all families, of which one is for the fast tests."""
    return [pytest.param(name, marks=[] if name == fast else pytest.mark.slow) for name in FAMILIES]


@yosys
@pytest.mark.parametrize("family", families("ecp5"))
def test_counts_for_fpgas(family: str) -> None:
    counts = count_cells(Source("unit", {"design.il": to_rtlil(whole_table(), "unit")}), family)
    assert list(counts) == ["luts", "carries", "registers", "dsps", "block_rams"]
    # The table of 256 words is mapped to look-up tables or to a block memory, which includes a register.
    assert 8 < counts["luts"] + 8 * counts["block_rams"] < 500
    assert 8 < counts["registers"] + 8 * counts["block_rams"] < 100
    assert counts["dsps"] == 0


@pytest.mark.slow
@yosys
@pytest.mark.parametrize(
    ("words", "reads", "tables"),
    [
        (256, 1, 32),
        (64, 2, 16),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((32, 1, 4), (64, 1, 8), (128, 1, 16), (128, 2, 32))),
    ],
)
def test_distributed_memories_of_fpgas(words: int, reads: int, tables: int, tmp_path: Path) -> None:
    """A look-up table of an AMD 7 series FPGA has 64 bits and one read address."""
    address = f"[{words.bit_length() - 2}:0]"
    ports = f"input clk, we, input {address} a, b, input [7:0] d, output [7:0] q{', r' if reads == 2 else ''}"
    body = f"reg [7:0] m [0:{words - 1}]; always @(posedge clk) if (we) m[a] <= d; assign q = m[a];"
    (tmp_path / "memory.v").write_text(
        f"module memory ({ports}); {body} {'assign r = m[b];' if reads == 2 else ''} endmodule"
    )
    assert count_cells(read_verilog([tmp_path / "memory.v"], None), "xilinx")["luts"] == tables


@yosys
@pytest.mark.parametrize("family", families("ice40"))
def test_multipliers_of_fpgas(family: str, tmp_path: Path) -> None:
    path = tmp_path / "design.v"
    ports = "input clk, input [15:0] a, b, output reg [31:0] q"
    path.write_text(module("always @(posedge clk) q <= a * b;", ports), encoding="utf-8")
    assert count_cells(read_verilog([path], None), family)["dsps"] == 1


def test_an_unknown_family() -> None:
    with pytest.raises(ValueError, match="the FPGA family must be one of ice40, ecp5, nexus, xilinx, got 'max10'"):
        count_cells(Source("unit", {}), "max10")


@yosys
def test_nets_that_drive_many_registers_are_buffered(tmp_path: Path) -> None:
    ports = "input clk, reset_n, input [39:0] d, output reg [39:0] q"
    body = "always @(posedge clk or negedge reset_n) if (!reset_n) q <= 0; else q <= d;"
    netlist = map_text(module(body, ports), tmp_path).netlist
    assert netlist.fan_outs[~np.asarray(netlist.clock_nets)].max() <= MOST < 40


@pytest.mark.parametrize("line", ["ERROR: no such cell", "ABC: ** cmd error: aborting", "ABC: Error: no library"])
def test_errors_that_are_only_printed_are_raised(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "call", lambda *arguments: f"Warning: harmless\n{line}\n")
    with pytest.raises(ToolError, match=f"while mapping top:\n  {re.escape(line)}$"):
        mapping._yosys("yosys", "script.ys", tmp_path, "mapping top")
