"""The rivals: their mathematics, and that they run only when named; and the Taylor series of Exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from unit_checks import agrees, verilator

import softmaxkit
from softmaxkit import ConSmax, Exact, Index, Q, Sigmoid
from softmaxkit.cli.options import chosen_specs
from softmaxkit.methods import ALL_METHODS, METHODS, RIVALS
from softmaxkit.tables import inverse_power_series, inverse_power_series_error

PAPER_TABLE = "255 206 167 135 109 88 71 57 46 38 30 25 20 16"
"""The first entries of the table in the authors' published Arm kernel."""


def test_all_means_all_except_rivals() -> None:
    assert [*ALL_METHODS, *RIVALS] == list(METHODS)
    assert RIVALS == ("index", "sigmoid")
    assert {spec.method for spec in chosen_specs(None, None)} == set(ALL_METHODS)
    assert [spec.method for spec in chosen_specs(["sigmoid"], None)] == ["sigmoid"]


def test_the_table_of_the_paper() -> None:
    assert list(Index().exponentials[::-1])[:14] == [int(entry) for entry in PAPER_TABLE.split()]
    assert Index().exponentials[0] == 0
    assert len(Index().exponentials) == 32


def test_a_reciprocal_instead_of_division_is_off_by_at_most_one() -> None:
    spec, rng = Index(), np.random.default_rng(0)
    constants = spec.constants()
    codes = spec.encode(rng.normal(0, 2, (2000, 64)), constants)
    attended = rng.random(codes.shape) < 0.9
    highest = np.where(attended, codes, codes.min()).max(-1, keepdims=True)
    distance = np.clip(highest - codes, 0, spec.farthest)
    entries = np.where(attended, np.asarray(spec.entries)[distance], 0)
    divided = np.rint(255 * entries / entries.sum(-1, keepdims=True))
    off = np.abs(spec.golden(codes, attended, constants) - divided)
    assert off.max() == 1
    assert (off > 0).mean() < 2e-3


def test_flat_rows_vanish_in_8_bits() -> None:
    """Each of more than 510 equal scores has a probability below half of 1/255."""
    codes = np.zeros((1, 511), np.int64)
    spec, wide = Index(), Index(output_bits=16)
    assert spec.decode(spec.golden(codes[:, :509], None, spec.constants()), spec.constants()).sum() > 1.9
    assert not spec.golden(codes, None, spec.constants()).any()
    assert abs(wide.decode(wide.golden(codes, None, wide.constants()), wide.constants()).sum() - 1) < 1e-2


def test_sigmoids_of_equal_scores_sum_to_about_one() -> None:
    rows = softmaxkit.softmax(torch.zeros(2, 300), Sigmoid(), **Sigmoid().start(300)).sum(-1)
    # n / (n + 1)
    assert torch.allclose(rows, torch.full((2,), 300 / 301))
    assert Sigmoid(keys=512).start(64) == {"bias": -math.log(512)}


def test_a_fitted_bias_is_minus_the_mean_log_sum_of_its_head() -> None:
    module = Sigmoid(bias="fitted").module(heads=2)
    scores, attended = torch.randn(3, 2, 5, 7), torch.rand(3, 2, 5, 7) < 0.7
    attended[..., 0] = True
    calibrator = module.calibrator()
    assert calibrator is not None
    calibrator.observe(scores, attended)
    module.adopt(calibrator.finish())
    assert torch.allclose(module.bias, -torch.where(attended, scores, -torch.inf).logsumexp(-1).mean(dim=(0, 2)))
    assert Sigmoid().module(heads=2).calibrator() is None
    assert (Sigmoid().training, Sigmoid(bias="fitted").training) == ("from scratch", "calibrated")


@verilator
def test_a_whole_table_of_small_entries_keeps_the_result_width() -> None:
    """Constant entries may be narrower than a result; results of further lanes must not shift down."""
    spec = ConSmax(tables="whole")
    agrees(spec.unit(lanes=2, constants=spec.constants(beta=5.0, gamma=100.0)))


@pytest.mark.parametrize("segments", [1, 4, 16])
@pytest.mark.parametrize("degree", [1, 2, 3, 5])
def test_a_series_stays_within_its_bound(degree: int, segments: int) -> None:
    bits = 16
    series = inverse_power_series(degree, segments, 14, bits)
    x = np.arange(1 << 14)
    values = series(x) / 2**bits
    error = np.abs(values - 2.0 ** -(x / 2**14))
    bound = inverse_power_series_error(degree, segments, bits) + 2.0 ** -(bits + 1)
    assert error.max() <= bound
    assert error.max() > bound / 8  # the bound is not vacuous
    assert values[0] == 1
    assert values.min() >= 0.5


def test_variants_name_series_and_formats() -> None:
    assert Exact(exponential_segments=1, taylor_degree=2).variant == "exponential_segments=1, taylor_degree=2"
    assert Exact(taylor_degree=2).training == "calibrated"
    assert Index(scores=Q(6, 2)).name == "index scores=Q(6,2)"
