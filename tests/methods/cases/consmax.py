"""ConSmax: test cases, and an independent model of its integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from method_cases import Case, MethodCases, NarrowUnit, OracleCase, ProofCase, SourceFault, buildable
from numpy.typing import NDArray

from oracle import Number, float_number, round_significand, shift
from softmaxkit import BF16, FP16, UQ, ConSmax, Float, Q
from softmaxkit.methods.consmax import ConSmaxConstants

SPECS = [
    Case(ConSmax(), {"beta": 1.5, "gamma": 5.0}, unit="flip-flops"),
    Case(
        ConSmax(table_format=FP16, constant="multiplied", output_bits=16), {"beta": -1.0, "gamma": 20.0, "scale": 0.2}
    ),
    Case(ConSmax(bits=16, table_format=BF16, product_bits=24), {"beta": 0.5, "gamma": 9.0, "scale": 1 / 4096}),
    Case(ConSmax(ceiling=3.0), {"beta": 0.0, "gamma": 2.0, "scale": 0.05}),
    Case(ConSmax(table_format=UQ(0, 9)), {"beta": 1.5, "gamma": 5.0}),
    Case(
        ConSmax(table_format=UQ(0, 12), constant="multiplied", ceiling=3.0),
        {"beta": -1.0, "gamma": 0.2, "scale": 0.1},
        unit="baked",
    ),
    Case(ConSmax(bits=16, table_format=UQ(0, 10), output_bits=16), {"beta": 0.5, "gamma": 9.0, "scale": 1 / 4096}),
    Case(ConSmax(tables="shift"), {"beta": 1.5, "gamma": 5.0}, unit="latches"),
    Case(ConSmax(tables="shift", table_format=UQ(0, 9), ceiling=3.0), {"beta": -1.0, "gamma": 1.5}),
    Case(ConSmax(tables="whole"), {"beta": 1.5, "gamma": 5.0, "scale": 0.05}),
]


def oracle(spec: ConSmax, codes: Sequence[int], mask: Sequence[bool], constants: ConSmaxConstants) -> list[int]:
    result = oracle_function(spec, constants)
    return [result(code) if attended else 0 for code, attended in zip(codes, mask, strict=True)]


@cache
def oracle_function(spec: ConSmax, constants: ConSmaxConstants) -> Callable[[int], int]:
    """Return the function that maps a score code to its result."""
    form = spec.table_format
    fixed = str(form).startswith("UQ")

    def number(code: int) -> Number:
        return (code, -form.fraction_bits) if fixed else float_number(code, form)

    def times(a: Number, b: Number) -> Number:
        if a[0] == 0 or b[0] == 0:
            return 0, 0
        exact = a[0] * b[0], a[1] + b[1]
        return exact if fixed else round_significand(*exact, spec.product_bits or form.mantissa_bits + 1)

    @cache
    def result(code: int) -> int:
        if spec.tables == "whole":
            return int(constants.high[code & 255])
        if spec.tables == "shift":
            significand, exponent = number(constants.low[code & 15])
            x = significand, exponent + (code >> 4)
        elif spec.bits == 8:
            x = times(number(constants.high[(code >> 4) & 15]), number(constants.low[code & 15]))
        else:
            upper = times(number(constants.high[(code >> 12) & 15]), number(constants.low[(code >> 8) & 15]))
            lower = times(number(constants.lower_high[(code >> 4) & 15]), number(constants.lower_low[code & 15]))
            x = times(upper, lower)
        if spec.constant == "multiplied":
            x = times(x, number(constants.multiplier))
        significand, exponent = x
        places = -(exponent + constants.exponent + constants.output_fraction_bits)
        return min(shift(significand, places), int(constants.limit))

    return result


ORACLE = [
    OracleCase(16, ConSmax()),
    OracleCase(8, ConSmax(), {"beta": 2.5, "gamma": 100.0}),
    OracleCase(5, ConSmax(), {"beta": -1.0, "gamma": 3.0, "scale": 0.37}),
    OracleCase(5, ConSmax(constant="multiplied"), {"beta": 0.7, "gamma": 12.5}),
    OracleCase(5, ConSmax(product_bits=24), {"beta": 4.0, "gamma": 50.0, "scale": 0.1}),
    OracleCase(5, ConSmax(table_format=FP16), {"beta": 1.0, "gamma": 30.0}),
    OracleCase(5, ConSmax(table_format=FP16, constant="multiplied", product_bits=24), {"beta": 1.5, "gamma": 8.0}),
    # This and the next two: FP16 with a large scale, so that some or most table entries round to 0.
    OracleCase(5, ConSmax(table_format=FP16), {"beta": 0.0, "gamma": 1.0, "scale": 0.15}),
    OracleCase(2, ConSmax(table_format=FP16, constant="multiplied"), {"beta": 5.0, "gamma": 9.0, "scale": 0.17}),
    OracleCase(2, ConSmax(table_format=FP16, constant="multiplied"), {"beta": 20.0, "gamma": 900.0, "scale": 1.0}),
    OracleCase(3, ConSmax(product_bits=2, output_bits=16)),
    OracleCase(4, ConSmax(output_bits=16, ceiling=0.25), {"beta": 0.5, "gamma": 6.0, "scale": 0.05}),
    OracleCase(2, ConSmax(output_bits=1), {"beta": 0.0, "gamma": 1.0}),
    OracleCase(2, ConSmax(bits=16)),
    OracleCase(6, ConSmax(bits=16), {"beta": 1.5, "gamma": 250.0, "scale": 2.0**-12}),
    OracleCase(5, ConSmax(bits=16, output_bits=16), {"beta": 2.5, "gamma": 100.0, "scale": 2.0**-12}),
    OracleCase(5, ConSmax(bits=16, constant="multiplied"), {"beta": -2.0, "gamma": 1.5, "scale": 2.0**-12}),
    OracleCase(5, ConSmax(bits=16, product_bits=24), {"beta": 1.0, "gamma": 20.0, "scale": 0.0003}),
    OracleCase(5, ConSmax(bits=16, table_format=FP16), {"beta": 1.0, "gamma": 20.0, "scale": 0.0003}),
    OracleCase(
        3, ConSmax(bits=16, table_format=FP16, constant="multiplied", product_bits=24), {"gamma": 7.0, "scale": 0.0006}
    ),
    OracleCase(3, ConSmax(bits=16, table_format=FP16, output_bits=12), {"beta": 3.0, "gamma": 2.0, "scale": 0.0005}),
    OracleCase(5, ConSmax(table_format=UQ(0, 9))),
    OracleCase(4, ConSmax(table_format=UQ(0, 9), constant="multiplied"), {"beta": 0.7, "gamma": 12.5}),
    OracleCase(2, ConSmax(table_format=UQ(0, 12), output_bits=24), {"beta": -1.0, "gamma": 3.0, "scale": 0.37}),
    # All high entries saturate; then most entries round to 0.
    OracleCase(2, ConSmax(table_format=UQ(0, 6)), {"beta": -60.0, "gamma": 1.0}),
    OracleCase(2, ConSmax(table_format=UQ(0, 4), constant="multiplied"), {"beta": 20.0, "gamma": 900.0, "scale": 1.0}),
    OracleCase(2, ConSmax(table_format=UQ(0, 7), output_bits=1), {"beta": 0.0, "gamma": 1.0}),
    OracleCase(4, ConSmax(bits=16, table_format=UQ(0, 12)), {"beta": 1.5, "gamma": 250.0, "scale": 2.0**-12}),
    # The widest products.
    OracleCase(
        3,
        ConSmax(bits=16, table_format=UQ(0, 10), constant="multiplied", output_bits=9),
        {"beta": -5.0, "gamma": 1.0, "scale": 0.0003},
    ),
    OracleCase(4, ConSmax(tables="shift")),
    OracleCase(2, ConSmax(tables="shift", table_format=FP16, output_bits=16), {"beta": 2.5, "gamma": 100.0}),
    OracleCase(4, ConSmax(tables="shift", table_format=UQ(0, 9)), {"beta": -1.0, "gamma": 3.0}),
    OracleCase(
        2, ConSmax(tables="shift", table_format=UQ(0, 12), output_bits=24, ceiling=5.0), {"beta": 9.0, "gamma": 7.0}
    ),
    OracleCase(2, ConSmax(tables="shift", table_format=UQ(0, 4)), {"beta": -60.0, "gamma": 1.0}),
    OracleCase(3, ConSmax(tables="whole")),
    OracleCase(3, ConSmax(tables="whole", output_bits=24, ceiling=0.3), {"beta": 1.0, "gamma": 20.0, "scale": 0.03}),
]

CHANGED_SPECS = [
    (ConSmax(), {"product_bits": 9}),
    (ConSmax(table_format=FP16, output_bits=16), {"product_bits": 24}),
    (ConSmax(table_format=UQ(0, 9)), {"table_format": UQ(0, 8)}),
    (ConSmax(tables="shift", table_format=UQ(0, 9)), {"table_format": UQ(0, 8)}),
]
CHANGED_CONSTANTS = [
    *((ConSmax(output_bits=16), table, entry) for table in ("high", "low") for entry in (0, 15)),
    *((ConSmax(output_bits=16), field, None) for field in ("exponent", "output_fraction_bits", "limit")),
    (ConSmax(output_bits=16, constant="multiplied"), "multiplier", None),
    (ConSmax(bits=16, output_bits=16), "high", 0),
    (ConSmax(bits=16, output_bits=16), "low", 1),
    (ConSmax(bits=16, output_bits=16), "lower_high", 2),
    (ConSmax(bits=16, output_bits=16), "lower_low", 3),
    *((ConSmax(table_format=UQ(0, 9), output_bits=16), "high", entry) for entry in (1, 8, 15)),
    *((ConSmax(table_format=UQ(0, 9), output_bits=16), "low", entry) for entry in (0, 15)),
    (ConSmax(table_format=UQ(0, 9)), "exponent", None),
    (ConSmax(table_format=UQ(0, 9), constant="multiplied"), "multiplier", None),
    (ConSmax(bits=16, table_format=UQ(0, 9), output_bits=16), "lower_high", 2),
    (ConSmax(bits=16, table_format=UQ(0, 9), output_bits=16), "lower_low", 3),
    *((ConSmax(tables="shift", output_bits=16), "low", entry) for entry in (0, 7, 15)),
    *((ConSmax(tables="shift"), field, None) for field in ("exponent", "output_fraction_bits", "limit")),
    (ConSmax(tables="shift", table_format=UQ(0, 9), output_bits=16), "low", 15),
    *((ConSmax(tables="whole"), "high", entry) for entry in (0, 15, 127, 128, 255)),
]


def score_centres(rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
    """Draw score centres that give probabilities of medium size."""
    return np.log(rng.uniform(0.5, 200.0, (rows, 1)))


REFUSED_FIELDS = [
    ({"table_format": 9}, "must be of type Float or Fixed, e.g. softmaxkit.Q"),
    ({"table_format": "UQ(0,13)"}, "n from 4 to 12, got UQ"),
]
REFUSED = [
    (lambda: ConSmax(table_format=Float(3, 7)), "at least 4 exponent bits"),
    (lambda: ConSmax(beta0=1000.0), "from -64 to 64"),
    (lambda: ConSmax(gamma0=-1.0), "gamma0"),
    (lambda: ConSmax().constants(largest=float("nan")), "finite and >= 0, got nan"),
    (lambda: ConSmax().constants(scale=1e300), r"between 2\*\*-64 and 2\*\*64"),
    (lambda: ConSmax(bits=4), "8 or 16"),
    (lambda: ConSmax(product_bits=1), "2 to 24"),
    (lambda: ConSmax(output_bits=0), "1 to 24"),
    (lambda: ConSmax(table_format=Float(8, 23)), "mantissa"),
    (lambda: ConSmax(ceiling=0.0), "positive"),
    (lambda: ConSmax(table_format="BF16"), "of type Float or Fixed, e.g. softmaxkit.Q"),
    (lambda: ConSmax(table_format=Q(0, 9)), r"UQ\(0, n\) with n from 4 to 12, got Q\(0,9\)"),
    (lambda: ConSmax(table_format=UQ(1, 8)), r"n from 4 to 12, got UQ\(1,8\)"),
    (lambda: ConSmax(table_format=UQ(0, 3)), "n from 4 to 12"),
    (lambda: ConSmax(table_format=UQ(0, 13)), "n from 4 to 12"),
    (lambda: ConSmax(table_format=UQ(0, 9), product_bits=9), "exact, so ConSmax.product_bits must be 0, got 9"),
    (
        lambda: ConSmax(bits=16, constant="multiplied", table_format=UQ(0, 11)),
        r"UQ\(0, 10\) or narrower, got UQ\(0,11\).* with 5 factors and output_bits=8",
    ),
    (lambda: ConSmax(constant="multiplied", table_format=UQ(0, 12), output_bits=24), r"UQ\(0, 11\) or narrower"),
    (lambda: ConSmax(tables="shifted"), "'split' or 'shift' or 'whole'"),
    (lambda: ConSmax(tables="shift", bits=16), "only the defaults bits=8, .*, got bits=16; leave it out"),
    (lambda: ConSmax(tables="shift", constant="multiplied"), "got constant=multiplied"),
    (lambda: ConSmax(tables="shift", product_bits=9), "got product_bits=9"),
    (lambda: ConSmax(tables="shift").constants(scale=1 / 16), r"scale ln2/16 = 0.0433217, got 0.0625; leave"),
    (lambda: ConSmax(tables="whole", bits=16, constant="multiplied"), "got bits=16, constant=multiplied; leave them"),
    (lambda: ConSmax(tables="whole", product_bits=9), "got product_bits=9"),
    (lambda: ConSmax(tables="whole", table_format=UQ(0, 9)), r"table_format is unused\); leave it out"),
]
REFUSED_UNITS = [
    (ConSmax(), {"storage": "memory"}, "storage is 'flip-flops' or 'latches' for this unit, not 'memory'"),
    (ConSmax(), {"apart": True}, "apart=True requires a spec with bits=16 and loadable constants"),
    (ConSmax(bits=16), {"apart": True, "constants": ConSmax(bits=16).constants()}, "apart=True requires"),
]

NARROW = {
    "consmax": NarrowUnit(ConSmax(table_format=Float(5, 3), output_bits=6, ceiling=0.4)),
    "consmax fixed": NarrowUnit(ConSmax(table_format=UQ(0, 6), constant="multiplied", output_bits=6)),
}

DATAPATH, UNIT = "methods.consmax.datapath", "methods.consmax.unit"
FAULTS = [
    SourceFault("no limit", "consmax", DATAPATH, "to_output", "large | (rounded > limit)", "large"),
    SourceFault("small results wrap", "consmax", DATAPATH, "to_output", "value.shift > bits", "value.shift > 99"),
    SourceFault(
        "mask ignored",
        "consmax",
        f"{UNIT}:Unit",
        "_entries",
        "masked = [~mask[0], ~mask[0]]",
        "masked = [Const(0)] * 2",
    ),
    SourceFault(
        "offset ignored",
        "consmax",
        f"{UNIT}:Unit",
        "_entries",
        'words["lower_offset" if table == "lower_high" else "offset"][0]',
        "0",
    ),
    SourceFault(
        "writes inside rows",
        "consmax",
        UNIT,
        "hold_between_rows",
        "port.ready.eq(~inside & ~busy)",
        "port.ready.eq(1)",
        quick=True,
    ),
    SourceFault(
        "a table takes the words of those before it",
        "consmax",
        "blocks.configuration",
        "_within",
        "(address >= first) & (address < end) if first else address < end",
        "address < end",
        quick=True,
    ),
    SourceFault(
        "a register takes what is not offered",
        "consmax",
        UNIT,
        "build_registers",
        "with m.If(write & (word == first)):",
        "with m.If(word == first):",
        quick=True,
    ),
    SourceFault(
        "ties away from even",
        "consmax",
        "blocks.shifter:Shifted",
        "round_up",
        "self.half & (self.rest | self.whole[:1].any())",
        "self.half",
    ),
]

PROOF = ProofCase(ConSmax(table_format=Float(4, 2), output_bits=2), {"beta": 0.0, "gamma": 1.0}, depth=1, two_rows=0)

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
    score_centres=score_centres,
    float_tolerance=1e-6,  # beta and log gamma are float32: relative 2**-24 of exponents up to 8
    reloaded=[ConSmax(constant="multiplied")],
    forms=list(
        buildable(
            ConSmax,
            bits=[8, 16],
            tables=["split", "shift", "whole"],
            table_format=[BF16, FP16, UQ(0, 9)],
            constant=["folded", "multiplied"],
        )
    ),
    refused_units=REFUSED_UNITS,
)
