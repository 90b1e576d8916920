"""Wrapper of a unit that is placed in an FPGA: registers at its ports, three pins, and block memories for its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from softmaxkit.flow.fpga import FRAME
from softmaxkit.flow.interface import Port, describe

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit

MEMORY = """
module frame_memory #(parameter WIDTH = 1, WORDS = 2, ADDRESS = 1) (
  input clk, write_enable, read_enable,
  input [ADDRESS-1:0] write_address, read_address,
  input [WIDTH-1:0] write_data,
  output reg [WIDTH-1:0] read_data
);
  reg [WIDTH-1:0] words [0:WORDS-1];
  always @(posedge clk) begin
    if (write_enable) words[write_address] <= write_data;
    if (read_enable) read_data <= write_enable && write_address == read_address ? {WIDTH{1'bx}} : words[read_address];
  end
endmodule
"""
"""Block memory. A unit never reads a word in the cycle in which it is written, so any kind of block memory will do."""

DESIGN = """
module {name} (input clk, shift_in, output shift_out);
  reg [{inputs}-1:0] stimulus;
  reg [{outputs}-1:0] captured, folded;
  wire [{outputs}-1:0] result;
{wires}
  always @(posedge clk) begin
    stimulus <= {{stimulus, shift_in}};
    captured <= result;
    folded <= {{folded, 1'b0}} ^ captured;
  end
  assign shift_out = folded[{outputs}-1];
  {top} {top} ({connections});
{memories}
endmodule
"""


def frame(ports: Sequence[Port], memories: Sequence[dict[str, Any]], top: str, clock: str = "clk") -> str:
    """Return Verilog of a wrapper module `FRAME` with three pins, which instantiates a design but does not contain it.

    Every input is driven by a register of a shift chain. Every output is captured in a register, and these are folded
    into a chain that ends at a pin, so that nothing is optimised away. All paths through the ports are therefore timed
    from register to register, and the device does not run out of pins.

    Args:
        ports: ports of the design.
        memories: external memories: `name`, `words`, `bits` and `address_bits` of each.
        top: module name of the design.
        clock: name of the clock port; empty if there is none.
    """
    inputs = outputs = 0
    wires, connections = [], [f".{clock}(clk)"] if clock else []
    behind = tuple(f"{memory['name']}_" for memory in memories)
    for port in ports:
        if port.name == clock:
            continue
        if port.name.startswith(behind) and behind:
            wires.append(f"  wire [{port.bits - 1}:0] {port.name};")
            connections.append(f".{port.name}({port.name})")
        elif port.direction == "input":
            connections.append(f".{port.name}(stimulus[{inputs} +: {port.bits}])")
            inputs += port.bits
        else:
            connections.append(f".{port.name}(result[{outputs} +: {port.bits}])")
            outputs += port.bits
    text = DESIGN.format(
        name=FRAME,
        inputs=inputs,
        outputs=outputs,
        top=top,
        wires="\n".join(wires),
        connections=", ".join(connections),
        memories="\n".join(map(_memory, memories)),
    )
    return (MEMORY if memories else "") + text


def frame_of(unit: SoftmaxUnit, top: str) -> str:
    """Return the wrapper of a unit, with block memories as its external memories."""
    facts = describe(unit, top)
    return frame([Port(**port) for port in facts["ports"]], facts["memories"], top)


def _memory(memory: dict[str, Any]) -> str:
    pins = ["write_enable", "write_address", "write_data", "read_enable", "read_address", "read_data"]
    connections = ", ".join([".clk(clk)", *(f".{pin}({memory['name']}_{pin})" for pin in pins)])
    sizes = f".WIDTH({memory['bits']}), .WORDS({memory['words']}), .ADDRESS({memory['address_bits']})"
    return f"  frame_memory #({sizes}) {memory['name']} ({connections});"
