"""Softermax: test cases, and an independent model of its integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from method_cases import Case, MethodCases, NarrowUnit, OracleCase, ProofCase, SourceFault, buildable

from oracle import power, reciprocal, shift, slices, table
from softmaxkit import UQ, Q, Softermax
from softmaxkit.methods.base.constants import Constants

SPECS = [
    Case(Softermax(), unit="flip-flops"),
    Case(Softermax(maximum="global", integer_maximum="floor", rounding="floor")),
    Case(Softermax(input=Q(6, 4), power_segments=8, output=UQ(1, 15), slice_width=32)),
    Case(Softermax(log2e=True)),
]


def oracle(spec: Softermax, codes: Sequence[int], mask: Sequence[bool], constants: Constants) -> list[int]:
    fi, fu, fd = spec.input.fraction_bits, spec.unnormalised.fraction_bits, spec.power_sum.fraction_bits
    fr, fo = spec.reciprocal.fraction_bits, spec.output.fraction_bits
    rounding = spec.rounding
    unnormalised = oracle_function(spec)
    whole = [min(shift(code, fi, spec.integer_maximum), spec.input.max_code >> fi) for code in codes]
    groups = slices(mask, spec.slice_width)
    powers = [0] * len(codes)
    if spec.maximum == "online":
        m, d = spec.input.min_code >> fi, 0
        tops = [max(whole[i] for i in positions) for positions in groups]
        for positions, top in zip(groups, tops, strict=True):
            s = sum(unnormalised(codes[i] - (top << fi)) for i in positions)
            new = max(m, top)
            total = shift(d, new - m, rounding) + shift(s, new - top + fu - fd, rounding)
            m, d = new, min(total, spec.power_sum.max_code)
        for positions, top in zip(groups, tops, strict=True):
            for i in positions:
                powers[i] = shift(unnormalised(codes[i] - (top << fi)), m - top, rounding)
    else:
        attended = [i for positions in groups for i in positions]
        m = max(whole[i] for i in attended)
        for i in attended:
            powers[i] = unnormalised(codes[i] - (m << fi))
        d = min(shift(sum(powers), fu - fd, rounding), spec.power_sum.max_code)
    r, e = reciprocal(spec.reciprocal_segments, fr, d, rounding)
    return [min(shift(p * r, fu + fr + e - fd - fo, rounding), spec.output.max_code) for p in powers]


@cache
def oracle_function(spec: Softermax) -> Callable[[int], int]:
    """Return the function that maps a score code minus an integer maximum to its power."""
    fi, fu = spec.input.fraction_bits, spec.unnormalised.fraction_bits

    @cache
    def unnormalised(x: int) -> int:
        value = table(power, spec.power_segments, fi, fu, x % (1 << fi), spec.rounding)
        return min(shift(value, -(x >> fi), spec.rounding), spec.unnormalised.max_code)

    return unnormalised


ORACLE = [
    OracleCase(24, Softermax()),
    OracleCase(12, Softermax(rounding="floor")),
    OracleCase(8, Softermax(integer_maximum="floor")),
    OracleCase(4, Softermax(integer_maximum="floor", rounding="floor", slice_width=4)),
    OracleCase(10, Softermax(maximum="global")),
    OracleCase(4, Softermax(maximum="global", integer_maximum="floor", rounding="floor")),
    OracleCase(5, Softermax(slice_width=1)),
    OracleCase(3, Softermax(slice_width=32)),
    OracleCase(3, Softermax(slice_width=3, log2e=True)),
    OracleCase(4, Softermax(power_segments=1, reciprocal_segments=1)),
    OracleCase(4, Softermax(input=Q(6, 4), power_segments=8, slice_width=8)),
    OracleCase(4, Softermax(input=Q(6, 4), power_segments=16, reciprocal_segments=1024, rounding="floor")),
    OracleCase(3, Softermax(input=Q(4, 0), power_segments=1, slice_width=5)),
    OracleCase(
        3, Softermax(input=Q(4, 0), power_segments=1, integer_maximum="floor", maximum="global", rounding="floor")
    ),
    OracleCase(3, Softermax(output=UQ(4, 2), power_sum=UQ(4, 2), slice_width=4)),
    OracleCase(3, Softermax(output=UQ(1, 15), power_sum=UQ(1, 15), integer_maximum="floor")),
    OracleCase(3, Softermax(maximum="global", power_sum=UQ(2, 6))),
    OracleCase(3, Softermax(unnormalised=UQ(1, 7), rounding="floor")),
    OracleCase(3, Softermax(unnormalised=UQ(2, 10), power_sum=UQ(3, 1), slice_width=2)),
    # The largest power rounds up to 2, which saturates in the format of the powers.
    OracleCase(3, Softermax(input=Q(6, 4), unnormalised=UQ(1, 2), integer_maximum="floor", slice_width=4)),
    OracleCase(3, Softermax(power_sum=UQ(6, 20), reciprocal=UQ(1, 15), output=UQ(0, 12), slice_width=8)),
]

CHANGED_SPECS = [
    (Softermax(), change)
    for change in (
        {"input": Q(6, 3)},
        {"unnormalised": UQ(1, 14)},
        {"power_sum": UQ(10, 5)},
        {"reciprocal": UQ(1, 8)},
        {"output": UQ(0, 7)},
        {"slice_width": 15},
        {"maximum": "global"},
        {"integer_maximum": "floor"},
        {"power_segments": 2},
        {"reciprocal_segments": 4},
        {"rounding": "floor"},
    )
]

REFUSED_FIELDS = [
    ({"slice_width": 1.5}, "slice_width must be of type int, got 1.5"),
    ({"slice_width": True}, "slice_width must be of type int, got True"),
    ({"maximum": "local"}, "'online' or 'global'"),
]
REFUSED = [
    (lambda: Softermax(power_sum=UQ(0, 8)), "must represent 1.0"),
    (lambda: Softermax(unnormalised=UQ(0, 8)), "must represent 1.0"),
    (lambda: Softermax(reciprocal=UQ(1, 30)), "overflows 64-bit integers"),
    (lambda: Softermax(reciprocal=UQ(2, 7)), "mantissa"),
    (lambda: Softermax(log2e="no"), "of type bool"),
    (lambda: Softermax(input=UQ(6, 2)), "signed"),
    (lambda: Softermax(input=Q(13, 4)), "must be signed and 2 to 16 bits wide"),
    (lambda: Softermax(input=Q(10, -2)), r"0 fraction bits or more, as Q\(6,2\) does, got Q\(10,-2\)"),
    (lambda: Softermax(output=Q(1, 7)), "unsigned"),
    (lambda: Softermax(power_segments=8), "at most 4 segments"),
    (lambda: Softermax(slice_width=0), "Softermax.slice_width must be from 1 to 65536, got 0"),
    (lambda: Softermax(slice_width=65537), "from 1 to 65536, got 65537"),
]
REFUSED_UNITS = [
    (Softermax(), {"lanes": 3}, "with slices of 16 positions, lanes divide 16 or are a multiple of it, not 3"),
    (Softermax(reciprocal=UQ(1, 15), reciprocal_segments=2048), {}, "at most 1024 segments, not 2048"),
]

NARROW_FORMATS = {"unnormalised": UQ(1, 5), "power_sum": UQ(3, 3), "reciprocal": UQ(1, 5), "output": UQ(1, 5)}
BY_ENTRY = Softermax(
    input=Q(4, 2),
    reciprocal_segments=4,
    slice_width=4,
    unnormalised=UQ(1, 11),
    power_sum=UQ(3, 4),
    reciprocal=UQ(1, 5),
    output=UQ(1, 4),
)
NARROW = {
    "softermax": NarrowUnit(Softermax(input=Q(4, 2), reciprocal_segments=4, slice_width=4, **NARROW_FORMATS)),
    "softermax whole slices": NarrowUnit(BY_ENTRY, {"lanes": 4, "max_row": 12}),
    "softermax by entry": NarrowUnit(BY_ENTRY),
    "softermax fine powers": NarrowUnit(
        replace(BY_ENTRY, input=Q(5, 2), unnormalised=UQ(1, 15)), {"lanes": 4, "max_row": 12}
    ),
    "softermax corrected": NarrowUnit(
        replace(BY_ENTRY, unnormalised=UQ(1, 10), reciprocal=UQ(1, 4), output=UQ(1, 6)), {"lanes": 1, "max_row": 12}
    ),
    "softermax global": NarrowUnit(Softermax(input=Q(4, 2), reciprocal_segments=4, maximum="global", **NARROW_FORMATS)),
}

SUM, POWERS = "methods.softermax.running_sum", "methods.softermax.unnormalised"
RESULTS = "methods.softermax.normalisation:NormalisationUnit"
FAULTS = [
    SourceFault(
        "no saturation",
        "softermax",
        SUM,
        "saturate",
        "Mux(value[bits:].any(), (1 << bits) - 1, value[:bits])",
        "value[:bits]",
    ),
    SourceFault(
        "floor in place of ceil",
        "softermax",
        f"{POWERS}:UnnormalisedUnit",
        "_whole",
        "whole + 1, whole)",
        "whole, whole)",
    ),
    SourceFault(
        "integer maximum not saturated",
        "softermax",
        f"{POWERS}:UnnormalisedUnit",
        "_whole",
        " & (whole != largest)",
        "",
    ),
    SourceFault(
        "mask of powers ignored", "softermax", POWERS, "power_of", "Mux(masked, 0, ", "Mux(masked, saturated, "
    ),
    SourceFault(
        "mask of entries ignored", "softermax by entry", POWERS, "power_of", " | masked.replicate(len(near))", ""
    ),
    SourceFault(
        "far powers treated as near ones",
        "softermax fine powers",
        POWERS,
        "waiting",
        " | far.replicate(len(fraction) + bits)",
        "",
    ),
    SourceFault(
        "total of the previous row",
        "softermax whole slices",
        f"{SUM}:RunningSum",
        "elaborate",
        "Mux(first, 0, total)",
        "total",
    ),
    SourceFault(
        "total of the previous row, in steps",
        "softermax",
        f"{SUM}:RunningSum",
        "_in_steps",
        " | first.replicate(len(apart))",
        "",
    ),
    SourceFault(
        "total not rescaled",
        "softermax whole slices",
        f"{SUM}:RunningSum",
        "_join",
        "places, fine + 1)",
        "0, fine + 1)",
        quick=True,
    ),
    SourceFault(
        "total not rescaled, in steps",
        "softermax",
        f"{SUM}:RunningSum",
        "_in_steps",
        "Mux(joins & rises, 0, apart)",
        "Mux(joins & ~rises, apart, 0)",
        quick=True,
    ),
    SourceFault(
        "single beats not held",
        "softermax by entry",
        f"{SUM}:RunningSum",
        "_in_steps",
        "known | ~source.ends",
        "Const(1)",
    ),
    SourceFault("slices joined", "softermax global", f"{SUM}:RunningSum", "_of_slice", "Mux(begins, 0, kept)", "kept"),
    SourceFault(
        "rounding not corrected",
        "softermax corrected",
        RESULTS,
        "_by_entry",
        " ^ Cat(*corrected).any()",
        "",
        quick=True,
    ),
    SourceFault(
        "corrected at any distance", "softermax corrected", RESULTS, "_corrected", "correction.is_partial", "False"
    ),
    SourceFault("one treated as a half", "softermax by entry", RESULTS, "_by_entry", " + ~less[entry]", " + 1"),
    SourceFault("mask of codes ignored", "softermax by entry", RESULTS, "_by_entry", " | masked", "", quick=True),
    SourceFault(
        "maximum of the previous slice",
        "softermax by entry",
        f"{POWERS}:UnnormalisedUnit",
        "elaborate",
        "gather.sink.p.group_first",
        "gather.sink.p.group_last",
    ),
    SourceFault("far results wrap", "softermax by entry", RESULTS, "_by_entry", "places[near:].any()", "0"),
]

PROOF = ProofCase(
    Softermax(
        input=Q(3, 1),
        power_segments=2,
        unnormalised=UQ(1, 3),
        power_sum=UQ(3, 2),
        reciprocal=UQ(1, 3),
        reciprocal_segments=2,
        output=UQ(1, 3),
        slice_width=2,
    ),
    {},
    depth=4,
    two_rows=9,
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
    in_any_order=lambda spec: spec.maximum == "global",
    forms=[
        *buildable(
            Softermax,
            integer_maximum=["ceil", "floor"],
            rounding=["nearest", "floor"],
            input=[Q(6, 2), Q(6, 4)],
            power_segments=[4, 8],
            maximum=["online", "global"],
        ),
        *buildable(Softermax, input=[Q(1, 7), Q(-1, 9), Q(-3, 8)], integer_maximum=["ceil", "floor"]),
    ],
    refused_units=REFUSED_UNITS,
    row_buffers=[("softermax", "methods.softermax.unit")],
)
