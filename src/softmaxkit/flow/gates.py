"""Gate-level simulation: compares every output with golden and records the state of all registers in every cycle."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from softmaxkit.flow.activity import state_nets
from softmaxkit.flow.cells.functions import expression
from softmaxkit.flow.netlist import Group, Netlist
from softmaxkit.flow.outcome import Outcome, Traffic
from softmaxkit.flow.simulate import TOP, Verilated
from softmaxkit.formats import Array

if TYPE_CHECKING:
    from softmaxkit.flow.vectors import Stream
    from softmaxkit.methods.base.unit import SoftmaxUnit

CHUNK = 1024
"""Bits per hexadecimal word in the file of states."""

FILE = "states"
"""Name of the file of states."""


def simulate_netlist(
    unit: SoftmaxUnit, netlist: Netlist, steady: Stream, stalled: Stream, cycles: int
) -> tuple[list[Outcome], Array]:
    """Simulate a netlist in place of its unit, once at full rate and once with gaps and stalls.

    Args:
        unit: the unit that the netlist was synthesised from.
        netlist: cells and nets.
        steady: stimulus at full rate, with the results of golden.
        stalled: the same for the run with gaps and stalls.
        cycles: number of cycles of the first run, counted from reset, in which states are recorded.

    Returns:
        the outcomes of both runs, and the states of `state_nets`; boolean, (cycles, state nets).

    Raises:
        ToolError: a tool is missing or failed.
    """
    lines = [*simulation_model(netlist, "netlist", cycles), *_with_memories(unit, netlist)]
    simulator = Verilated(unit, fast=False, verilog="\n".join(lines) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        outcomes = [simulator.run(steady, Traffic(), folder=work)]
        text = (work / FILE).read_text(encoding="ascii")
        states = read_states(text, len(state_nets(netlist)))
    outcomes.append(simulator.run(stalled, Traffic(gap=100, longest_gap=4, stall=100, longest_stall=4)))
    return outcomes, states


def simulation_model(netlist: Netlist, name: str, cycles: int) -> Iterator[str]:
    """Yield the lines of a Verilog module that behaves like a netlist and records the states of its first cycles."""
    ports = [f"input [{len(nets) - 1}:0] {port}" for port, nets in netlist.inputs.items()]
    ports += [f"output [{len(nets) - 1}:0] {port}" for port, nets in netlist.outputs.items()]
    yield f"module {name} ({', '.join(ports)});"
    yield "wire n0 = 1'b0, n1 = 1'b1;"
    for port, nets in netlist.inputs.items():
        yield from (f"wire n{net} = {port}[{bit}];" for bit, net in enumerate(nets))
    registers: dict[str, list[str]] = {}
    for group in netlist.groups:
        for place in range(len(group.instances)):
            yield from _behaviour(group, place, registers)
    for event, statements in registers.items():
        yield "\n".join([f"{event} begin", *statements, "end"])
    for port, nets in netlist.outputs.items():
        yield f"assign {port} = {{{', '.join(f'n{net}' for net in reversed(nets))}}};"
    if cycles:
        yield from _recorder(netlist, cycles)
    yield "endmodule"


def _with_memories(unit: SoftmaxUnit, netlist: Netlist) -> Iterator[str]:
    """Yield the lines of the top module, which connects the netlist to its external memories."""
    ports = {name: ("input", len(nets)) for name, nets in netlist.inputs.items()}
    ports |= {name: ("output", len(nets)) for name, nets in netlist.outputs.items()}
    inside = {name for name in ports if name.startswith(tuple(f"{memory}_" for memory in unit.memories))}
    outer = (f"{side} [{width - 1}:0] {name}" for name, (side, width) in ports.items() if name not in inside)
    yield f"module {TOP} ({', '.join(outer)});"
    for memory in unit.memories:
        signature = unit.signature.members[memory].signature
        yield f"reg [{signature.width - 1}:0] {memory}_words [0:{signature.depth - 1}];"
        for name in sorted(port for port in inside if port.startswith(f"{memory}_")):
            yield f"{'reg' if name.endswith('_read_data') else 'wire'} [{ports[name][1] - 1}:0] {name};"
        yield f"always @(posedge {netlist.clock}) begin"
        yield f"if ({memory}_write_enable) {memory}_words[{memory}_write_address] <= {memory}_write_data;"
        yield f"if ({memory}_read_enable) {memory}_read_data <= {memory}_words[{memory}_read_address];"
        yield "end"
    yield f"netlist netlist ({', '.join(f'.{name}({name})' for name in ports)});"
    yield "endmodule"


def _behaviour(group: Group, place: int, registers: dict[str, list[str]]) -> Iterator[str]:
    """Yield the behaviour of one instance; its register updates are appended to `registers`, by clock event."""
    cell, state = group.cell, group.cell.state
    nets = {pin: int(group.nets[pin][place]) for pin in cell.pins}
    instance = group.instances[place]

    def text(function: str) -> str:
        names = {pin: f"n{max(net, 0)}" for pin, net in nets.items()}
        if state is not None:
            names |= {state.names[0]: f"state{instance}", state.names[1]: f"(~state{instance})"}
        return re.sub(r"\w+", lambda match: names.get(match[0]) or f"1'd{match[0]}", expression(function).source)

    if state is not None:
        variable = f"state{instance}"
        yield f"reg {variable};"
        forced = "".join(
            f"if ({text(function)}) {variable} {{assign}} 1'd{value}; else "
            for function, value in ((state.clear, 0), (state.preset, 1))
            if function
        )
        if state.kind == "flip-flop":
            edge = "posedge" if state.clock == cell.clock_pin else "negedge"
            event = f"always @({edge} n{nets[cell.clock_pin]}"
            if forced:
                event += f" or posedge forced{instance}"
                conditions = " | ".join(text(function) for function in (state.clear, state.preset) if function)
                yield f"wire forced{instance} = {conditions};"
            update = f"{forced.format(assign='<=')}{variable} <= {text(state.data)};"
            registers.setdefault(f"{event})", []).append(update)
        else:
            opened = f"~({text(state.clock)})" if state.kind == "gate" else text(state.clock)
            event = f"always_latch {forced.format(assign='=')}if ({opened})"
            registers.setdefault(event, []).append(f"{variable} = {text(state.data)};")
    for pin in cell.outputs:
        if nets[pin] >= 0:
            yield f"wire n{nets[pin]} = {text(cell.pins[pin].function)};"


def _recorder(netlist: Netlist, cycles: int) -> Iterator[str]:
    """Yield the code that writes the states just before each rising clock edge, as a line of hexadecimal words."""
    nets = state_nets(netlist)
    yield "integer file, count = 0;"
    yield f'initial file = $fopen("{FILE}", "w");'
    (clock,) = netlist.inputs[netlist.clock]
    yield f"always @(posedge n{clock}) if (count < {cycles}) begin"
    yield "count <= count + 1;"
    for start in range(0, len(nets), CHUNK):
        bits = ", ".join(f"n{net}" for net in nets[start : start + CHUNK])
        yield f'$fwrite(file, "%h ", {{{bits}}});'
    yield '$fwrite(file, "\\n");'
    yield "end"


def read_states(text: str, count: int) -> Array:
    """Return the recorded states of `count` nets; boolean, (cycles, count)."""
    rows = []
    for line in text.splitlines():
        bits = []
        for start, word in zip(range(0, count, CHUNK), line.split(), strict=True):
            width = min(CHUNK, count - start)
            raw = np.frombuffer(bytes.fromhex(word.zfill(-(-width // 8) * 2)), np.uint8)
            bits.append(np.unpackbits(raw)[-width:])
        rows.append(np.concatenate(bits))
    return np.stack(rows).astype(np.bool_)
