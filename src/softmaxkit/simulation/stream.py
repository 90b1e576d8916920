"""Engines for Stream (PyPI: stream-dse): cores with our figures, and an example that prices attention on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from softmaxkit.blocks.stream import beats
from softmaxkit.files import whole_folder, write_text
from softmaxkit.simulation.arrays import QUERY_KEY, VALUE
from softmaxkit.simulation.costs import Costs
from softmaxkit.simulation.exports import Exported, exported
from softmaxkit.simulation.simulate import SimulationOptions
from softmaxkit.simulation.stream_example import EXAMPLE
from softmaxkit.studies.progress import Say

SOFTMAX = ("ReduceMax", "Exp", "ReduceSum", "Div")
"""The operators into which Stream takes a softmax apart, each for every score or over all of them."""

ELEMENT = ("Sigmoid",)
"""What stands for a method that looks at every score by itself: an activation, which Stream prices like any other."""

ROWS_HELD = {SOFTMAX: 8, ELEMENT: 4}
"""Rows for which a core needs room in stream-dse 2.1.1: two of all that its operators take from other cores or from
each other, and give to them."""

READS, WRITES = 5, 3
"""How often stream-dse 2.1.1 reads and writes a row in the memory of a unit: it is written as scores, powers and
weights, read by each operator, and read to leave. The unit does both once."""


def write_stream(folder: Path, options: SimulationOptions, say: Say) -> list[str]:
    """Write a folder for each method and pipeline: hardware, its cores, and an example.

    Energies are in pJ, areas in um2. Stream prices a core's operation by one figure, and takes a softmax apart into
    `SOFTMAX`: each of these has its share of the energy of a score, and the memory in which rows wait its share of what
    a row takes there. Its schedule is its own; that of the engine is what `softmaxkit simulate` has.

    Args:
        folder: for the folders; those of the same names are replaced.
        options: what to write.
        say: called with why a pipeline is left out.

    Returns:
        the names of the folders.

    Raises:
        ValueError: no record says what a part costs, or two units have one name; nothing is written then.
    """
    written = exported(options, say, _files)
    for name, files in written.items():
        with whole_folder(folder / name) as work:
            for file, text in files.items():
                write_text(work / file, text)
    return [*written]


def _files(unit: Exported) -> dict[str, str]:
    """Return the files of a unit and the engine around it, by their names."""
    hardware, costs, sizes = unit.options.hardware, unit.costs, unit.engine.sizes
    element = unit.pipeline == "element"
    buffers = hardware.buffers
    cores = {
        "qk_array": _array("qk_array", costs, QUERY_KEY, "key_buffer", buffers.key_bytes, "MatMul"),
        "pv_array": _array("pv_array", costs, VALUE, "value_buffer", buffers.value_bytes, "Gemm"),
        "softmax_unit": _unit(costs, ELEMENT if element else SOFTMAX),
        "dram": _dram(unit.options),
    }
    width = min(round(8 * hardware.bytes_per_cycle), sizes.word_bits)
    system: dict[str, Any] = {
        "name": unit.name.replace("-", "_"),
        "cores": {place: f"./{name}.yaml" for place, name in enumerate(cores)},
        "offchip_core_id": len(cores) - 1,
        "unit_energy_cost": 0,
        "core_connectivity": [
            {"type": "link", "cores": [0, 2], "bandwidth": 8 * sizes.rows},
            {"type": "link", "cores": [1, 2], "bandwidth": 8 * sizes.rows},
            *({"type": "link", "cores": [place, 3], "bandwidth": width} for place in range(3)),
        ],
    }
    files = {f"{name}.yaml": yaml.safe_dump(core, sort_keys=False) for name, core in cores.items()}
    files["hardware.yaml"] = yaml.safe_dump(system, sort_keys=False)
    files["attention.py"] = EXAMPLE.substitute(
        rows=min(costs.keys, 64),
        keys=min(costs.keys, 256, buffers.key_bytes // sizes.channels, buffers.value_bytes // sizes.channels),
        channels=sizes.channels,
        operator=ELEMENT[0] if element else "Softmax",
        arguments="" if element else ", axis=-1",
    )
    return files


def _array(name: str, costs: Costs, array: str, buffer: str, size: int, operator: str) -> dict[str, Any]:
    """Return the core of an array, with its buffer of so many bytes."""
    part, sizes, made = costs.array(array), costs.sizes, costs.buffer(size)
    multipliers = sizes.rows * sizes.columns
    write, read = costs.access(made)
    # Stream takes the room of a core from the memory of its first operand. This one is in the array, with its figures.
    room = 8 * (size + 2 * (_row(costs) + sizes.channels))
    return {
        "name": name,
        "type": "zigzag.compute",
        "memories": {
            "registers": _memory(["I1", "O"], ["D1", "D2"], sizes.word_bits, room),
            buffer: _memory(["I2"], ["D1", "D2"], sizes.word_bits, 8 * size, read, write, made.area),
        },
        "operational_array": {
            "unit_energy": part.energy_pj / multipliers,
            "unit_area": part.area_um2 / multipliers,
            "dimensions": ["D1", "D2"],
            "sizes": [sizes.rows, sizes.columns],
        },
        "operator_types": [operator],
    }


def _unit(costs: Costs, operators: tuple[str, ...]) -> dict[str, Any]:
    """Return the core of the softmax unit, with the memory in which its rows wait, if they do.

    Stream hands over no less than a row, so there is room for some in any unit. Without such a memory that costs
    nothing: what waits there is in registers of the unit, with its figures.
    """
    sizes, reads, writes, area = costs.sizes, 0.0, 0.0, 0.0
    for made, energy in costs.unit_memories.values():
        write, read = costs.access(made)
        word = energy * sizes.rows / (write + read)
        reads, writes, area = reads + word * read / READS, writes + word * write / WRITES, area + made.area
    size = 8 * ROWS_HELD[operators] * _row(costs)
    return {
        "name": "softmax_unit",
        "type": "zigzag.compute",
        "memories": {
            "row_memory": _memory(["I1", "I2", "O"], ["D1"], 8 * sizes.rows, size, reads, writes, area),
        },
        "operational_array": {
            "unit_energy": costs.unit.energy_pj / len(operators),
            "unit_area": costs.unit.area_um2 / sizes.rows,
            "dimensions": ["D1"],
            "sizes": [sizes.rows],
        },
        "operator_types": [*operators, "Softmax"],
    }


def _row(costs: Costs) -> int:
    """Return the bytes of the longest row in whole beats, with another beat for its maximum and its sum."""
    return costs.sizes.rows * (beats(costs.keys, costs.sizes.rows) + 1)


def _memory(
    operands: list[str],
    dimensions: list[str],
    width: int,
    size: int,
    read: float = 0.0,
    write: float = 0.0,
    area: float = 0.0,
) -> dict[str, Any]:
    """Return a memory of a core.

    Args:
        operands: that it holds.
        dimensions: of the array that one such memory serves.
        width: bits of a word, which it gives and takes in a cycle.
        size: in bits.
        read: energy of a word in pJ.
        write: likewise.
        area: in um2.
    """

    def port(kind: str, ways: tuple[str, str]) -> dict[str, Any]:
        allocation = [f"{each}, {way}" for each in operands for way in (ways if each == "O" else ways[:1])]
        return _port(kind, width, allocation)

    return {
        "size": size,
        "r_cost": read,
        "w_cost": write,
        "area": area,
        "latency": 1,
        "operands": operands,
        "ports": [port("read", ("tl", "th")), port("write", ("fh", "fl"))],
        "served_dimensions": dimensions,
    }


def _dram(options: SimulationOptions) -> dict[str, Any]:
    """Return the core of the memory."""
    hardware = options.hardware
    width = max(round(8 * hardware.bytes_per_cycle), 1)
    directions = ["fh", "tl", "fl", "th"]
    allocation = [f"{each}, {way}" for each in ("I1", "I2") for way in directions[:2]]
    allocation += [f"O, {way}" for way in directions]
    return {
        "name": "dram",
        "type": "zigzag.offchip",
        "memories": {
            "dram": {
                "size": 8 << 40,
                "r_cost": width * hardware.dram.energy_pj_per_bit,
                "w_cost": width * hardware.dram.energy_pj_per_bit,
                "area": 0,
                "latency": 1,
                "operands": ["I1", "I2", "O"],
                "ports": [_port("read_write", width, allocation)],
                "served_dimensions": ["D1", "D2"],
            }
        },
        "operational_array": {"unit_energy": 0, "unit_area": 0, "dimensions": ["D1", "D2"], "sizes": [0, 0]},
    }


def _port(kind: str, width: int, allocation: list[str]) -> dict[str, Any]:
    return {
        "name": {"read": "r_port_1", "write": "w_port_1", "read_write": "rw_port_1"}[kind],
        "type": kind,
        "bandwidth_min": min(8, width),
        "bandwidth_max": width,
        "allocation": allocation,
    }
