"""Export of engines for Stream (PyPI: stream-dse): cores with our figures, and an example that evaluates attention."""

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
"""The operators into which Stream decomposes a softmax, each element-wise or a reduction over the row."""

ELEMENT = ("Sigmoid",)
"""Stand-in for an element-wise method: an activation, which costs the same as any other in Stream."""

ROWS_HELD = {SOFTMAX: 8, ELEMENT: 4}
"""Rows that a core needs room for in stream-dse 2.1.1: two for each tensor that its operators exchange with other
cores or with each other."""

READS, WRITES = 5, 3
"""How often stream-dse 2.1.1 reads and writes a row in a unit's memory: it is written as scores, powers and weights,
and read by each operator and once more on output. The hardware reads and writes it once."""


def write_stream(folder: Path, options: SimulationOptions, say: Say) -> list[str]:
    """Write a folder for each method and pipeline: the hardware, its cores, and an example.

    Energies are in pJ, areas in um2. Stream has one energy per operation of a core, and decomposes a softmax into
    `SOFTMAX`; the energies per score and per memory access are therefore divided among these operators. Stream also
    computes its own schedule; `softmaxkit simulate` has that of the engine.

    Args:
        folder: the parent folder; existing folders of the same names are replaced.
        options: selects the units.
        say: called with the reason for each pipeline that is left out.

    Returns:
        The names of the folders.

    Raises:
        ValueError: no record has the cost of a part, or two units have the same name; nothing is then written.
    """
    written = exported(options, say, _files)
    for name, files in written.items():
        with whole_folder(folder / name) as work:
            for file, text in files.items():
                write_text(work / file, text)
    return [*written]


def _files(unit: Exported) -> dict[str, str]:
    """Return the files of a unit and its engine, keyed by file name."""
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
    """Return the core of an array with its buffer of `size` bytes."""
    part, sizes, made = costs.array(array), costs.sizes, costs.buffer(size)
    multipliers = sizes.rows * sizes.columns
    write, read = costs.access(made)
    # Stream takes a core's capacity from the memory of its first operand. These registers are part of the array and its
    # figures, so they cost nothing here.
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
    """Return the core of the softmax unit, with its row memory.

    Stream transfers whole rows, so the core of every unit needs room for some. For a unit without a row memory, that
    room costs nothing: its scores are in registers, which the unit's own figures include.
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
    """Return the bytes of the longest row in whole beats, plus a beat for its maximum and sum."""
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
        operands: the operands that it stores.
        dimensions: the array dimensions that one such memory serves.
        width: bits of a word; it reads and writes one word per cycle.
        size: size in bits.
        read: energy of reading a word, in pJ.
        write: energy of writing a word, in pJ.
        area: area in um2.
    """

    def port(kind: str, ways: tuple[str, str]) -> dict[str, Any]:
        allocation = [f"{operand}, {way}" for operand in operands for way in (ways if operand == "O" else ways[:1])]
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
    """Return the core of the DRAM."""
    hardware = options.hardware
    width = max(round(8 * hardware.bytes_per_cycle), 1)
    directions = ["fh", "tl", "fl", "th"]
    allocation = [f"{operand}, {way}" for operand in ("I1", "I2") for way in directions[:2]]
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
