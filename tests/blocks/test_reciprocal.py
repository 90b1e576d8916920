from __future__ import annotations

import random
from functools import partial
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest
from amaranth.hdl import Module, Value
from bench import check, clocked, verilator

from softmaxkit.blocks.piecewise_linear import line, round_line
from softmaxkit.blocks.reciprocal import ReciprocalUnit, normalise
from softmaxkit.blocks.serial_reciprocal import SerialReciprocalUnit
from softmaxkit.rounding import Rounding
from softmaxkit.tables import Reciprocal

COUNT = 1 << 12
WIDTHS = (1, 2, 7, 12, 30, 40)
CASES = [
    *product((12,), (Reciprocal(1, 8), Reciprocal(4, 6), Reciprocal(8, 3), Reciprocal(16, 15)), get_args(Rounding)),
    *product((1, 2, 7, 30, 40), (Reciprocal(4, 6), Reciprocal(16, 10)), ("nearest",)),
]
"""Width of the divisor, reciprocal, and rounding."""


@verilator
def test_every_divisor_of_12_bits_and_some_of_more() -> None:
    rng = np.random.default_rng(0)
    low, high = np.arange(COUNT), rng.integers(0, 1 << 40, COUNT) >> rng.integers(0, 41, COUNT)
    corners = [0, *(corner for place in range(40) for corner in (1 << place, (2 << place) - 1, (1 << place) | 1))]
    high[: len(corners)] = corners
    outputs, names = [], []
    for bits, reciprocal, rounding in CASES:
        divisor = (low if bits <= 12 else high) % (1 << bits)
        mantissa, exponent = reciprocal(divisor, rounding)
        outputs += [(mantissa, reciprocal.mantissa_bits + 2), (exponent, max((bits - 1).bit_length(), 1))]
        names += [f"{part} of {bits} bits, {reciprocal}, {rounding}" for part in ("mantissa", "exponent")]

    def build(m: Module, inputs: list[Value]) -> list[Value]:
        low, high = inputs
        results = []
        for at, (bits, reciprocal, rounding) in enumerate(CASES):
            divisor = (low if bits <= 12 else high)[:bits]
            argument, exponent = normalise(m, f"normal_{at}", reciprocal, divisor)
            value = line(m, f"line_{at}", reciprocal.table, argument, rounding)
            results += [round_line(m, f"mantissa_{at}", reciprocal.table, value, rounding), exponent]
        return results

    check([(low, 12), (high, 40)], outputs, build, names)


LINES, PLAIN = Reciprocal(4, 9), Reciprocal(4, 6)
UNITS = [
    *(
        partial(ReciprocalUnit, LINES, 9, 5, "floor", registers)
        for registers in ((), ("argument",), ("line",), ReciprocalUnit.CUTS)
    ),
    partial(ReciprocalUnit, LINES, 9, 5, "floor", (), plain=True),
    partial(ReciprocalUnit, PLAIN, 9, 5, "nearest", (), queue=0, plain=True),
    *(
        partial(SerialReciprocalUnit, reciprocal, 9, 5, rounding)
        for reciprocal in (LINES, Reciprocal(2, 8), Reciprocal(16, 1), Reciprocal(256, 5))
        for rounding in get_args(Rounding)
    ),
]


@pytest.mark.parametrize("build", UNITS)
@pytest.mark.parametrize("ready", [0.5, pytest.param(1, marks=pytest.mark.slow)])
def test_units_pass_tags_along(build: Any, ready: float) -> None:
    rng = random.Random(0)
    unit = build()
    reciprocal, rounding = unit.reciprocal, unit.rounding
    beats = [(rng.randrange(1 << 9), rng.randrange(1 << 5)) for _ in range(60)]
    mantissas, exponents = reciprocal(np.asarray([divisor for divisor, _ in beats]), rounding)
    expected = list(zip(mantissas.tolist(), exponents.tolist(), (tag for _, tag in beats), strict=True))
    sent: list[int] = []
    got, delays = [], []

    def cycle(at: int, context: Any) -> bool:
        context.set(unit.source.valid, len(sent) < len(beats))
        if len(sent) < len(beats):
            divisor, tag = beats[len(sent)]
            context.set(unit.source.payload, {"divisor": divisor, "tag": tag})
        context.set(unit.sink.ready, rng.random() < ready)
        if context.get(unit.sink.valid) and context.get(unit.sink.ready):
            fields = unit.sink.p
            got.append(tuple(context.get(field) for field in (fields.mantissa, fields.exponent, fields.tag)))
            delays.append(at - sent[len(got) - 1])
        if len(sent) < len(beats) and context.get(unit.source.ready):
            sent.append(at)
        return len(got) < len(beats)

    clocked(unit, cycle)
    assert got == expected
    assert min(delays) == unit.latency
    assert ready < 1 or (set(delays) == {unit.latency} and set(np.diff(sent)) == {unit.interval})
