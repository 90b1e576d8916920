"""Memories composed of SRAM macros behave like the generic one; texts that describe no macro are refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from jinja2 import Environment, PackageLoader, StrictUndefined

from softmaxkit.methods import METHODS, method_class
from softmaxkit.shell.sram import SKY130, SramMacro, choose_macro, read_macro

icarus = pytest.mark.skipif(not shutil.which("iverilog"), reason="needs Icarus Verilog")

BENCH = """
`timescale 1ns / 1ps
module bench;
  localparam int WIDTH = %(width)d, WORDS = %(words)d, ADDRESS = %(address)d;
  reg clk = 1'b0;
  always #5 clk = ~clk;
  reg write_enable = 0, read_enable = 0;
  reg [ADDRESS-1:0] write_address, read_address;
  reg [WIDTH-1:0] write_data;
  wire [WIDTH-1:0] wanted, got;
  generic_memory #(WIDTH, WORDS, ADDRESS) one (.read_data(wanted), .*);
  macros_memory #(WIDTH, WORDS, ADDRESS) other (.read_data(got), .*);
  reg [WORDS-1:0] known = 0;
  integer compared = 0, seed = 1, at;
  reg read_once = 0;
  initial begin
    for (integer i = 0; i < 20 * WORDS + 2000; i = i + 1) begin
      @(negedge clk);
      write_enable = i < WORDS || $random(seed) %% 3 == 0;
      write_address = i < WORDS ? i : $unsigned($random(seed)) %% WORDS;
      write_data = {$random(seed), $random(seed), $random(seed), $random(seed)};
      at = $unsigned($random(seed)) %% WORDS;
      if ($random(seed) %% 2 == 0 && i > 0) at = (write_address + WORDS - 1) %% WORDS;
      read_address = at;
      read_enable = known[at] && !(write_enable && write_address == at) && $random(seed) %% 2 == 0;
      @(posedge clk);
      if (write_enable) known[write_address] = 1'b1;
      read_once = read_once | read_enable;
      #4;  // the cycle after, before the macro is through
      #5.5;  // and in its second half
      if (read_once) begin
        compared = compared + 1;
        if (got !== wanted) begin $display("FAIL: %%h, not %%h, in cycle %%0d", got, wanted, i); $finish; end
      end
    end
    $display("PASS %%0d", compared);
    $finish;
  end
endmodule
"""


def run(macro: SramMacro, width: int, words: int, folder: Path, right: str = "", wrong: str = "") -> str:
    """Return what a bench of both memories prints; in the one of macros, `right` can be replaced by `wrong`."""
    templates = Environment(loader=PackageLoader("softmaxkit.flow"), undefined=StrictUndefined, trim_blocks=True)
    files = {"memory.sv": "generic", "memory_macro.sv": "macros", "macro.sv": macro.name}
    for template, name in files.items():
        text = templates.get_template(f"{template}.j2").render(name=name, sram=macro)
        if right and template == "memory_macro.sv":
            assert text.count(right) == 1
            text = text.replace(right, wrong)
        (folder / f"{name}.sv").write_text(text)
    sizes = {"width": width, "words": words, "address": max((words - 1).bit_length(), 1)}
    (folder / "bench.sv").write_text(BENCH % sizes)
    sources = ["bench.sv", *(f"{name}.sv" for name in files.values())]
    subprocess.run(["iverilog", "-g2012", "-s", "bench", "-o", "bench", *sources], cwd=folder, check=True)
    return subprocess.run(["vvp", "bench"], cwd=folder, check=True, text=True, capture_output=True).stdout


@icarus
@pytest.mark.parametrize(
    ("macro", "width", "words"),
    [
        (SramMacro("narrow", 4, 8, 4), 10, 21),
        (SramMacro("narrow", 4, 8, 2), 4, 8),
        (SramMacro("wide", 32, 16, 8), 5, 2),
        (SKY130[0], 33, 257),
        (SKY130[1], 9, 40),
    ],
    ids=str,
)
def test_macros_behave_as_one_memory(macro: SramMacro, width: int, words: int, tmp_path: Path) -> None:
    printed = run(macro, width, words, tmp_path)
    assert printed.startswith("PASS "), printed
    assert int(printed.split()[1]) > words


@icarus
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("if (fresh) held", "if (1) held"),
        ("fresh ? chosen[WIDTH-1:0] : held", "chosen[WIDTH-1:0]"),
        ("outputs[ALONG == 1 ? 0 : place]", "outputs[0]"),
        ("write_enable && write_at[31:3] == row", "write_enable"),
        ("if (i < WIDTH)", "if (i < WIDTH - 1)"),
        ("4*column +: 4]),\n        .dout0", "0 +: 4]),\n        .dout0"),
    ],
)
def test_faults_show(right: str, wrong: str, tmp_path: Path) -> None:
    assert "FAIL" in run(SramMacro("narrow", 4, 8, 4), 10, 21, tmp_path, right, wrong)


def test_the_choice() -> None:
    method = next(method for method in METHODS if "memory" in method_class(method).storages)
    unit = method_class(method)().unit(lanes=1, max_row=100, storage="memory")
    assert choose_macro("sky130", unit) in SKY130
    assert choose_macro(SKY130[2].name, unit) == SKY130[2]
    assert choose_macro("mine:20x64/5", unit) == SramMacro("mine", 20, 64, 5)
    wide = method_class(method)().unit(lanes=16, max_row=100, storage="memory")
    assert choose_macro("sky130", wide).width == 32
    macro = SramMacro("m", 8, 16, 8)
    assert [macro.count(*size) for size in ((8, 16), (9, 16), (8, 17), (17, 33))] == [1, 2, 2, 9]
    assert (macro.masks, SKY130[0].masks, SKY130[1].masks) == (0, 4, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sky131", "an SRAM macro is sky130 or NAME:WIDTHxDEPTH.*, not 'sky131'; did you mean 'sky130'"),
        ("a:8x100", "2, 4, 8, ... words deep, not 8x100"),
        ("a:0x64", "1 bit wide or more"),
        ("wire:8x64", "'wire' is a keyword of Verilog; give the macro another name"),
        ("2a:8x64", "a macro name must be letters, digits and underscores"),
        ("a:32x64/5", "a divisor of its 32 bits, not 5"),
        ("a b:32x64", "not 'a b:32x64'"),
        ("é:32x64", "not 'é:32x64'"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_macro(text, ["sky130"])


def test_units_without_memories_are_refused() -> None:
    for method in METHODS:
        spec = method_class(method)()
        advice = "use --storage memory" if "memory" in spec.storages else "buffers no rows"
        with pytest.raises(ValueError, match=f"storage 'flip-flops'.*{advice}"):
            choose_macro("sky130", spec.unit(lanes=1))
