"""Exact softmax: test cases, and an independent model of its integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from method_cases import (
    Case,
    Codes,
    MethodCases,
    NarrowUnit,
    OracleCase,
    ProofCase,
    SourceFault,
    buildable,
    uniform_codes,
)

from oracle import (
    bias,
    float_code,
    float_fields,
    inverse_power,
    reciprocal,
    round_significand,
    series,
    shift,
    slices,
    table,
)
from softmaxkit import FP16, Exact, Float
from softmaxkit.methods.base.constants import Constants

SPECS = [
    Case(Exact(), unit="flip-flops"),
    Case(Exact(schedule="online"), unit="latches"),
    Case(Exact(format=Float(5, 7), exponential_segments=16)),
    Case(Exact(exponential_segments=1, taylor_degree=3), unit="memory"),
]


def oracle(spec: Exact, codes: Sequence[int], mask: Sequence[bool], constants: Constants) -> list[int]:
    mantissa_bits = spec.format.mantissa_bits
    to_steps, exponential = oracle_functions(spec)
    v = [to_steps(code) for code in codes]
    if spec.schedule == "three-pass":
        m = max(value for value, attended in zip(v, mask, strict=True) if attended)
        d = sum(exponential(value - m)[0] for value, attended in zip(v, mask, strict=True) if attended)
    else:
        m, d = 0, 0
        for index, positions in enumerate(slices(mask, spec.slice_width)):
            highest = max(v[i] for i in positions)
            new = max(m, highest) if index else highest
            if index:
                factor, w, n = exponential(m - new)
                d = shift(d * w, mantissa_bits + 1 + n) if factor else 0
            d += sum(exponential(v[i] - new)[0] for i in positions)
            m = new
    r, e = reciprocal(spec.reciprocal_segments, mantissa_bits + 1, d)
    return [
        float_code(exponential(value - m)[0] * r, -(mantissa_bits + 1 + e), spec.format) if attended else 0
        for value, attended in zip(v, mask, strict=True)
    ]


@cache
def oracle_functions(spec: Exact) -> tuple[Callable[[int], int], Callable[[int], tuple[int, int, int]]]:
    """Return the functions that map a score code to steps, and steps x <= 0 to (E(x), w, n)."""
    mantissa_bits, offset = spec.format.mantissa_bits, bias(spec.format)
    k = mantissa_bits + offset - 1
    a_bits = mantissa_bits + 4
    log2e = round(math.log2(math.e) * 2 ** (a_bits + 4))
    smallest = 1 << mantissa_bits  # normal, in steps

    @cache
    def to_steps(code: int) -> int:
        sign, field, mantissa = float_fields(code, spec.format)
        if field == 0:
            return 0
        steps = ((1 << mantissa_bits) + mantissa) << (field - 1)
        return -steps if sign else steps

    def exponential(x: int) -> tuple[int, int, int]:
        x = max(x, -(1 << (k + 8)))
        if x == 0:
            return of_rounded(0)
        significand, exponent = round_significand(-x, 0, mantissa_bits + 1)
        y = significand << exponent
        return of_rounded(y if y >= smallest else 0)

    @cache
    def of_rounded(y: int) -> tuple[int, int, int]:
        a = shift(y, k - a_bits)
        t = shift(a * log2e, a_bits + 4)
        n = t >> a_bits
        sizes = spec.exponential_segments, a_bits, mantissa_bits + 1, t % (1 << a_bits)
        w = series(spec.taylor_degree, *sizes) if spec.taylor_degree else table(inverse_power, *sizes)
        steps = shift(w << (offset - 1), n + 1, "floor")
        return steps if steps >= smallest else 0, w, n

    return to_steps, exponential


ORACLE = [
    OracleCase(14, Exact()),
    OracleCase(20, Exact(schedule="online")),
    OracleCase(8, Exact(schedule="online", slice_width=1)),
    OracleCase(5, Exact(schedule="online", slice_width=5)),
    OracleCase(5, Exact(schedule="online", slice_width=64)),
    OracleCase(6, Exact(format=Float(4, 6))),
    OracleCase(6, Exact(format=Float(4, 6), schedule="online", slice_width=4)),
    OracleCase(4, Exact(format=Float(5, 2), schedule="online", slice_width=2)),
    OracleCase(4, Exact(format=Float(4, 5), schedule="online", slice_width=8)),
    OracleCase(4, Exact(format=Float(4, 2))),
    OracleCase(4, Exact(format=Float(5, 12), schedule="online", slice_width=8)),
    OracleCase(3, Exact(exponential_segments=1, reciprocal_segments=1)),
    OracleCase(3, Exact(exponential_segments=8, reciprocal_segments=256)),
    OracleCase(2, Exact(exponential_segments=256, reciprocal_segments=8, schedule="online")),
    OracleCase(4, Exact(exponential_segments=1, taylor_degree=1)),
    OracleCase(4, Exact(exponential_segments=1, taylor_degree=3, schedule="online")),
    OracleCase(4, Exact(exponential_segments=4, taylor_degree=2)),
    OracleCase(2, Exact(format=Float(4, 6), exponential_segments=1, taylor_degree=5)),
    OracleCase(2, Exact(exponential_segments=16384, reciprocal_segments=16384)),
]

CHANGED_SPECS = [
    (Exact(), {"schedule": "online"}),
    (Exact(), {"exponential_segments": 128}),
    (Exact(exponential_segments=1, taylor_degree=2), {"taylor_degree": 3}),
    (Exact(), {"reciprocal_segments": 32}),
    (Exact(schedule="online"), {"slice_width": 8}),
]


def raw_codes(rng: np.random.Generator, spec: Exact, shape: tuple[int, ...]) -> Codes:
    """Draw from the full range, but rarely the redundant encodings of 0."""
    codes = uniform_codes(rng, spec, shape)
    mantissa_bits = spec.format.mantissa_bits
    zero = (codes >> mantissa_bits) % (1 << spec.format.exponent_bits) == 0
    return np.where(zero & (rng.random(shape) < 0.9), codes >> mantissa_bits << mantissa_bits, codes)


def extreme_codes(spec: Exact) -> list[int]:
    """Return, with both signs: zero, the neighbours of the smallest normal number, and the largest numbers."""
    smallest, minus = 1 << spec.format.mantissa_bits, 1 << (spec.score_bits - 1)
    magnitudes = [0, 1, smallest - 1, smallest, minus - 2, minus - 1]
    return [*magnitudes, *(minus + code for code in magnitudes)]


REFUSED = [
    (lambda: Exact(format=Float(8, 7)), "4 or 5 exponent bits"),
    (lambda: Exact(format=Float(3, 7)), "4 or 5 exponent bits"),
    (lambda: Exact(format="FP16"), "of type Float"),  # type: ignore[arg-type]
    (lambda: Exact(schedule="two-pass"), "'three-pass' or 'online'"),  # type: ignore[arg-type]
    (lambda: Exact(exponential_segments=3), "power of two"),
    (lambda: Exact(slice_width=0), "Exact.slice_width must be from 1 to 65536, got 0"),
    (lambda: Exact(slice_width=65537), "from 1 to 65536, got 65537"),
    (lambda: Exact(taylor_degree=6), "Exact.taylor_degree must be from 1 to 5, or 0 for lines, got 6"),
]

REFUSED_UNITS = [
    (Exact(schedule="online"), {"lanes": 24}, "lanes divide 16 or are a multiple of it, not 24"),
    (Exact(exponential_segments=2048), {}, "a unit's tables have at most 1024 segments, not 2048"),
]

NARROW_SPEC = Exact(format=Float(4, 3), exponential_segments=4, reciprocal_segments=4)
NARROW = {
    "exact": NarrowUnit(NARROW_SPEC),
    "exact online": NarrowUnit(
        Exact(format=Float(4, 3), exponential_segments=4, reciprocal_segments=4, schedule="online", slice_width=4)
    ),
}

DATAPATH, GATHER = "methods.exact.datapath", "blocks.gather:Gather"
THREE_PASS, ONLINE = "methods.exact.fronts:ThreePassFront", "methods.exact.fronts:OnlineFront"
FAULTS = [
    SourceFault(
        "difference without a sticky bit", "exact", DATAPATH, "align", "aligned.half | aligned.rest", "aligned.half"
    ),
    SourceFault(
        "masked exponentials in the sum", "exact", DATAPATH, "masked", "Mux(on, power.field, 0)", "power.field"
    ),
    SourceFault("sum of the previous row", "exact", THREE_PASS, "elaborate", "Mux(first, 0, total)", "total"),
    SourceFault("maximum of the previous group", "exact", GATHER, "elaborate", "present & (~source", "(~source"),
    SourceFault("results not flushed", "exact", DATAPATH, "to_float", "rounded.zero | (field < 1)", "rounded.zero"),
    SourceFault(
        "maximum kept beyond the row",
        "exact online",
        "methods.exact.fronts",
        "running_maximum",
        "begun.eq(any_before & ~last)",
        "begun.eq(any_before)",
    ),
    SourceFault(
        "sum not rescaled",
        "exact online",
        ONLINE,
        "elaborate",
        "current * significand",
        "current << len(significand) - 1",
        quick=True,
    ),
]

PROOF = ProofCase(Exact(format=Float(4, 2), exponential_segments=4, reciprocal_segments=2), {}, depth=4, two_rows=14)

CASES = MethodCases(
    specs=SPECS,
    oracle=oracle,
    oracle_cases=ORACLE,
    changed_specs=CHANGED_SPECS,
    narrow=NARROW,
    faults=FAULTS,
    proof=PROOF,
    refused=REFUSED,
    raw_codes=raw_codes,
    extreme_codes=extreme_codes,
    in_any_order=lambda spec: spec.schedule == "three-pass",
    units=[Exact(), Exact(schedule="online")],
    forms=[
        *buildable(Exact, exponential_segments=[1, 4], taylor_degree=[1, 2, 5]),
        *buildable(Exact, format=[Float(5, 12), Float(5, 2), Float(4, 3)]),
        *buildable(Exact, schedule=["online"], format=[FP16, Float(4, 3)], slice_width=[1, 2, 4, 16]),
    ],
    timed=[(Exact(schedule="online"), {"lanes": 1, "max_row": longest}) for longest in (20, 35)],
    refused_units=REFUSED_UNITS,
    row_buffers=[("exact", "blocks.gather")],
)
