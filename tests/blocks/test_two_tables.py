from __future__ import annotations

import numpy as np
from amaranth.hdl import Module, Value
from bench import check, verilator

from softmaxkit.blocks import two_tables
from softmaxkit.rounding import Rounding
from softmaxkit.tables import Reciprocal

CASES: list[tuple[Reciprocal, Rounding]] = [
    (Reciprocal(8, 7), "nearest"),
    (Reciprocal(8, 7), "floor"),
    (Reciprocal(4, 4), "nearest"),
    (Reciprocal(1, 3), "nearest"),
]
ANY = np.random.default_rng(0).integers(0, 256, 1 << 10)
"""Results that are not the difference of two small tables."""


def results_of(reciprocal: Reciprocal, rounding: Rounding) -> np.ndarray:
    return np.asarray(reciprocal.table(np.arange(1 << reciprocal.table.input_bits), rounding))


@verilator
def test_every_result_equals_that_of_the_single_table() -> None:
    arguments = np.arange(1 << 10)
    tables = [*(results_of(*case) for case in CASES), ANY]
    segments = [*(reciprocal.segments.bit_length() - 1 for reciprocal, _ in CASES), 3]
    parts = [2, 1, 1, 1, 2]
    bits = [len(table).bit_length() - 1 for table in tables]

    def build(m: Module, inputs: list[Value]) -> list[Value]:
        return [
            two_tables.two_tables(m, f"table_{at}", table.tolist(), inputs[0][: bits[at]], segments[at], parts[at])
            for at, table in enumerate(tables)
        ]

    outputs = [(table[arguments % len(table)], int(table.max()).bit_length()) for table in tables]
    check([(arguments, 10)], outputs, build, [*map(str, CASES), "any results"])


def test_when_two_tables_exist() -> None:
    table = results_of(*CASES[0]).tolist()
    assert two_tables._difference(table, 3, 1, 6, 0) is None
    assert two_tables._difference(ANY.tolist(), 3, 1, 6, 4) is None
    starts, falls = two_tables._difference(table, 3, 1, 6, 2)
    assert (len(starts), len(falls), max(falls).bit_length()) == (16, 512, 5)
    arguments = np.arange(1 << 10)
    segment = arguments >> 7
    given = np.asarray(starts)[arguments >> 6] - np.asarray(falls)[segment << 6 | arguments & 63]
    assert (given >> 2 == table).all()
    starts, falls = two_tables._difference(table, 3, 2, 5, 2)
    assert (len(starts), len(falls)) == (32, 256)
    given = np.asarray(starts)[arguments >> 5] - np.asarray(falls)[segment << 5 | arguments & 31]
    assert (given >> 2 == table).all()
