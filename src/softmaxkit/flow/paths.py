"""Combinational paths of a module from an input port to an output port, found by searching its netlist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from softmaxkit.flow.yosys import run_yosys

STEP = """
read_verilog -sv {top}.sv
hierarchy -check -top {top}
proc -norom
flatten
memory_collect
opt -fast
write_json {top}.json
"""
"""Memories are collected and nothing more: a register behind a read port ends a path as it is, and `memory` would take
minutes to prove of every bit of a wide one that it can move into the port."""

BITWISE = {"$not", "$pos", "$and", "$or", "$xor", "$xnor", "$mux", "$pmux"}
"""Cells in which a bit of A or B reaches only the bit of Y in the same position; other inputs reach all bits."""

REGISTER = re.compile(r"\$_?\w*(?:dff|dlatch|sr|ff)\w*", re.IGNORECASE)
"""Cells that end a path. Latches are among them, since those of a unit are written and read by registers."""


class PortPath(NamedTuple):
    """A combinational path.

    Attributes:
        start: input port.
        end: output port.
    """

    start: str
    end: str


def combinational_paths(modules: Mapping[str, str]) -> dict[str, list[PortPath]]:
    """Return the sorted combinational paths of modules, by module name.

    Paths are structural: from every input of a gate to its output, whatever the values of the other inputs.

    Args:
        modules: SystemVerilog by module name; modules that it instantiates are in the same text or an earlier one.

    Raises:
        ToolError: Yosys is missing or failed.
        OSError: there is no writable folder for the cache.
    """
    script = "".join(STEP.format(top=top) for top in modules)
    inputs = {f"{top}.sv": text for top, text in modules.items()}
    doing = f"searching {' and '.join(modules)} for combinational paths"
    texts = run_yosys(script, inputs, [f"{top}.json" for top in modules], doing)
    return {top: search(json.loads(text)["modules"][top]) for top, text in zip(modules, texts, strict=True)}


def search(module: Mapping[str, Any]) -> list[PortPath]:
    """Return the combinational paths of a flat module in Yosys's JSON form, sorted."""
    after: dict[Any, set[Any]] = {}
    for cell in module["cells"].values():
        for inputs, outputs in _dependences(cell):
            for bit in inputs:
                after.setdefault(bit, set()).update(outputs)
    ends = {
        bit: name for name, port in module["ports"].items() if port["direction"] == "output" for bit in port["bits"]
    }
    paths = set()
    for start, port in module["ports"].items():
        reached = set(port["bits"]) if port["direction"] == "input" else set()
        waiting = list(reached)
        while waiting:
            new = after.get(waiting.pop(), set()) - reached
            reached |= new
            waiting += new
        paths |= {PortPath(start, ends[bit]) for bit in reached & ends.keys()}
    return sorted(paths)


def _dependences(cell: Mapping[str, Any]) -> Iterator[tuple[set[Any], set[Any]]]:
    """Yield `(input bits, output bits)` of a cell that are combinationally dependent, without constants."""
    if cell["type"] == "$mem_v2":
        yield from _reads(cell)
    elif not REGISTER.fullmatch(cell["type"]) and cell["type"] != "$scopeinfo":
        pins, directions = cell["connections"], cell["port_directions"]
        outputs = {bit for pin, direction in directions.items() if direction == "output" for bit in pins[pin]}
        for pin in [pin for pin, direction in directions.items() if direction == "input"]:
            if cell["type"] in BITWISE and pin in ("A", "B"):
                yield from _bit_by_bit(pins[pin], pins["Y"])
            else:
                yield _nets(pins[pin]), outputs


def _bit_by_bit(inputs: Sequence[Any], outputs: Sequence[Any]) -> Iterator[tuple[set[Any], set[Any]]]:
    """Yield the dependences of a bitwise cell whose input is a multiple of the output's width, or narrower."""
    width = len(outputs)
    for place, bit in enumerate(inputs):
        yield _nets([bit]), {outputs[place % width]}
    yield _nets(inputs[-1:]), set(outputs[len(inputs) :])


def _nets(bits: Sequence[Any]) -> set[Any]:
    """Return the bits that are not constant."""
    return {bit for bit in bits if not isinstance(bit, str)}


def _reads(memory: Mapping[str, Any]) -> Iterator[tuple[set[Any], set[Any]]]:
    """Yield the dependences of the asynchronous read ports of a memory."""
    parameters = {name: int(memory["parameters"][name], 2) for name in ("ABITS", "WIDTH", "RD_PORTS")}
    clocked = memory["parameters"]["RD_CLK_ENABLE"][::-1]
    address, width = parameters["ABITS"], parameters["WIDTH"]
    for port in range(parameters["RD_PORTS"]):
        if clocked[port] == "0":
            inputs = memory["connections"]["RD_ADDR"][port * address : (port + 1) * address]
            outputs = memory["connections"]["RD_DATA"][port * width : (port + 1) * width]
            yield _nets(inputs), set(outputs)
