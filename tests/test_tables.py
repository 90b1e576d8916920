from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from softmaxkit.tables import (
    GUARD_BITS,
    Reciprocal,
    fit,
    inverse_power_series,
    inverse_power_series_error,
    lookup,
    per_head,
    power_of_two,
    power_of_two_error,
)


def test_the_papers_power_of_two_table() -> None:
    table = power_of_two(4, 2, 15)
    values = table(np.arange(4)) * 2.0**-15
    assert np.allclose(values, [1, 1.189207, 1.414214, 1.681793], atol=2.0**-16)
    assert table.slopes == (0, 0, 0, 0)


def test_chord_slopes_are_those_of_methods_md() -> None:
    slopes = np.array(power_of_two(4, 10, 15).slopes) * 4 * 2.0 ** -(15 + GUARD_BITS)
    assert np.allclose(slopes, [0.756828, 0.900026, 1.070317, 1.272829], atol=1e-4)


@pytest.mark.parametrize("segments", [1, 4, 8, 16, 64])
def test_power_of_two_stays_within_its_bound(segments: int) -> None:
    codes = np.arange(1 << 12)
    truth = 2.0 ** (codes * 2.0**-12)
    error = np.abs(power_of_two(segments, 12, 20)(codes) * 2.0**-20 / truth - 1).max()
    assert error <= power_of_two_error(segments) + 2.0**-20 * (0.5 + 2.0**-GUARD_BITS)
    assert error > 0.5 * power_of_two_error(segments)  # the bound is tight


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("segments", [1, 4])
def test_the_bound_of_a_series_is_tight(degree: int, segments: int) -> None:
    """Its truncation, and a few units of the last guard bit, to which the last rounding adds half a unit."""
    codes, bits = np.arange(1 << 10), 40
    series = inverse_power_series(degree, segments, 10, bits)
    error = np.abs(series(codes) * 2.0**-bits - 2.0 ** -(codes * 2.0**-10)).max()
    bound = inverse_power_series_error(degree, segments, bits)
    last = 2.0 ** -(bits + 1) + 2.0**-53  # and the error of the reference in float64
    omitted = (math.log(2) / segments) ** (degree + 1) / math.factorial(degree + 1)
    assert 0.4 * omitted <= error <= bound + last  # of degree 1 from one point the end is cut off at 1/2
    assert bound - omitted == pytest.approx(degree * 2.0 ** -(bits + GUARD_BITS), rel=1e-2, abs=0)


def test_the_bound_of_the_reciprocal_has_a_term_for_every_cause() -> None:
    """Chord, table entries, final rounding, all relative to a mantissa of 1/2, and the truncated argument."""
    for segments, bits in ((1, 20), (8, 7), (256, 5)):
        last = 2.0**-bits
        for rounding, final in (("nearest", last), ("floor", 2 * last)):
            terms = 1 / (2 * segments**2), last / 4, final, last / 8
            bound = Reciprocal(segments, bits).relative_error(rounding)  # type: ignore[arg-type]
            assert bound == pytest.approx(sum(terms), rel=1e-12)


@pytest.mark.parametrize(("segments", "bits"), [(8, 7), (8, 15), (64, 11), (1, 7)])
@pytest.mark.parametrize("rounding", ["nearest", "floor"])
def test_reciprocal_stays_within_its_bound(segments: int, bits: int, rounding: str) -> None:
    codes = np.concatenate([np.arange(1, 70_000), np.array([2**40 - 1, 2**40, 3 * 2**30])])
    reciprocal = Reciprocal(segments, bits)
    mantissa, exponent = reciprocal(codes, rounding)  # type: ignore[arg-type]
    error = np.abs(mantissa * 2.0 ** -(bits + exponent) * codes - 1).max()
    assert error <= reciprocal.relative_error(rounding)  # type: ignore[arg-type]
    assert mantissa.min() >= 1 << (bits - 1)
    assert mantissa.max() == 1 << bits


def test_a_flipped_table_bit_breaks_the_bound() -> None:
    table = fit(math.exp, 8, 8, 12)
    broken = type(table)(8, 12, (table.offsets[0] ^ (1 << 10), *table.offsets[1:]), table.slopes)
    assert (broken(np.arange(256)) != table(np.arange(256))).any()


@pytest.mark.parametrize(
    ("segments", "bits", "message"), [(3, 8, "power of two"), (0, 8, "power of two"), (16, 2, "at most 4 segments")]
)
def test_impossible_tables_are_refused(segments: int, bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(math.exp, segments, bits, 8)


def test_lookup_per_head() -> None:
    table = ((10, 11, 12), (20, 21, 22))
    index = np.random.default_rng(0).integers(0, 3, (5, 2, 4, 3))
    expected = np.stack([np.array(table[h])[index[:, h]] for h in range(2)], axis=1)
    assert (lookup(table, index) == expected).all()
    assert (lookup(table, torch.tensor(index)).numpy() == expected).all()
    assert (lookup(table[0], index) == np.array(table[0])[index]).all()
    assert per_head((1, 2), index).shape == (2, 1, 1)
    assert per_head(3, index) == 3
