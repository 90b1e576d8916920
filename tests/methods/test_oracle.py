"""Golden models equal independent oracles, by `==`: on some rows of every case, or 100,000 per method when slow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import BY_METHOD
from method_cases import Codes, Mask, OracleCase

from softmaxkit import Spec
from softmaxkit.methods.base.constants import Constants

LENGTHS = {1: 60, 2: 100, 3: 120, 5: 170, 8: 170, 15: 100, 16: 90, 17: 90, 24: 60, 31: 15, 33: 15, 64: 6, 200: 4}
"""Row lengths, and how many of a thousand rows have each."""
QUICK = 0.03
"""Fraction of a case's rows that the fast tests check."""
SPREADS = (0.3, 2.0, 8.0, 40.0)
CASES = [case for cases in BY_METHOD.values() for case in cases.oracle_cases]


class Design(NamedTuple):
    spec: Spec
    constants: Constants


def draw_codes(rng: np.random.Generator, design: Design, rows: int, keys: int) -> Codes:
    """Draw rows of several kinds, shuffled: real scores, raw codes, ties, all equal, extremes."""
    spec, cases = design.spec, BY_METHOD[design.spec.method]
    kinds: list[Codes] = []
    share = -(-rows // 8)
    for spread in SPREADS:
        scores = spread * rng.standard_normal((share, keys)) + cases.score_centres(rng, share)
        kinds.append(spec.encode(scores, design.constants))
    kinds.append(cases.raw_codes(rng, spec, (share, keys)))
    few = cases.raw_codes(rng, spec, (share, 3))
    kinds.append(np.take_along_axis(few, rng.integers(0, 3, (share, keys)), axis=1))
    kinds.append(np.broadcast_to(cases.raw_codes(rng, spec, (share, 1)), (share, keys)))
    kinds.append(rng.choice(np.array(cases.extreme_codes(spec), dtype=np.int64), (share, keys)))
    return rng.permutation(np.concatenate(kinds))[:rows]


def draw_mask(rng: np.random.Generator, spec: Spec, rows: int, keys: int) -> Mask:
    """Draw masks of several kinds in turn: none, 20 to 80 %, all, all but one key, whole slices masked."""
    width = int(getattr(spec, "slice_width", 16))
    kind = (np.arange(rows)[:, None] + rng.integers(10)) % 10
    random = rng.random((rows, keys)) < rng.uniform(0.2, 0.8, (rows, 1))
    one = np.arange(keys) == rng.integers(0, keys, (rows, 1))
    keep = rng.random((rows, -(-keys // width))) < 0.6
    whole = np.repeat(keep, width, axis=1)[:, :keys]
    ones = np.ones_like(random)
    choices = [ones, random, random, random, random, ~ones, one, whole, whole & random, ones]
    return np.select([kind == i for i in range(10)], choices, default=False)


def batches(design: Design, count: int, seed: int) -> Iterator[tuple[Codes, Mask | None]]:
    """Yield about `count` rows, grouped by length; a fifth of them have no mask."""
    rng = np.random.default_rng(seed)
    for keys, of_a_thousand in LENGTHS.items():
        codes = draw_codes(rng, design, -(-of_a_thousand * count // 1000), keys)
        plain = len(codes) // 5
        if plain:
            yield codes[:plain], None
        yield codes[plain:], draw_mask(rng, design.spec, len(codes) - plain, keys)


def oracle_rows(design: Design, codes: Codes, mask: Mask | None) -> list[list[int]]:
    """Return the expected results from the oracle of the method; fully masked rows give zeros."""
    attended = np.ones(codes.shape, dtype=np.bool_) if mask is None else mask
    oracle = BY_METHOD[design.spec.method].oracle
    return [
        oracle(design.spec, row, row_mask, design.constants) if any(row_mask) else [0] * len(row)
        for row, row_mask in zip(codes.tolist(), attended.tolist(), strict=True)
    ]


def first_difference(ours: Design, theirs: Design, count: int, seed: int) -> str | None:
    """Return the first row drawn for `ours` for which its golden model differs from the oracle of `theirs`."""
    for codes, mask in batches(ours, count, seed):
        golden = ours.spec.golden(codes, mask, ours.constants)
        expected = oracle_rows(theirs, codes, mask)
        assert golden.dtype == np.int64
        for i, (row, expected_row) in enumerate(zip(golden.tolist(), expected, strict=True)):
            if row != expected_row:
                row_mask = None if mask is None else mask[i].tolist()
                return f"codes {codes[i].tolist()}, mask {row_mask}: golden {row}, oracle {expected_row}"
    return None


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("part", [QUICK, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_golden_equals_oracle(case: OracleCase, part: float) -> None:
    design = Design(case.spec, case.spec.constants(**case.numbers))
    assert first_difference(design, design, round(1000 * part * case.thousands), seed=CASES.index(case)) is None


@pytest.mark.parametrize(
    ("spec", "change"), [changed for cases in BY_METHOD.values() for changed in cases.changed_specs], ids=str
)
def test_a_changed_spec_is_detected(spec: Spec, change: dict[str, Any]) -> None:
    changed, constants = dataclasses.replace(spec, **change), spec.examples()[0]
    ours, theirs = Design(changed, dataclasses.replace(constants, form=changed.constants_form)), Design(spec, constants)
    assert first_difference(ours, theirs, count=10_000, seed=0) is not None


@pytest.mark.parametrize(
    ("spec", "field", "entry"),
    [changed for cases in BY_METHOD.values() for changed in cases.changed_constants],
    ids=str,
)
def test_a_changed_constant_is_detected(spec: Spec, field: str, entry: int | None) -> None:
    constants = spec.examples()[0]
    value = getattr(constants, field)
    changed = value - 1 if entry is None else (*value[:entry], value[entry] - 1, *value[entry + 1 :])
    other = dataclasses.replace(constants, **{field: changed})
    assert first_difference(Design(spec, other), Design(spec, constants), count=10_000, seed=0) is not None


def test_row_lengths_add_up_to_a_thousand() -> None:
    assert sum(LENGTHS.values()) == 1000
