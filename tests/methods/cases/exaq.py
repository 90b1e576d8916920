"""EXAQ: test cases, and an independent model of its integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from method_cases import Case, Mask, MethodCases, NarrowUnit, OracleCase, ProofCase, SourceFault, buildable
from numpy.typing import NDArray

from oracle import reciprocal, shift
from softmaxkit import UQ, Exaq, Q
from softmaxkit.methods.exaq import ExaqConstants

SPECS = [
    Case(Exaq(), {"clip": -5.0}, unit="flip-flops"),
    Case(Exaq(bits=3, accumulator="histogram"), {"clip": -6.3}, unit="memory"),
    Case(Exaq(bits=4, accumulator="plain", scores=Q(5, 5)), {"clip": -8.0}),
]


def oracle(spec: Exaq, codes: Sequence[int], mask: Sequence[bool], constants: ExaqConstants) -> list[int]:
    fr, fo = spec.reciprocal.fraction_bits, spec.output.fraction_bits
    m = max(code for code, attended in zip(codes, mask, strict=True) if attended)
    exponentials = [
        constants.exponentials[sum(threshold <= code - m for threshold in constants.thresholds)] if attended else 0
        for code, attended in zip(codes, mask, strict=True)
    ]
    r, e = reciprocal(spec.reciprocal_segments, fr, sum(exponentials))
    return [min(shift(value * r, fr + e - fo), spec.output.max_code) for value in exponentials]


ORACLE = [
    OracleCase(10, Exaq(), {"clip": -6.0}),
    OracleCase(10, Exaq(accumulator="histogram"), {"clip": -2.5}),
    OracleCase(10, Exaq(accumulator="plain"), {"clip": -12.0}),
    OracleCase(8, Exaq(bits=3), {"clip": -6.0}),
    OracleCase(6, Exaq(bits=3, accumulator="histogram"), {"clip": -3.3}),
    OracleCase(6, Exaq(bits=3, accumulator="plain"), {"clip": -0.7}),
    OracleCase(8, Exaq(bits=4), {"clip": -6.0}),
    OracleCase(6, Exaq(bits=4, accumulator="histogram"), {"clip": -9.0}),
    OracleCase(6, Exaq(bits=4, accumulator="plain"), {"clip": -20.0}),
    OracleCase(5, Exaq(scale="calibrated"), {"clip": -4.0, "scale": 0.13}),
    OracleCase(5, Exaq(bits=4, scale="calibrated"), {"clip": -4.0, "scale": 0.031}),
    OracleCase(5, Exaq(scores=Q(4, 0), bits=3), {"clip": -6.0}),
    OracleCase(5, Exaq(scores=Q(6, 10), bits=4), {"clip": -5.0}),
    OracleCase(4, Exaq(exponential=UQ(2, 6), reciprocal=UQ(1, 7), output=UQ(0, 4)), {"clip": -5.0}),
    OracleCase(3, Exaq(reciprocal_segments=1, exponential=UQ(1, 7), output=UQ(1, 7)), {"clip": -3.0}),
    OracleCase(3, Exaq(bits=4, reciprocal_segments=256, reciprocal=UQ(1, 10), output=UQ(4, 2)), {"clip": -7.0}),
]

CHANGED_SPECS = [
    (Exaq(bits=4), {"reciprocal": UQ(1, 14)}),
    (Exaq(bits=4), {"reciprocal_segments": 16}),
    (Exaq(bits=4), {"output": UQ(1, 14)}),
    (Exaq(bits=4), {"output": UQ(0, 15)}),
]
CHANGED_CONSTANTS = [
    *((Exaq(), "thresholds", entry) for entry in range(3)),
    *((Exaq(), "exponentials", entry) for entry in range(4)),
]


def whole_row(scores: NDArray[np.float64], mask: Mask) -> dict[str, Any]:
    """Return the maximum, to which levels are relative."""
    return {"maximum": np.max(scores, axis=-1, keepdims=True, initial=-np.inf, where=mask)}


REFUSED_FIELDS = [
    ({"bit": 3}, "no key 'bit'; did you mean 'bits'"),
    ({"bits": 5}, "Exaq.bits must be 2 or 3 or 4, got 5"),
    ({"scores": "Q(0,0)"}, "0 bits wide"),
    ({"scores": 8}, "Exaq.scores must be of type Fixed, e.g. softmaxkit.Q"),
]
REFUSED = [
    (lambda: Exaq(bits=2.0), "2 or 3 or 4, got 2.0"),  # type: ignore[arg-type]
    (lambda: Exaq(bits=3, clip="laplace"), "2 or 4 bits, got 3"),
    (lambda: Exaq(exponential=UQ(0, 15)), "must represent 1.0"),
    (lambda: Exaq(scores=UQ(6, 2)), "signed"),
]
REFUSED_UNITS = [(Exaq(reciprocal_segments=2048), {}, "a unit's tables have at most 1024 segments, not 2048")]

NARROW_SPEC = Exaq(scores=Q(4, 2), exponential=UQ(1, 5), reciprocal=UQ(1, 5), reciprocal_segments=4, output=UQ(1, 5))
NARROW_HISTOGRAM = Exaq(
    scores=Q(4, 2),
    exponential=UQ(1, 5),
    reciprocal=UQ(1, 5),
    reciprocal_segments=4,
    output=UQ(1, 5),
    accumulator="histogram",
)
NARROW = {
    "exaq": NarrowUnit(NARROW_SPEC),
    "exaq histogram": NarrowUnit(NARROW_HISTOGRAM),
    "exaq serial": NarrowUnit(NARROW_HISTOGRAM, {"lanes": 1, "max_row": 100}),
}

UNIT, SUMS = "methods.exaq.unit", "methods.exaq.accumulators"
MAXIMUM, SERIAL = "blocks.row_maximum:RowMaximum", "methods.exaq.serial:SerialResults"
FAULTS = [
    SourceFault("loaded while rows are inside", "exaq", UNIT, "rows_inside", "return count != 0", "return count == 99"),
    SourceFault(
        "thresholds exclusive",
        "exaq",
        f"{UNIT}:Unit",
        "_levels",
        "distance >= threshold",
        "distance > threshold",
        quick=True,
    ),
    SourceFault("surplus not subtracted", "exaq", f"{SUMS}:ACCUMULATORS", "packed", "group_sum - surplus", "group_sum"),
    SourceFault(
        "maximum of the previous row", "exaq serial", MAXIMUM, "elaborate", "maximum(best, source.p.key), s", "best, s"
    ),
    SourceFault("maximum of the next row", "exaq serial", MAXIMUM, "elaborate", "Mux(leaves, leaving, best)", "best"),
    SourceFault("mask of results ignored", "exaq", f"{UNIT}:Unit", "_results", "Mux(mask[lane], ", "Mux(1, "),
    SourceFault("counts of the previous row", "exaq histogram", SUMS, "_accumulate", "Mux(first, 0, total)", "total"),
    SourceFault(
        "mask not counted",
        "exaq histogram",
        f"{SUMS}:ACCUMULATORS",
        "histogram",
        "(code == level) & mask",
        "(code == level)",
    ),
    SourceFault("sum not inverted", "exaq serial", SERIAL, "elaborate", "~source.payload", "source.payload"),
    SourceFault("sum not normalised", "exaq serial", SERIAL, "elaborate", "line & held[-1] & (rank != 0)", "0"),
    SourceFault(
        "serial ties away from even", "exaq serial", SERIAL, "_add", "half & (sticky | total[0])", "half", quick=True
    ),
    SourceFault("results shown one by one", "exaq serial", SERIAL, "_give", "[*waiting, result]", "[result] * 4"),
    SourceFault(
        "counts not doubled",
        "exaq serial",
        f"{SUMS}:SerialHistogramSum",
        "elaborate",
        "Mux(level == 0, total << 1, total)",
        "total",
    ),
    SourceFault(
        "products overwritten",
        "exaq",
        "methods.exaq.products:ProductUnit",
        "elaborate",
        "level == spec.levels - 1)",
        "level != 0)",
    ),
]

PROOF = ProofCase(
    Exaq(scores=Q(3, 1), exponential=UQ(1, 3), reciprocal=UQ(1, 3), reciprocal_segments=2, output=UQ(1, 3)),
    {"clip": -2.0},
    depth=5,
    two_rows=16,
)

CASES = MethodCases(
    specs=SPECS,
    oracle=oracle,
    oracle_cases=ORACLE,
    changed_specs=CHANGED_SPECS,
    changed_constants=CHANGED_CONSTANTS,
    narrow=NARROW,
    faults=FAULTS,
    proof=PROOF,
    refused=REFUSED,
    refused_fields=REFUSED_FIELDS,
    smooth=False,  # a step function
    whole_row=whole_row,
    reloaded=[Exaq(), Exaq(accumulator="histogram")],
    forms=list(buildable(Exaq, bits=[2, 3, 4], accumulator=["packed", "histogram", "plain"])),
    refused_units=REFUSED_UNITS,
    row_buffers=[("exaq", "methods.exaq.unit")],
)
