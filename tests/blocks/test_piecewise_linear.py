from __future__ import annotations

from itertools import product
from typing import get_args

import numpy as np
from amaranth.hdl import Const, Module, Value, signed, unsigned
from bench import check, simulate, verilator

from softmaxkit.blocks.piecewise_linear import line, lookup, round_line, shape_of
from softmaxkit.rounding import Rounding
from softmaxkit.tables import fit, inverse_power_series, power_of_two

INPUT_BITS = 11
TABLES = {
    "2**x, a plain table": power_of_two(4, 2, 15),
    "2**x, one point": power_of_two(1, 0, 5),
    "2**x, one line": power_of_two(1, 8, 8),
    "2**x, 8 lines": power_of_two(8, 10, 12),
    "2**x, 16 lines of 2 points": power_of_two(16, 5, 9),
    "1/(1+x), a plain table": fit(lambda x: 1 / (1 + x), 16, 4, 8),
    "1/(1+x), one line": fit(lambda x: 1 / (1 + x), 1, 6, 4),
    "1/(1+x), 16 lines": fit(lambda x: 1 / (1 + x), 16, 11, 8),
    "2**-x, 4 lines": fit(lambda x: 2.0**-x, 4, 9, 12),
    "2**-x, a series of degree 1, which ends below 1/2": inverse_power_series(1, 1, 8, 9),
    "2**-x, of degree 2 from 4 points": inverse_power_series(2, 4, 9, 12),
    "2**-x, of degree 5": inverse_power_series(5, 1, 11, 8),
    "2**-x, of degree 3 from every point": inverse_power_series(3, 16, 4, 8),
    "down to 0": fit(lambda x: 1 - x, 2, 6, 5),
    "up from 0, and steps that are flat": fit(lambda x: x * x, 8, 7, 4),
    "up and down": fit(lambda x: 1 + 4 * x * (1 - x), 4, 8, 7),
    "constant": fit(lambda x: 1.0, 2, 4, 3),
}
CASES = list(product(TABLES.items(), get_args(Rounding)))


@verilator
def test_every_argument_of_every_table() -> None:
    argument = np.arange(1 << INPUT_BITS)
    values = [table(argument % (1 << table.input_bits), rounding) for (_, table), rounding in CASES]

    def build(m: Module, inputs: list[Value]) -> list[Value]:
        results = []
        for at, ((_, table), rounding) in enumerate(CASES):
            value = line(m, f"line_{at}", table, inputs[0][: table.input_bits], rounding)
            results.append(round_line(m, f"rounded_{at}", table, value, rounding))
        return results

    names = [f"{name}, {rounding}" for (name, _), rounding in CASES]
    outputs = [(results, (table.fraction_bits + 3)) for results, ((_, table), _) in zip(values, CASES, strict=True)]
    check([(argument, INPUT_BITS)], outputs, build, names)


def test_lookups() -> None:
    """Of constants, signed or not, and of signals."""
    constants = [[-3, 5, 0, -8], [7], [-1], [0, 0], [1, 200, 3, 4, 5, 6, 7, 8]]
    rng = np.random.default_rng(0)
    index, words = np.arange(256) % 8, rng.integers(-16, 16, (4, 256))
    outputs = [(np.asarray(entries)[index % len(entries)], 9) for entries in constants]
    outputs += [(words[index % 4, np.arange(256)], 5), (words[0], 5)]

    def build(m: Module, inputs: list[Value]) -> list[Value]:
        index, *words = inputs
        words = [word.as_signed() for word in words]
        results = [
            lookup(m, f"table_{at}", entries, index[: (len(entries) - 1).bit_length()])
            for at, entries in enumerate(constants)
        ]
        return [*results, lookup(m, "held", words, index[:2]), lookup(m, "one", words[:1], Const(0, 0))]

    simulate([(index, 3), *((word, 5) for word in words)], outputs, build)


def test_the_narrowest_shape() -> None:
    shapes = {(0,): 1, (1,): 1, (7, 8): 4, (255, 0): 8}
    assert {values: shape_of(values) for values in shapes} == {
        values: unsigned(bits) for values, bits in shapes.items()
    }
    shapes = {(-1,): 1, (-1, 0): 1, (-1, 1): 2, (-8, 7): 4, (-9, 0): 5, (-1, 8): 5}
    assert {values: shape_of(values) for values in shapes} == {values: signed(bits) for values, bits in shapes.items()}
