"""The files that a shell adds to the folder of a unit."""

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
from softmaxkit.shell.constants import switch_cycles
from softmaxkit.shell.register_map import VERSION
from softmaxkit.shell.row_beats import FIELDS
from softmaxkit.shell.shell import Shell
from softmaxkit.shell.vectors import Vectors, shell_vectors

if TYPE_CHECKING:
    from jinja2 import Environment

    from softmaxkit.methods.base.unit import SoftmaxUnit
    from softmaxkit.shell.options import ShellOptions

MEANINGS = {
    "aclk": "clock, rising edge",
    "aresetn": "reset, synchronous, active low",
    "s_axis_tdata": "a score a lane, padded to whole bytes",
    "s_axis_tkeep": "a bit a byte: positions all of whose bytes are kept belong to the row",
    "s_axis_tuser": "the mask, from lane 0 up: 1 attends",
    "s_axis_tlast": "the beat is the last of its row",
    "s_axis_tid": "tag of the row, the same in all its beats",
    "m_axis_tdata": "a result a lane, padded to whole bytes",
    "m_axis_tkeep": "a bit a byte: in the last beat that of the scores, before it 1",
    "m_axis_tlast": "the beat is the last of its row",
    "m_axis_tid": "tag of the row",
    **{
        f"{stream}_{pin}": meaning
        for stream in ("s_axis", "m_axis", "s_axis_cfg")
        for pin, meaning in (("tvalid", "a beat is offered"), ("tready", "it is taken"))
    },
    "s_axis_cfg_tdata": "a word, and above it its address",
    "s_axis_cfg_tlast": "the write is the last of its group",
    "irq": "an enabled error stands",
    "busy": "a row is inside",
    "errors": "since they were cleared: bit 0 a row too long, bit 1 a row of length 0",
    "errors_clear": "a bit each: forget it",
    "interrupt_enable": "a bit each: it raises the interrupt",
    "saturated_scores": "attended scores at an end of their range; stays at its largest value",
    "saturated_scores_clear": "count from 0",
    "saturated_results": "results that are the largest code; stays at its largest value",
    "saturated_results_clear": "count from 0",
    "row_length": "positions of a row",
    "causal": "row i of a block attends to its first i + causal_offset + 1 positions",
    "causal_offset": "of a block's first row, two's complement",
    "block_rows": "rows of a block, after which i begins at 0 again; 0: it does not",
    "block_restart": "the next row is a block's first",
}
"""A line for each port; those of AXI4-Lite are the standard's."""


def shell_ports(shell: Shell) -> list[Port]:
    """Return the ports of a unit in its shell, those to its memories last."""
    ports = [Port(name, "input", 1, MEANINGS[name]) for name in ("aclk", "aresetn")]
    for path, member, _ in shell.signature.flatten(shell):
        if path[0] in shell.outside:
            name = "_".join(map(str, path))
            direction = "input" if member.flow == In else "output"
            ports.append(Port(name, direction, Shape.cast(member.shape).width, MEANINGS.get(name, "")))
    memories = tuple(f"{name}_" for name in shell.unit.memories)
    return ports + [port for port in unit_ports(shell.unit) if port.name.startswith(memories)]


def describe_shell(unit: SoftmaxUnit, options: ShellOptions, segments: Segments) -> ShellFacts:
    """Return what templates and files need to know of a unit's shell, with the vectors of its test bench."""
    shell = Shell(unit, options)
    return ShellFacts(shell, shell_vectors(shell, segments))


class Beat(NamedTuple):
    """A beat of AXI4-Stream in a file.

    Attributes:
        pins: side by side, from bit 0 up.
        bits: of all of them.
    """

    pins: list[str]
    bits: int


class ShellFacts:
    """A shell as its files show it.

    Args:
        shell: to write.
        vectors: of its test bench.

    Attributes:
        options, map: of the shell.
        ports: of the top module; `vector` where a port is more than a bit, `memory` where it is one to a memory.
        streams: to the unit: name and bits.
        source, sink: beats of the streams of scores and results.
        known: outputs that are never X after a reset: handshakes, and the shell's own numbers.
        unattended: conditions, in Verilog, that the score of a `lane` of `beat` is of no consequence.
        lite: bits of an address of AXI4-Lite; 0 for none.
        words: does the bench write words?
        numbers: at the ports that have them.
        copy: is there a copy of the constants?
        switch_cycles: that a row waits for the constants of another tag.
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
        self.source, self.sink = (Beat(each, sum(names[pin] for pin in each)) for each in pins.values())
        self.known = [
            str(port["name"])
            for port in self.ports
            if port["direction"] == "output" and not port["memory"] and not _goes_with_valid(str(port["name"]))
        ]
        self.unattended = _unattended(self.source.pins, names, unit.lanes)
        self.lite = shell.map.address_bits if shell.map else 0
        self.words = bool(self.lite) or unit.registers is not None
        self.numbers = {**dict.fromkeys(_idle_numbers(names), 0), **vectors.numbers}
        self.copy = shell.options.has_copy(unit)
        self.switch_cycles = switch_cycles(unit.registers) if unit.registers is not None else 0

    def to_json(self, name: str) -> dict[str, Any]:
        """Return what `parameters.json` says of the shell: its top module, options, ports and registers."""
        facts: dict[str, Any] = {"name": f"{name}_axi", "options": asdict(self.options)}
        facts["ports"] = [port._asdict() for port in shell_ports(self.shell)]
        if self.map is not None:
            facts["registers"] = [
                {
                    "name": register.name,
                    "address": register.address,
                    "fields": [
                        {"name": each.name, "bits": each.bits, "access": each.access} for each in register.fields
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
    """Is it a port that says something only while its valid is high?"""
    handshakes = ("tvalid", "tready", "awready", "wready", "bvalid", "arready", "rvalid")
    return name.startswith(("m_axis_", "s_axis_", "s_axil_")) and not name.endswith(handshakes)


def _unattended(pins: list[str], names: dict[str, int], lanes: int) -> list[str]:
    """Return conditions that a score is not attended: that of `tkeep`, and that of `tuser`, where they are."""
    conditions, at = [], 0
    for pin in pins:
        share = names[pin] // lanes
        if pin.endswith(("tkeep", "tuser")):
            conditions.append(f"!(&beat[{at} + {share}*lane +: {share}])")
        at += names[pin]
    return conditions


def _idle_numbers(names: dict[str, int]) -> list[str]:
    return [name for name in names if name.endswith("_clear") or name == "interrupt_enable"]


def write_shell(work: Path, facts: ShellFacts, name: str, templates: Environment, context: dict[str, Any]) -> None:
    """Write a shell, the module that joins it with the unit, its registers in SystemRDL and its test bench.

    Args:
        work: folder to write to.
        facts: of the shell.
        name: of the unit.
        templates: of the folder's files.
        context: of the templates.
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
    if facts.words:
        write_text(work / "axi_writes.hex", "".join(f"{at:x} {a:x} {w:x}\n" for at, a, w in vectors.writes))
    if facts.lite:
        write_text(work / "axi_reads.hex", "".join(f"{a:x} {w:x}\n" for a, w in vectors.reads))
