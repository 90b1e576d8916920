"""Exact softmax only: its reference, exponential and error bound."""

from __future__ import annotations

import numpy as np
import pytest

from softmaxkit import Exact
from softmaxkit.formats import FP16, Float
from softmaxkit.masks import exact_softmax
from softmaxkit.methods.exact.golden import exponential, fixed_point, online_slices, online_sum, round_to_float


def test_the_reference_is_softmax() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 9)) * 5
    assert (Exact().reference(scores) == exact_softmax(scores)).all()


def test_a_masked_score_however_large_leaves_the_reference_alone() -> None:
    scores = np.array([[0.0, 1.0, 1e4], [-1e4, -1e4, 1e4]])
    mask = np.array([True, True, False])
    assert (exact_softmax(scores, mask)[:, :2] == exact_softmax(scores[:, :2])).all()
    assert (exact_softmax(scores, mask)[:, 2] == 0).all()


def test_the_bound_is_tight_for_long_rows() -> None:
    spec = Exact()
    codes = spec.encode(np.zeros((1, 8192)), spec.constants())
    assert spec.error_bound(codes, None, spec.constants()).max() < 2 / 8192


@pytest.mark.parametrize("number", [FP16, Float(4, 3), Float(2, 1)])
def test_every_score_in_steps_is_exact_and_stays_when_rounded(number: Float) -> None:
    codes = np.arange(1 << number.bits)
    steps = 2.0 ** (number.min_exponent - number.mantissa_bits)
    values = fixed_point(codes, number)
    assert (values * steps == number.decode(codes)).all()
    assert (round_to_float(values, number) == values).all()


def test_the_online_sum_of_equal_scores_is_exact() -> None:
    spec = Exact(schedule="online")
    values, attended = np.zeros((2, 5 * spec.slice_width // 2), np.int64), np.array([[True], [False]])
    total = online_sum(spec, online_slices(spec, values, np.broadcast_to(attended, values.shape)))
    assert total[:, 0].tolist() == [values.shape[1] << spec.sum_fraction_bits, 0]


def test_the_exponential_is_within_one_ulp_for_every_code() -> None:
    spec = Exact()
    codes = np.arange(1 << 15, 1 << 16)
    power = exponential(spec, fixed_point(codes, spec.format)) * 2.0**-spec.sum_fraction_bits
    truth = np.exp(spec.format.decode(codes))
    normal = truth >= spec.format.smallest
    ulp = 2.0 ** (np.floor(np.log2(truth[normal])) - spec.format.mantissa_bits)
    assert (np.abs(power[normal] - truth[normal]) / ulp).max() == pytest.approx(0.634, abs=0.001)
    assert (power[truth < spec.format.smallest * (1 - 2**-11)] == 0).all()
