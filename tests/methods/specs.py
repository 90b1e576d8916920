"""The specs that tests of all methods go through, with the real numbers each needs."""

from __future__ import annotations

from typing import Any

from softmaxkit import BF16, FP16, UQ, ConSmax, Exact, Exaq, Float, Q, Softermax, Spec

CASES: list[tuple[Spec, dict[str, Any]]] = [
    (Exact(), {}),
    (Exact(schedule="online"), {}),
    (Exact(format=Float(5, 7), exponential_segments=16), {}),
    (ConSmax(), {"beta": 1.5, "gamma": 5.0}),
    (ConSmax(table_format=FP16, constant="multiplied", output_bits=16), {"beta": -1.0, "gamma": 20.0, "scale": 0.2}),
    (ConSmax(bits=16, table_format=BF16, product_bits=24), {"beta": 0.5, "gamma": 9.0, "scale": 1 / 4096}),
    (ConSmax(ceiling=3.0), {"beta": 0.0, "gamma": 2.0, "scale": 0.05}),
    (ConSmax(table_format=UQ(0, 9)), {"beta": 1.5, "gamma": 5.0}),
    (ConSmax(table_format=UQ(0, 12), constant="multiplied", ceiling=3.0), {"beta": -1.0, "gamma": 0.2, "scale": 0.1}),
    (ConSmax(bits=16, table_format=UQ(0, 10), output_bits=16), {"beta": 0.5, "gamma": 9.0, "scale": 1 / 4096}),
    (ConSmax(tables="shift"), {"beta": 1.5, "gamma": 5.0}),
    (ConSmax(tables="shift", table_format=UQ(0, 9), ceiling=3.0), {"beta": -1.0, "gamma": 1.5}),
    (ConSmax(tables="whole"), {"beta": 1.5, "gamma": 5.0, "scale": 0.05}),
    (Softermax(), {}),
    (Softermax(maximum="global", integer_maximum="floor", rounding="floor"), {}),
    (Softermax(input=Q(6, 4), power_segments=8, output=UQ(1, 15), slice_width=32), {}),
    (Softermax(log2e=True), {}),
    (Exaq(), {"clip": -5.0}),
    (Exaq(bits=3, accumulator="histogram"), {"clip": -6.3}),
    (Exaq(bits=4, accumulator="plain", scores=Q(5, 5)), {"clip": -8.0}),
]
IDS = [f"{spec.method} {spec.variant}".strip() for spec, _ in CASES]
DEFAULTS = [
    next((spec, numbers) for spec, numbers in CASES if spec.method == name)
    for name in ("exact", "consmax", "softermax", "exaq")
]
