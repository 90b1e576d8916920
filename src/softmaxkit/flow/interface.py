"""The interface of a unit: ports, payloads, external memories, registers, cycles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from amaranth.hdl import Shape
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

import softmaxkit
from softmaxkit.methods.base.constants import Constants, Sets

if TYPE_CHECKING:
    from softmaxkit.methods.base.unit import SoftmaxUnit


class Port(NamedTuple):
    """A port of a module.

    Attributes:
        name: name of the port.
        direction: "input" or "output".
        bits: width.
        meaning: description in one line.
    """

    name: str
    direction: str
    bits: int
    meaning: str = ""


def describe(unit: SoftmaxUnit, name: str) -> dict[str, Any]:
    """Return the contents of `parameters.json`; `name` is that of the top module."""
    spec = unit.spec.to_json()
    layouts = {"scores": unit.scores.payload.shape(), "results": unit.results.payload.shape()}
    if unit.registers is not None:
        layouts["configuration"] = unit.registers.layout
    loading = "baked in" if unit.constants is not None else "not needed" if unit.registers is None else "loadable"
    lengths = sorted({1, min(unit.lanes, unit.max_row), unit.max_row})
    return {
        "schema": spec["schema"],
        "softmaxkit": softmaxkit.__version__,
        "name": name,
        "method": unit.spec.method,
        "variant": unit.spec.variant,
        "spec": spec,
        "lanes": unit.lanes,
        "max_row": unit.max_row,
        "depth": unit.depth,
        "storage": unit.storage,
        "constants": loading,
        **({"sets": unit.sets} if unit.sets > 1 else {}),
        "cycles": [{"row": n, "latency": unit.latency(n), "interval": unit.interval(n)} for n in lengths],
        "ports": [port._asdict() for port in unit_ports(unit)],
        "axis_ports": [port._asdict() for port in axis_ports(unit)],
        "payloads": {port: _fields(layout) for port, layout in layouts.items()},
        "memories": [memory_facts(unit, memory) for memory in unit.memories],
    }


def tables(unit: SoftmaxUnit, sets: Sequence[Constants | Sets], heads: Mapping[str, Constants]) -> dict[str, Any]:
    """Return the contents of `tables.json`: the registers, and each set of constants with the writes that load it.

    Args:
        unit: baked or loadable.
        sets: sets of constants; equal ones are listed once. The writes load the unit's first set.
        heads: constants by head name; each set lists the names of its heads.
    """
    registers = unit.registers.registers if unit.registers is not None else ()
    all_heads = [
        head for constants in sets for head in (constants.heads if isinstance(constants, Sets) else (constants,))
    ]
    different = {json.dumps(constants.to_json()): constants for constants in all_heads}
    several = {"unit_sets": unit.sets, "set_stride": unit.registers.stride} if unit.registers and unit.sets > 1 else {}
    return {
        "schema": unit.spec.to_json()["schema"],
        **several,
        "registers": [
            {
                "name": register.name,
                "address": unit.registers.address(register.name) if unit.registers else 0,
                "words": register.depth,
                "bits": register.shape.width,
                "signed": register.shape.signed,
                "meaning": register.meaning,
            }
            for register in registers
        ],
        "sets": [
            {
                "heads": [name for name, of_head in heads.items() if of_head == constants],
                "constants": constants.to_json(),
                "writes": unit.writes(constants) if unit.registers is not None else [],
            }
            for constants in different.values()
        ],
    }


def unit_ports(unit: wiring.Component) -> list[Port]:
    """Return the ports of the top module of a unit or an engine."""
    ports = [Port("clk", "input", 1, "clock, rising edge"), Port("rst", "input", 1, "reset, synchronous, active high")]
    meanings = {"payload": "fields as listed below", "valid": "a beat is offered", "ready": "the beat is accepted"}
    for path, member, _ in unit.signature.flatten(unit):
        name, direction = "_".join(map(str, path)), "input" if member.flow == In else "output"
        ports.append(Port(name, direction, Shape.cast(member.shape).width, meanings.get(str(path[-1]), "")))
    return ports


def stream_ports(unit: SoftmaxUnit) -> list[Port]:
    """Return the ports of a unit's top module, except those of its memories."""
    return [port for port in unit_ports(unit) if not port.name.startswith(tuple(f"{n}_" for n in unit.memories))]


def axis_ports(unit: SoftmaxUnit) -> list[Port]:
    """Return the ports of the AXI-Stream wrapper."""
    code, result, masks = unit.code_shape.width, unit.result_bits, unit.lanes * unit.masks
    above = "; above it, the index of the row's set of constants" if unit.set_bits else ""
    ports = [
        Port("aclk", "input", 1, "clock, rising edge"),
        Port("aresetn", "input", 1, "reset, synchronous, active low"),
        Port("s_axis_tdata", "input", unit.lanes * whole_bytes(code), f"a score per lane of {whole_bytes(code)} bits"),
        Port("s_axis_tuser", "input", masks + unit.set_bits, f"the mask, lane 0 lowest: 1 attends{above}"),
        *_handshake("s_axis", "input", "the beat is the last of its row"),
    ]
    if unit.registers is not None:
        registers = unit.registers
        bits = whole_bytes(registers.data_bits) + whole_bytes(registers.address_bits)
        ports.append(Port("s_axis_cfg_tdata", "input", bits, "the data word; above it, its address"))
        ports += _handshake("s_axis_cfg", "input", "the write is the last of its group")
    bits = masks * whole_bytes(result)
    ports.append(Port("m_axis_tdata", "output", bits, f"a result per lane of {whole_bytes(result)} bits"))
    ports += _handshake("m_axis", "output", "the beat is the last of its row")
    return ports + [port for port in unit_ports(unit) if port not in stream_ports(unit)]


def whole_bytes(bits: int) -> int:
    """Return a number of bits rounded up to whole bytes."""
    return -(-bits // 8) * 8


def _handshake(stream: str, direction: str, last: str) -> list[Port]:
    other = "output" if direction == "input" else "input"
    return [
        Port(f"{stream}_tlast", direction, 1, last),
        Port(f"{stream}_tvalid", direction, 1, "a beat is offered"),
        Port(f"{stream}_tready", other, 1, "the beat is accepted"),
    ]


def _fields(layout: data.StructLayout) -> list[dict[str, Any]]:
    """Return the fields of a payload, each of `lanes` values of `bits` bits, starting at bit `first_bit`."""
    fields = []
    for name, field in layout:
        shape, lanes = field.shape, 1
        if isinstance(shape, data.ArrayLayout):
            shape, lanes = shape.elem_shape, shape.length
        shape = Shape.cast(shape)
        fields.append(
            {"name": name, "first_bit": field.offset, "lanes": lanes, "bits": shape.width, "signed": shape.signed}
        )
    return fields


def memory_facts(unit: wiring.Component, name: str) -> dict[str, Any]:
    """Return the name and dimensions of an external memory."""
    port = unit.signature.members[name].signature
    return {
        "name": name,
        "words": port.depth,
        "bits": port.width,
        "address_bits": max((port.depth - 1).bit_length(), 1),
    }
