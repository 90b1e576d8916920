"""The files that a shell adds to the exported folder of a unit."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from amaranth.hdl import Shape
from amaranth.lib.wiring import In

from softmaxkit.files import write_text
from softmaxkit.flow.interface import Port, unit_ports
from softmaxkit.flow.vectors import Segments, hexadecimal
from softmaxkit.flow.verilog import to_verilog
from softmaxkit.shell.accesses import lines
from softmaxkit.shell.constants import switch_cycles
from softmaxkit.shell.register_map import VERSION
from softmaxkit.shell.row_beats import FIELDS
from softmaxkit.shell.shell import Shell
from softmaxkit.shell.vectors import Vectors

if TYPE_CHECKING:
    from jinja2 import Environment

    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.shell.options import ShellOptions

MEANINGS = {
    "aclk": "clock, rising edge",
    "aresetn": "reset, synchronous, active low",
    "s_axis_tdata": "one score per lane, padded to whole bytes",
    "s_axis_tkeep": "one bit per byte: a position belongs to the row if all of its bytes are kept",
    "s_axis_tuser": "attention mask, from lane 0 up; 1: attend",
    "s_axis_tlast": "last beat of the row",
    "s_axis_tid": "tag of the row, the same in all of its beats",
    "m_axis_tdata": "one result per lane, padded to whole bytes",
    "m_axis_tkeep": "one bit per byte: the tkeep of the scores in the row's last beat, 1 in earlier beats",
    "m_axis_tlast": "last beat of the row",
    "m_axis_tid": "tag of the row",
    **{
        f"{stream}_{pin}": meaning
        for stream in ("s_axis", "m_axis", "s_axis_cfg")
        for pin, meaning in (("tvalid", "a beat is offered"), ("tready", "the beat is accepted"))
    },
    "s_axis_cfg_tdata": "a word and, above it, its address",
    "s_axis_cfg_tlast": "last write of its group",
    "irq": "interrupt: an enabled error flag is set",
    "busy": "a row has entered and its last result has not left",
    "errors": "sticky error flags: bit 0, row too long; bit 1, row of length 0",
    "errors_clear": "one bit per error flag: clear it",
    "interrupt_enable": "one bit per error flag: it raises irq",
    "saturated_scores": "count of attended scores at an end of their range; stays at its maximum",
    "saturated_scores_clear": "set the count to 0",
    "saturated_results": "count of results that are the largest code; stays at its maximum",
    "saturated_results_clear": "set the count to 0",
    "row_length": "positions per row; 0 is an error",
    "causal": "row i of a block attends to its first i + causal_offset + 1 positions",
    "causal_offset": "offset of the causal mask, two's complement",
    "block_rows": "rows per block, after which i restarts at 0; 0: it does not restart",
    "block_restart": "the next row is the first of a block",
}
"""One line per port; the ports of AXI4-Lite are described by the standard."""


def shell_ports(shell: Shell) -> list[Port]:
    """Return the ports of a unit in its shell; those to its memories come last."""
    ports = [Port(name, "input", 1, MEANINGS[name]) for name in ("aclk", "aresetn")]
    for path, member, _ in shell.signature.flatten(shell):
        if path[0] in shell.outside:
            name = "_".join(map(str, path))
            direction = "input" if member.flow == In else "output"
            ports.append(Port(name, direction, Shape.cast(member.shape).width, MEANINGS.get(name, "")))
    memories = tuple(f"{name}_" for name in shell.unit.memories)
    return ports + [port for port in unit_ports(shell.unit) if port.name.startswith(memories)]


def describe_shell(unit: SoftmaxUnit, options: ShellOptions, segments: Segments) -> ShellFacts:
    """Return the facts about a unit's shell that its files need, and the vectors of its test bench.

    Raises:
        ValueError: options that conflict with each other or with the unit.
    """
    shell = Shell(unit, options)
    return ShellFacts(shell, Vectors(shell, segments))


class Beat(NamedTuple):
    """The layout of an AXI4-Stream beat in a vector file.

    Attributes:
        pins: names of the pins in the beat, from bit 0 up.
        bits: total width.
    """

    pins: list[str]
    bits: int


class ShellFacts:
    """The facts about a shell that the templates of its files use.

    Args:
        shell: to describe.
        vectors: of its test bench.

    Attributes:
        options, map: of the shell.
        ports: of the top module; `vector` if the port is declared with a range, `memory` if it connects to a memory.
        streams: name and payload width of each stream between shell and unit.
        source, sink: layouts of the beats of scores and results.
        known: outputs that are never X after a reset: handshakes, status and interrupt.
        unattended: Verilog conditions under which the score of `lane` in `beat` is ignored.
        lite: width of AXI4-Lite addresses; 0 without AXI4-Lite.
        accesses: lines of the test bench's files of `writes`, `reads` and `steps`, those that it has.
        inputs, outputs: ports of the steps, of which each is 32 bits of a line.
        copy: whether the shell has a copy of the constants.
        switch_cycles: most cycles that a row waits while the constants of another tag are loaded.
    """

    def __init__(self, shell: Shell, vectors: Vectors) -> None:
        self.shell, self.vectors, self.options, self.map = shell, vectors, shell.options, shell.map
        unit = shell.unit
        memories = tuple(f"{name}_" for name in unit.memories)
        self.ports: list[dict[str, Any]] = [
            {
                **port._asdict(),
                "vector": port.bits > 1 or port.name.endswith(("tdata", "tkeep", "tuser", "tid")),
                "memory": bool(memories) and port.name.startswith(memories),
            }
            for port in shell_ports(shell)
        ]
        names = {str(port["name"]): int(port["bits"]) for port in self.ports}
        self.streams = [{"name": name, "bits": len(getattr(unit, name).payload.as_value())} for name in shell.inside]
        pins = {
            stream: [f"{stream}_{part}" for part in FIELDS if f"{stream}_{part}" in names]
            for stream in ("s_axis", "m_axis")
        }
        self.source, self.sink = (
            Beat(stream_pins, sum(names[pin] for pin in stream_pins)) for stream_pins in pins.values()
        )
        self.known = [
            str(port["name"])
            for port in self.ports
            if port["direction"] == "output" and not port["memory"] and not _goes_with_valid(str(port["name"]))
        ]
        self.unattended = _unattended(self.source.pins, names, unit.lanes)
        self.lite = shell.map.address_bits if shell.map else 0
        software, ports = vectors.software, vectors.ports
        self.accesses: dict[str, list[str]] = {}
        if software or vectors.words:
            self.accesses["writes"] = lines(software.writes if software else vectors.words)
        if software:
            self.accesses["reads"] = lines(software.reads)
        if ports:
            self.accesses["steps"] = lines(ports.steps)
        of_name = {port["name"]: port for port in self.ports}
        self.inputs = [of_name[name] for name in ports.inputs] if ports else []
        self.outputs = [of_name[name] for name in ports.outputs] if ports else []
        self.copy = shell.options.has_copy(unit)
        self.switch_cycles = switch_cycles(unit.registers) if unit.registers is not None else 0

    def to_json(self, name: str) -> dict[str, Any]:
        """Return the entry of the shell in `parameters.json`: its top module, options, ports and registers."""
        facts: dict[str, Any] = {"name": f"{name}_axi", "options": asdict(self.options)}
        facts["ports"] = [port._asdict() for port in shell_ports(self.shell)]
        if self.map is not None:
            facts["registers"] = [
                {
                    "name": register.name,
                    "address": register.address,
                    "fields": [
                        {"name": field.name, "bits": field.bits, "access": field.access} for field in register.fields
                    ],
                }
                for register in self.map.registers
            ]
            facts["constants"] = {
                "address": self.map.base,
                "stride": self.map.stride,
                "sets": self.map.sets,
                "tables": [table._asdict() for table in self.map.tables],
            }
        return facts


def _goes_with_valid(name: str) -> bool:
    """Return whether a port is only meaningful while its valid is high."""
    handshakes = ("tvalid", "tready", "awready", "wready", "bvalid", "arready", "rvalid")
    return name.startswith(("m_axis_", "s_axis_", "s_axil_")) and not name.endswith(handshakes)


def _unattended(pins: list[str], names: dict[str, int], lanes: int) -> list[str]:
    """Return the Verilog conditions under which a score is not attended, from `tkeep` and `tuser` if present."""
    conditions, at = [], 0
    for pin in pins:
        share = names[pin] // lanes
        if pin.endswith(("tkeep", "tuser")):
            conditions.append(f"!(&beat[{at} + {share}*lane +: {share}])")
        at += names[pin]
    return conditions


def write_shell(work: Path, facts: ShellFacts, name: str, templates: Environment, context: dict[str, Any]) -> None:
    """Write the shell, the module that connects it to the unit, its registers in SystemRDL, and its test bench.

    Args:
        work: folder to write to.
        facts: about the shell.
        name: of the unit.
        templates: environment with the templates of the folder.
        context: variables of the templates.

    Raises:
        ToolError: Yosys is missing or failed.
        OSError: the folder cannot be written.
    """
    write_text(work / f"{name}_shell.sv", to_verilog(facts.shell, f"{name}_shell"))
    files = {"axi.sv": f"{name}_axi.sv", "axi_tb.sv": f"{name}_axi_tb.sv", "shell.vlt": "shell.vlt"}
    if facts.map is not None:
        files["registers.rdl"] = f"{name}.rdl"
    for template, file in files.items():
        text = templates.get_template(f"{template}.j2").render({**context, "map": facts.map, "version": VERSION})
        write_text(work / file, text)
    vectors = facts.vectors
    for stream, beats, beat in (("scores", vectors.scores, facts.source), ("results", vectors.results, facts.sink)):
        write_text(work / f"axi_{stream}.hex", "".join(hexadecimal(part, beat.bits) for part in beats))
    for kind, accesses in facts.accesses.items():
        write_text(work / f"axi_{kind}.hex", "".join(f"{line}\n" for line in accesses))
