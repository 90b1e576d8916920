"""Sigmoid attention: test cases, and an independent model of its integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from method_cases import Case, MethodCases, NarrowUnit, OracleCase, ProofCase, SourceFault
from numpy.typing import NDArray

from softmaxkit import UQ, Q, Sigmoid
from softmaxkit.methods.sigmoid import SigmoidConstants

SPECS = [
    Case(Sigmoid(), {"bias": -5.5}, unit="baked"),
    Case(Sigmoid(scores=Q(5, 5), output=UQ(0, 12), share="layer"), {"bias": -2.0}),
]


def oracle(spec: Sigmoid, codes: Sequence[int], mask: Sequence[bool], constants: SigmoidConstants) -> list[int]:
    entries = 2**spec.scores.bits
    return [constants.table[code % entries] if on else 0 for code, on in zip(codes, mask, strict=True)]


ORACLE = [
    OracleCase(60, Sigmoid()),
    OracleCase(20, Sigmoid(scores=Q(5, 5), output=UQ(0, 8)), {"bias": 0.0}),
    OracleCase(20, Sigmoid(scores=Q(2, 0)), {"bias": 3.0}),
]
CHANGED_CONSTANTS = [(Sigmoid(), "table", entry) for entry in (0, 1, 127, 128, 255)]


def score_centres(rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
    """Draw score centres that give probabilities of medium size."""
    return np.log(rng.uniform(0.5, 200.0, (rows, 1)))


REFUSED_FIELDS = [
    ({"key": 3}, "no key 'key'; did you mean 'keys'"),
    ({"bias": "learned"}, "Sigmoid.bias must be 'length' or 'fitted', got 'learned'"),
]
REFUSED = [
    (lambda: Sigmoid(keys=-1), "Sigmoid.keys must be a number of keys from 1 to 2..32, or 0, got -1"),
    (lambda: Sigmoid(scores=Q(6, 5)), "2 to 10 bits wide"),
    (lambda: Sigmoid(output=Q(1, 15)), "Sigmoid.output must be unsigned"),
    (lambda: Sigmoid().constants(bias=float("nan")), "finite bias"),
    (lambda: Sigmoid().constants(bias=[0.0] * 256), "built for one head, so bias must be a single number"),
    (lambda: Sigmoid().module(heads=3, bias=[1.0, 2.0]), r"of shape \(3,\), got shape \(2,\)"),
    (lambda: Sigmoid().module(bias=float("inf")), "finite bias"),
]
REFUSED_UNITS = [
    (Sigmoid(), {"storage": "memory"}, "storage is 'flip-flops' or 'latches' for this unit, not 'memory'"),
]
NARROW = {"sigmoid": NarrowUnit(Sigmoid(scores=Q(3, 0), output=UQ(0, 4)))}
UNIT = "methods.sigmoid.unit"
FAULTS = [
    SourceFault("mask ignored", "sigmoid", f"{UNIT}:Unit", "elaborate", "Mux(scores.p.mask[i], ", "Mux(1, "),
    SourceFault(
        "writes inside rows",
        "sigmoid",
        UNIT,
        "hold_between_rows",
        "port.ready.eq(~inside & ~busy)",
        "port.ready.eq(1)",
        quick=True,
    ),
]
PROOF = ProofCase(Sigmoid(scores=Q(2, 0), output=UQ(0, 2)), {"bias": 0.0}, depth=1, two_rows=0)

CASES = MethodCases(
    specs=SPECS,
    oracle=oracle,
    oracle_cases=ORACLE,
    changed_specs=[],
    changed_constants=CHANGED_CONSTANTS,
    narrow=NARROW,
    faults=FAULTS,
    proof=PROOF,
    refused=REFUSED,
    refused_fields=REFUSED_FIELDS,
    score_centres=score_centres,
    reloaded=[Sigmoid(scores=Q(3, 1))],
    forms=[Sigmoid(), Sigmoid(output=UQ(0, 8))],
    refused_units=REFUSED_UNITS,
)
