"""IndexSoftmax: test cases, and an independent model of its integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache

from method_cases import Case, MethodCases, NarrowUnit, OracleCase, ProofCase, SourceFault, buildable

from oracle import reciprocal, shift
from softmaxkit import UQ, Index, Q
from softmaxkit.methods.base.constants import Constants

WIDE = Index(
    bits=8, clip=13.2, table_bits=16, output_bits=16, scores=Q(8, 8), reciprocal=UQ(1, 18), reciprocal_segments=64
)
SPECS = [
    Case(Index(), unit="flip-flops"),
    Case(Index(bits=3, clip=4, output_bits=12, scores=Q(5, 3))),
    Case(WIDE),
]


def oracle(spec: Index, codes: Sequence[int], mask: Sequence[bool], constants: Constants) -> list[int]:
    entry = oracle_entry(spec)
    m = max(code for code, attended in zip(codes, mask, strict=True) if attended)
    entries = [entry(code - m) if attended else 0 for code, attended in zip(codes, mask, strict=True)]
    fr, one = spec.reciprocal.fraction_bits, 2**spec.output_bits - 1
    r, e = reciprocal(spec.reciprocal_segments, fr, sum(entries))
    return [min(shift(t * r * one, fr + e), one) for t in entries]


@cache
def oracle_entry(spec: Index) -> Callable[[int], int]:
    """Return the function that maps a difference of codes to its table entry."""
    top, clip = 2**spec.bits - 1, Fraction(spec.clip)

    @cache
    def entry(difference: int) -> int:
        value = Fraction(difference) / 2**spec.scores.fraction_bits
        level = 0
        for k in range(top):
            bound = clip * Fraction(2 * k + 1, 2 * top) - clip
            level += value > bound or (k % 2 == 1 and value == bound)
        return round((2**spec.table_bits - 1) * math.exp(-spec.clip * (top - level) / top)) if level else 0

    return entry


ORACLE = [
    OracleCase(30, Index()),
    OracleCase(20, Index(output_bits=16)),
    OracleCase(10, WIDE),
    OracleCase(10, Index(bits=2, clip=3.0, scores=Q(6, 2))),
    OracleCase(10, Index(bits=3, clip=31.0, table_bits=12, scores=Q(5, 0))),
    OracleCase(10, Index(bits=4, clip=0.5, output_bits=2, scores=Q(4, 8))),
    OracleCase(10, Index(reciprocal=UQ(1, 4), reciprocal_segments=1, table_bits=2, output_bits=5)),
]
CHANGED_SPECS = [
    (Index(output_bits=16), {"bits": 6}),
    (Index(output_bits=16), {"clip": 6.9}),
    (Index(output_bits=16), {"table_bits": 9}),
    (Index(), {"output_bits": 9}),
    (Index(output_bits=16), {"reciprocal": UQ(1, 11)}),
    (Index(output_bits=16), {"reciprocal_segments": 16}),
]
REFUSED_FIELDS = [
    ({"bit": 3}, "no key 'bit'; did you mean 'bits'"),
    ({"clip": "6.6"}, "Index.clip must be of type float"),
]
REFUSED = [
    (lambda: Index(bits=9), "Index.bits must be from 2 to 8, got 9"),
    (lambda: Index(table_bits=1), "Index.table_bits must be from 2 to 16"),
    (lambda: Index(output_bits=17), "Index.output_bits must be from 2 to 16"),
    (lambda: Index(clip=0.0), "Index.clip must be from 0.0009765625 to 64"),
    (lambda: Index(clip=math.inf), "Index.clip must be from 0.0009765625 to 64"),
    (lambda: Index(scores=UQ(6, 2)), "Index.scores must be signed"),
    (lambda: Index(reciprocal=UQ(2, 6)), r"Index.reciprocal must be UQ\(1,f\)"),
    (lambda: Index(reciprocal_segments=3), "power of two"),
]
REFUSED_UNITS = [
    (
        Index(reciprocal_segments=2048),
        {},
        "a unit's tables have at most 1024 segments, not 2048",
    )
]

NARROW_SPEC = Index(
    bits=2, clip=3.0, scores=Q(4, 1), table_bits=4, output_bits=4, reciprocal=UQ(1, 4), reciprocal_segments=4
)
NARROW = {"index": NarrowUnit(NARROW_SPEC)}
UNIT = "methods.index.unit:Unit"
FAULTS = [
    SourceFault(
        "thresholds exclusive",
        "index",
        UNIT,
        "_levels",
        "state.distance <= limit",
        "state.distance < limit",
        quick=True,
    ),
    SourceFault("mask ignored", "index", UNIT, "_levels", "Mux(state.mask, ", "Mux(1, "),
    SourceFault(
        "far scores wrap", "index", UNIT, "_levels", 'saturate(m, f"distance{lane}", below, places)', "below[:places]"
    ),
    SourceFault("sum of the previous row", "index", UNIT, "_sum", "Mux(first, 0, total)", "total"),
    SourceFault("output scale is a power of two", "index", UNIT, "_results", ") - product)", ") - 0)"),
]
PROOF = ProofCase(
    Index(bits=2, clip=2.0, scores=Q(3, 0), table_bits=2, output_bits=2, reciprocal=UQ(1, 2), reciprocal_segments=2),
    {},
    depth=4,
    two_rows=16,
)

CASES = MethodCases(
    specs=SPECS,
    oracle=oracle,
    oracle_cases=ORACLE,
    changed_specs=CHANGED_SPECS,
    narrow=NARROW,
    faults=FAULTS,
    proof=PROOF,
    refused=REFUSED,
    refused_fields=REFUSED_FIELDS,
    smooth=False,  # a step function
    whole_row=None,
    forms=list(buildable(Index, bits=[2, 5], output_bits=[8, 16])),
    refused_units=REFUSED_UNITS,
    row_buffers=[("index", "methods.index.unit")],
)
