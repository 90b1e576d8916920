"""Exact softmax only: its reference, exponential and error bound."""

from __future__ import annotations

import numpy as np
import pytest

from softmaxkit import Exact
from softmaxkit.masks import exact_softmax
from softmaxkit.methods.exact.golden import exponential, fixed_point


def test_the_reference_is_softmax() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 9)) * 5
    assert (Exact().reference(scores) == exact_softmax(scores)).all()


def test_the_bound_is_tight_for_long_rows() -> None:
    spec = Exact()
    codes = spec.encode(np.zeros((1, 8192)), spec.constants())
    assert spec.error_bound(codes, None, spec.constants()).max() < 2 / 8192


def test_the_exponential_is_within_one_ulp_for_every_code() -> None:
    spec = Exact()
    codes = np.arange(1 << 15, 1 << 16)
    power = exponential(spec, fixed_point(codes, spec.format)) * 2.0**-spec.sum_fraction_bits
    truth = np.exp(spec.format.decode(codes))
    normal = truth >= spec.format.smallest
    ulp = 2.0 ** (np.floor(np.log2(truth[normal])) - spec.format.mantissa_bits)
    assert (np.abs(power[normal] - truth[normal]) / ulp).max() == pytest.approx(0.634, abs=0.001)
    assert (power[truth < spec.format.smallest * (1 - 2**-11)] == 0).all()
