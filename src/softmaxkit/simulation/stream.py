"""Engines for Stream (PyPI: stream-dse): cores with our figures, and an example that prices attention on them."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any

import yaml

from softmaxkit.files import write_text
from softmaxkit.methods.base.spec import Spec
from softmaxkit.simulation.costs import Costs
from softmaxkit.simulation.pipelines import engine_of
from softmaxkit.simulation.simulate import SimulationOptions, chosen

SOFTMAX = ("ReduceMax", "Exp", "ReduceSum", "Div")
"""The operators into which Stream takes a softmax apart, each for every score or over all of them."""

ELEMENT = ("Sigmoid",)
"""What stands for a method that looks at every score by itself: an activation, which Stream prices like any other."""

EXAMPLE = Template('''"""Prices a head of attention, $rows queries on $keys keys, with Stream.

    pip install stream-dse six pydot
    python attention.py
"""

from pathlib import Path

import onnx
from onnx import TensorProto, helper
from stream.api import SolveOptions, evaluate_mapping

HERE = Path(__file__).parent
SHAPES = {
    "queries": ($rows, $channels),
    "keys": ($channels, $keys),
    "values": ($keys, $channels),
    "scores": ($rows, $keys),
    "weights": ($rows, $keys),
    "outputs": ($rows, $channels),
}


def main() -> None:
    tensors = {name: helper.make_tensor_value_info(name, TensorProto.INT8, shape) for name, shape in SHAPES.items()}
    nodes = [
        helper.make_node("MatMul", ["queries", "keys"], ["scores"], name="qk"),
        helper.make_node("$operator", ["scores"], ["weights"], name="softmax"$arguments),
        helper.make_node("MatMul", ["weights", "values"], ["outputs"], name="pv"),
    ]
    inputs = [tensors[name] for name in ("queries", "keys", "values")]
    inside = [tensors[name] for name in ("scores", "weights")]
    graph = helper.make_graph(nodes, "attention", inputs, [tensors["outputs"]], value_info=inside)
    path = HERE / "attention.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    options = SolveOptions(artifacts=False, time_limit_s=60)
    estimate = evaluate_mapping(str(HERE / "hardware.yaml"), str(path), str(HERE / "out"), options=options)
    print(f"cycles: {estimate.cycles:.0f}")


if __name__ == "__main__":
    main()
''')


def write_stream(folder: Path, options: SimulationOptions) -> list[str]:
    """Write a folder for each method and pipeline: hardware, its cores, and an example.

    Energies are in pJ, areas in um2. Stream prices a core's operation by one figure, and takes a softmax apart into
    `SOFTMAX`: each of these has its share of the energy of a score. Its schedule is its own; that of the engine is what
    `softmaxkit simulate` has.

    Returns:
        the names of the folders.

    Raises:
        ValueError: no record says what a part costs.
    """
    written = []
    for spec, pipeline in chosen(options):
        written.append(f"{spec.method}-{pipeline}")
        _write(folder / written[-1], spec, pipeline, options)
    return written


def _write(folder: Path, spec: Spec, pipeline: str, options: SimulationOptions) -> None:
    hardware, context = options.hardware, max(options.contexts)
    engine = engine_of(spec, pipeline, hardware, options.workload.channels, context)
    costs = Costs(hardware, spec, pipeline, engine.sizes, context, options.records)
    sizes, element = engine.sizes, spec.dataflow == "element"
    operators = ELEMENT if element else SOFTMAX
    buffer = _buffer(costs)
    cores = {
        "qk_array": _array("qk_array", costs, "query-key", buffer),
        "pv_array": _array("pv_array", costs, "value", buffer),
        "softmax_unit": {
            "name": "softmax_unit",
            "type": "zigzag.compute",
            "memories": {"buffer": buffer | {"served_dimensions": ["D1"]}},
            "operational_array": {
                "unit_energy": costs.unit.energy_pj / len(operators),
                "unit_area": costs.unit.area_um2 / sizes.rows,
                "dimensions": ["D1"],
                "sizes": [sizes.rows],
            },
            "operator_types": [*operators, "Softmax"],
        },
        "dram": _dram(options),
    }
    width = min(round(8 * hardware.bytes_per_cycle), sizes.word_bits)
    system: dict[str, Any] = {
        "name": f"{spec.method}_{pipeline}",
        "cores": {place: f"./{name}.yaml" for place, name in enumerate(cores)},
        "offchip_core_id": len(cores) - 1,
        "unit_energy_cost": 0,
        "core_connectivity": [
            {"type": "link", "cores": [0, 2], "bandwidth": 8 * sizes.rows},
            {"type": "link", "cores": [1, 2], "bandwidth": 8 * sizes.rows},
            *({"type": "link", "cores": [place, 3], "bandwidth": width} for place in range(3)),
        ],
    }
    for name, core in (*cores.items(), ("hardware", system)):
        write_text(folder / f"{name}.yaml", yaml.safe_dump(core, sort_keys=False))
    example = EXAMPLE.substitute(
        rows=min(context, 64),
        keys=min(context, 256),
        channels=sizes.channels,
        operator=ELEMENT[0] if element else "Softmax",
        arguments="" if element else ", axis=-1",
    )
    write_text(folder / "attention.py", example)


def _array(name: str, costs: Costs, array: str, buffer: dict[str, Any]) -> dict[str, Any]:
    """Return the core of an array."""
    part, sizes = costs.array(array), costs.sizes
    multipliers = sizes.rows * sizes.columns
    return {
        "name": name,
        "type": "zigzag.compute",
        "memories": {"buffer": buffer},
        "operational_array": {
            "unit_energy": part.energy_pj / multipliers,
            "unit_area": part.area_um2 / multipliers,
            "dimensions": ["D1", "D2"],
            "sizes": [sizes.rows, sizes.columns],
        },
        "operator_types": ["MatMul", "Gemm"],
    }


def _buffer(costs: Costs) -> dict[str, Any]:
    """Return a core's memory: as large as both buffers of an engine, a word of which an array takes in a cycle."""
    buffers = costs.hardware.buffers
    made = costs.buffer(buffers.key_bytes + buffers.value_bytes)
    write, read = costs.access(made)
    word = costs.sizes.word_bits
    return {
        "size": 8 * (buffers.key_bytes + buffers.value_bytes),
        "r_cost": read,
        "w_cost": write,
        "area": made.area,
        "latency": 1,
        "operands": ["I1", "I2", "O"],
        "ports": [
            _port("read", word, ["I1, tl", "I2, tl", "O, tl", "O, th"]),
            _port("write", word, ["I1, fh", "I2, fh", "O, fh", "O, fl"]),
        ],
        "served_dimensions": ["D1", "D2"],
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
