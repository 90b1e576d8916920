"""Golden equals the independent oracle, `==`, on at least 100,000 rows of every method."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from oracle import oracle
from softmaxkit import FP16, UQ, ConSmax, Exact, Exaq, Float, Q, Softermax
from softmaxkit.methods.base.constants import Constants
from softmaxkit.methods.base.spec import Spec

Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]

LENGTHS = {1: 60, 2: 100, 3: 120, 5: 170, 8: 170, 15: 100, 16: 90, 17: 90, 24: 60, 31: 15, 33: 15, 64: 6, 200: 4}
"""Keys of a row, and how many rows of a thousand have that many."""

SPREADS = (0.3, 2.0, 8.0, 40.0)


class Case(NamedTuple):
    thousands: int
    spec: Spec
    parameters: Mapping[str, float] = MappingProxyType({})


class Design(NamedTuple):
    spec: Spec
    constants: Constants


EXACT = [
    Case(24, Exact()),
    Case(20, Exact(schedule="online")),
    Case(8, Exact(schedule="online", slice_width=1)),
    Case(5, Exact(schedule="online", slice_width=5)),
    Case(5, Exact(schedule="online", slice_width=64)),
    Case(6, Exact(format=Float(4, 6))),
    Case(6, Exact(format=Float(4, 6), schedule="online", slice_width=4)),
    Case(4, Exact(format=Float(5, 2), schedule="online", slice_width=2)),
    Case(4, Exact(format=Float(4, 5), schedule="online", slice_width=8)),
    Case(4, Exact(format=Float(4, 2))),
    Case(4, Exact(format=Float(5, 12), schedule="online", slice_width=8)),
    Case(3, Exact(exponential_segments=1, reciprocal_segments=1)),
    Case(3, Exact(exponential_segments=8, reciprocal_segments=256)),
    Case(2, Exact(exponential_segments=256, reciprocal_segments=8, schedule="online")),
    Case(2, Exact(exponential_segments=16384, reciprocal_segments=16384)),
]

CONSMAX = [
    Case(16, ConSmax()),
    Case(8, ConSmax(), {"beta": 2.5, "gamma": 100.0}),
    Case(5, ConSmax(), {"beta": -1.0, "gamma": 3.0, "scale": 0.37}),
    Case(5, ConSmax(constant="multiplied"), {"beta": 0.7, "gamma": 12.5}),
    Case(5, ConSmax(product_bits=24), {"beta": 4.0, "gamma": 50.0, "scale": 0.1}),
    Case(5, ConSmax(table_format=FP16), {"beta": 1.0, "gamma": 30.0}),
    Case(5, ConSmax(table_format=FP16, constant="multiplied", product_bits=24), {"beta": 1.5, "gamma": 8.0}),
    # Here and below, FP16 with a large scale: some or most table entries vanish.
    Case(5, ConSmax(table_format=FP16), {"beta": 0.0, "gamma": 1.0, "scale": 0.15}),
    Case(2, ConSmax(table_format=FP16, constant="multiplied"), {"beta": 5.0, "gamma": 9.0, "scale": 0.17}),
    Case(2, ConSmax(table_format=FP16, constant="multiplied"), {"beta": 20.0, "gamma": 900.0, "scale": 1.0}),
    Case(3, ConSmax(product_bits=2, output_bits=16)),
    Case(4, ConSmax(output_bits=16, ceiling=0.25), {"beta": 0.5, "gamma": 6.0, "scale": 0.05}),
    Case(2, ConSmax(output_bits=1), {"beta": 0.0, "gamma": 1.0}),
    Case(2, ConSmax(bits=16)),
    Case(6, ConSmax(bits=16), {"beta": 1.5, "gamma": 250.0, "scale": 2.0**-12}),
    Case(5, ConSmax(bits=16, output_bits=16), {"beta": 2.5, "gamma": 100.0, "scale": 2.0**-12}),
    Case(5, ConSmax(bits=16, constant="multiplied"), {"beta": -2.0, "gamma": 1.5, "scale": 2.0**-12}),
    Case(5, ConSmax(bits=16, product_bits=24), {"beta": 1.0, "gamma": 20.0, "scale": 0.0003}),
    Case(5, ConSmax(bits=16, table_format=FP16), {"beta": 1.0, "gamma": 20.0, "scale": 0.0003}),
    Case(
        3, ConSmax(bits=16, table_format=FP16, constant="multiplied", product_bits=24), {"gamma": 7.0, "scale": 0.0006}
    ),
    Case(3, ConSmax(bits=16, table_format=FP16, output_bits=12), {"beta": 3.0, "gamma": 2.0, "scale": 0.0005}),
    Case(5, ConSmax(table_format=UQ(0, 9))),
    Case(4, ConSmax(table_format=UQ(0, 9), constant="multiplied"), {"beta": 0.7, "gamma": 12.5}),
    Case(2, ConSmax(table_format=UQ(0, 12), output_bits=24), {"beta": -1.0, "gamma": 3.0, "scale": 0.37}),
    # Every high entry saturates; and most entries vanish.
    Case(2, ConSmax(table_format=UQ(0, 6)), {"beta": -60.0, "gamma": 1.0}),
    Case(2, ConSmax(table_format=UQ(0, 4), constant="multiplied"), {"beta": 20.0, "gamma": 900.0, "scale": 1.0}),
    Case(2, ConSmax(table_format=UQ(0, 7), output_bits=1), {"beta": 0.0, "gamma": 1.0}),
    Case(4, ConSmax(bits=16, table_format=UQ(0, 12)), {"beta": 1.5, "gamma": 250.0, "scale": 2.0**-12}),
    # As wide as products can be.
    Case(
        3,
        ConSmax(bits=16, table_format=UQ(0, 10), constant="multiplied", output_bits=9),
        {"beta": -5.0, "gamma": 1.0, "scale": 0.0003},
    ),
    Case(4, ConSmax(tables="shift")),
    Case(2, ConSmax(tables="shift", table_format=FP16, output_bits=16), {"beta": 2.5, "gamma": 100.0}),
    Case(4, ConSmax(tables="shift", table_format=UQ(0, 9)), {"beta": -1.0, "gamma": 3.0}),
    Case(2, ConSmax(tables="shift", table_format=UQ(0, 12), output_bits=24, ceiling=5.0), {"beta": 9.0, "gamma": 7.0}),
    Case(2, ConSmax(tables="shift", table_format=UQ(0, 4)), {"beta": -60.0, "gamma": 1.0}),
    Case(3, ConSmax(tables="whole")),
    Case(3, ConSmax(tables="whole", output_bits=24, ceiling=0.3), {"beta": 1.0, "gamma": 20.0, "scale": 0.03}),
]

SOFTERMAX = [
    Case(24, Softermax()),
    Case(12, Softermax(rounding="floor")),
    Case(8, Softermax(integer_maximum="floor")),
    Case(4, Softermax(integer_maximum="floor", rounding="floor", slice_width=4)),
    Case(10, Softermax(maximum="global")),
    Case(4, Softermax(maximum="global", integer_maximum="floor", rounding="floor")),
    Case(5, Softermax(slice_width=1)),
    Case(3, Softermax(slice_width=32)),
    Case(3, Softermax(slice_width=3, log2e=True)),
    Case(4, Softermax(power_segments=1, reciprocal_segments=1)),
    Case(4, Softermax(input=Q(6, 4), power_segments=8, slice_width=8)),
    Case(4, Softermax(input=Q(6, 4), power_segments=16, reciprocal_segments=1024, rounding="floor")),
    Case(3, Softermax(input=Q(4, 0), power_segments=1, slice_width=5)),
    Case(3, Softermax(input=Q(4, 0), power_segments=1, integer_maximum="floor", maximum="global", rounding="floor")),
    Case(3, Softermax(output=UQ(4, 2), power_sum=UQ(4, 2), slice_width=4)),
    Case(3, Softermax(output=UQ(1, 15), power_sum=UQ(1, 15), integer_maximum="floor")),
    Case(3, Softermax(maximum="global", power_sum=UQ(2, 6))),
    Case(3, Softermax(unnormalised=UQ(1, 7), rounding="floor")),
    Case(3, Softermax(unnormalised=UQ(2, 10), power_sum=UQ(3, 1), slice_width=2)),
    # The largest power rounds up to 2, which the format of the powers does not hold.
    Case(3, Softermax(input=Q(6, 4), unnormalised=UQ(1, 2), integer_maximum="floor", slice_width=4)),
    Case(3, Softermax(power_sum=UQ(6, 20), reciprocal=UQ(1, 15), output=UQ(0, 12), slice_width=8)),
]

EXAQ = [
    Case(10, Exaq(), {"clip": -6.0}),
    Case(10, Exaq(accumulator="histogram"), {"clip": -2.5}),
    Case(10, Exaq(accumulator="plain"), {"clip": -12.0}),
    Case(8, Exaq(bits=3), {"clip": -6.0}),
    Case(6, Exaq(bits=3, accumulator="histogram"), {"clip": -3.3}),
    Case(6, Exaq(bits=3, accumulator="plain"), {"clip": -0.7}),
    Case(8, Exaq(bits=4), {"clip": -6.0}),
    Case(6, Exaq(bits=4, accumulator="histogram"), {"clip": -9.0}),
    Case(6, Exaq(bits=4, accumulator="plain"), {"clip": -20.0}),
    Case(5, Exaq(scale="calibrated"), {"clip": -4.0, "scale": 0.13}),
    Case(5, Exaq(bits=4, scale="calibrated"), {"clip": -4.0, "scale": 0.031}),
    Case(5, Exaq(scores=Q(4, 0), bits=3), {"clip": -6.0}),
    Case(5, Exaq(scores=Q(6, 10), bits=4), {"clip": -5.0}),
    Case(4, Exaq(exponential=UQ(2, 6), reciprocal=UQ(1, 7), output=UQ(0, 4)), {"clip": -5.0}),
    Case(3, Exaq(reciprocal_segments=1, exponential=UQ(1, 7), output=UQ(1, 7)), {"clip": -3.0}),
    Case(3, Exaq(bits=4, reciprocal_segments=256, reciprocal=UQ(1, 10), output=UQ(4, 2)), {"clip": -7.0}),
]

METHODS = {"exact": EXACT, "consmax": CONSMAX, "softermax": SOFTERMAX, "exaq": EXAQ}
CASES = [case for cases in METHODS.values() for case in cases]


def case_name(case: Case) -> str:
    parameters = [f"{name}={value:g}" for name, value in case.parameters.items()]
    return "; ".join([f"{case.spec.method}: {case.spec.variant or 'defaults'}", *parameters])


def label(value: Any) -> str:
    return case_name(Case(0, value)) if isinstance(value, Spec) else str(value)


def raw_codes(rng: np.random.Generator, spec: Spec, shape: tuple[int, ...]) -> Codes:
    """Draw from the full code range; for floats, mostly without the other codes of the number 0."""
    if not isinstance(spec, Exact):
        low, high = spec.score_range()
        return rng.integers(low, high, shape, endpoint=True)
    codes = rng.integers(0, 1 << spec.score_bits, shape)
    mantissa_bits = spec.format.mantissa_bits
    zero = (codes >> mantissa_bits) % (1 << spec.format.exponent_bits) == 0
    return np.where(zero & (rng.random(shape) < 0.9), codes >> mantissa_bits << mantissa_bits, codes)


def draw_codes(rng: np.random.Generator, spec: Spec, constants: Constants, rows: int, keys: int) -> Codes:
    """Draw rows of each kind in turn: real scores, raw codes, ties, all equal, extremes."""
    low, high = spec.score_range()
    extremes = [low, high, low + 1, high - 1]
    if isinstance(spec, Exact):
        mantissa_bits = spec.format.mantissa_bits
        smallest = 1 << mantissa_bits
        minus = 1 << (spec.score_bits - 1)
        extremes += [0, minus, 1, minus + 1, smallest, minus + smallest, smallest - 1, minus + smallest - 1]
    kinds: list[Codes] = []
    share = -(-rows // 8)
    for spread in SPREADS:
        scores = spread * rng.standard_normal((share, keys))
        if isinstance(spec, ConSmax):  # around the scores that give probabilities of middling size
            scores = scores + np.log(rng.uniform(0.5, 200.0, (share, 1)))
        kinds.append(spec.encode(scores, constants))
    kinds.append(raw_codes(rng, spec, (share, keys)))
    few = raw_codes(rng, spec, (share, 3))
    kinds.append(np.take_along_axis(few, rng.integers(0, 3, (share, keys)), axis=1))
    kinds.append(np.broadcast_to(raw_codes(rng, spec, (share, 1)), (share, keys)))
    kinds.append(rng.choice(np.array(extremes, dtype=np.int64), (share, keys)))
    return rng.permutation(np.concatenate(kinds))[:rows]


def draw_mask(rng: np.random.Generator, spec: Spec, rows: int, keys: int) -> Mask:
    """Draw masks of each kind in turn: nothing, 20 to 80 %, everything, all but one key, whole slices masked."""
    width = int(getattr(spec, "slice_width", 16))
    kind = np.arange(rows)[:, None] % 10
    random = rng.random((rows, keys)) < rng.uniform(0.2, 0.8, (rows, 1))
    one = np.arange(keys) == rng.integers(0, keys, (rows, 1))
    keep = rng.random((rows, -(-keys // width))) < 0.6
    whole = np.repeat(keep, width, axis=1)[:, :keys]
    ones = np.ones_like(random)
    choices = [ones, random, random, random, random, ~ones, one, whole, whole & random, ones]
    return np.select([kind == i for i in range(10)], choices, default=False)


def batches(spec: Spec, constants: Constants, thousands: int, seed: int) -> Iterator[tuple[Codes, Mask | None]]:
    """Yield rows by their length, a fifth of them without a mask."""
    rng = np.random.default_rng(seed)
    for keys, rows in LENGTHS.items():
        codes = draw_codes(rng, spec, constants, rows * thousands, keys)
        plain = len(codes) // 5
        yield codes[:plain], None
        yield codes[plain:], draw_mask(rng, spec, len(codes) - plain, keys)


def oracle_rows(spec: Spec, codes: Codes, mask: Mask | None, constants: Constants) -> list[list[int]]:
    attended = np.ones(codes.shape, dtype=np.bool_) if mask is None else mask
    pairs = zip(codes.tolist(), attended.tolist(), strict=True)
    return [oracle(spec, row, row_mask, constants) for row, row_mask in pairs]


def first_difference(ours: Design, theirs: Design, thousands: int, seed: int) -> str | None:
    """Return the first row, drawn for the first design, where its golden is not the oracle of the second."""
    for codes, mask in batches(*ours, thousands, seed):
        golden = ours.spec.golden(codes, mask, ours.constants)
        expected = oracle_rows(theirs.spec, codes, mask, theirs.constants)
        assert golden.dtype == np.int64
        for i, (row, expected_row) in enumerate(zip(golden.tolist(), expected, strict=True)):
            if row != expected_row:
                row_mask = None if mask is None else mask[i].tolist()
                return f"codes {codes[i].tolist()}, mask {row_mask}: golden {row}, oracle {expected_row}"
    return None


@pytest.mark.parametrize("method", METHODS)
def test_cases_are_enough(method: str) -> None:
    assert sum(LENGTHS.values()) == 1000
    assert sum(case.thousands for case in METHODS[method]) >= 100
    assert all(case.spec.method == method for case in METHODS[method])


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_golden_equals_oracle(case: Case) -> None:
    design = Design(case.spec, case.spec.constants(**case.parameters))
    assert first_difference(design, design, case.thousands, seed=CASES.index(case)) is None


@pytest.mark.parametrize(
    ("spec", "change"),
    [
        (Exact(), {"schedule": "online"}),
        (Exact(), {"exponential_segments": 128}),
        (Exact(), {"reciprocal_segments": 32}),
        (Exact(schedule="online"), {"slice_width": 8}),
        (ConSmax(), {"product_bits": 9}),
        (ConSmax(table_format=FP16, output_bits=16), {"product_bits": 24}),
        (ConSmax(table_format=UQ(0, 9)), {"table_format": UQ(0, 8)}),
        (ConSmax(tables="shift", table_format=UQ(0, 9)), {"table_format": UQ(0, 8)}),
        (Softermax(), {"input": Q(6, 3)}),
        (Softermax(), {"unnormalised": UQ(1, 14)}),
        (Softermax(), {"power_sum": UQ(10, 5)}),
        (Softermax(), {"reciprocal": UQ(1, 8)}),
        (Softermax(), {"output": UQ(0, 7)}),
        (Softermax(), {"slice_width": 15}),
        (Softermax(), {"maximum": "global"}),
        (Softermax(), {"integer_maximum": "floor"}),
        (Softermax(), {"power_segments": 2}),
        (Softermax(), {"reciprocal_segments": 4}),
        (Softermax(), {"rounding": "floor"}),
        (Exaq(bits=4), {"reciprocal": UQ(1, 14)}),
        (Exaq(bits=4), {"reciprocal_segments": 16}),
        (Exaq(bits=4), {"output": UQ(1, 14)}),
        (Exaq(bits=4), {"output": UQ(0, 15)}),
    ],
    ids=label,
)
def test_another_spec_is_noticed(spec: Spec, change: dict[str, Any]) -> None:
    constants = spec.constants(clip=-6.0) if isinstance(spec, Exaq) else spec.constants()
    changed = dataclasses.replace(spec, **change)
    assert first_difference(Design(changed, constants), Design(spec, constants), thousands=1, seed=0) is not None


@pytest.mark.parametrize(
    ("spec", "field", "entry"),
    [
        (ConSmax(output_bits=16), "high", 0),
        (ConSmax(output_bits=16), "high", 15),
        (ConSmax(output_bits=16), "low", 0),
        (ConSmax(output_bits=16), "low", 15),
        (ConSmax(output_bits=16), "exponent", None),
        (ConSmax(output_bits=16), "output_fraction_bits", None),
        (ConSmax(output_bits=16), "limit", None),
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
        *((Exaq(), "thresholds", entry) for entry in range(3)),
        *((Exaq(), "exponentials", entry) for entry in range(4)),
    ],
    ids=label,
)
def test_one_changed_constant_is_noticed(spec: Spec, field: str, entry: int | None) -> None:
    constants = spec.constants(clip=-6.0) if isinstance(spec, Exaq) else spec.constants()
    value = getattr(constants, field)
    changed = value - 1 if entry is None else (*value[:entry], value[entry] - 1, *value[entry + 1 :])
    other = dataclasses.replace(constants, **{field: changed})
    assert first_difference(Design(spec, other), Design(spec, constants), thousands=1, seed=0) is not None
