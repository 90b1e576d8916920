"""The example in a Stream export: cycles and energy of one attention head."""

from __future__ import annotations

from string import Template

EXAMPLE = Template('''"""Estimates one attention head, $rows queries on $keys keys, with Stream.

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


def estimate() -> tuple[float, float]:
    """Return cycles, and energy in pJ."""
    tensors = {name: helper.make_tensor_value_info(name, TensorProto.INT8, shape) for name, shape in SHAPES.items()}
    nodes = [
        helper.make_node("MatMul", ["queries", "keys"], ["scores"], name="qk"),
        helper.make_node("$operator", ["scores"], ["weights"], name="softmax"$arguments),
        helper.make_node("Gemm", ["weights", "values"], ["outputs"], name="pv"),  # the operator of the PV array's core
    ]
    inputs = [tensors[name] for name in ("queries", "keys", "values")]
    inside = [tensors[name] for name in ("scores", "weights")]
    graph = helper.make_graph(nodes, "attention", inputs, [tensors["outputs"]], value_info=inside)
    path = HERE / "attention.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    # One query at a time, as in the engine: the unit has no room for several rows.
    tiling = {"intra_core_tiling": [{"dim": "qk.D0", "tile": 1}]}
    options = SolveOptions(artifacts=False, time_limit_s=60, stage_options=tiling)
    result = evaluate_mapping(str(HERE / "hardware.yaml"), str(path), str(HERE / "out"), options=options)
    solution = result.context.get("allocation").solution
    return result.cycles, solution.performance["energy"]["total_pj"]


def main() -> None:
    cycles, energy = estimate()
    print(f"cycles: {cycles:.0f}, energy: {energy * 1e-6:.4g} uJ")


if __name__ == "__main__":
    main()
''')
"""Placeholders: `rows`, `keys`, `channels`, the `operator` that represents the method, and its `arguments`."""
