"""Softermax alone: powers of two, and slices whose order is part of the result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import softmaxkit
from softmaxkit import UQ, Softermax
from softmaxkit.masks import exact_softmax


def test_its_reference_is_softmax_to_base_two() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 9)) * 5
    assert np.allclose(Softermax().reference(scores), 2**scores / (2**scores).sum(-1, keepdims=True), rtol=1e-13)
    assert np.allclose(Softermax(log2e=True).reference(scores), exact_softmax(scores), rtol=1e-13)


def test_the_defaults_are_no_variant() -> None:
    assert Softermax().variant == ""


def test_two_scores_in_integers() -> None:
    given = softmaxkit.softmax(np.array([0.0, 1.0]), Softermax(), mode="integer")
    assert np.allclose(given, [0.328125, 0.6640625])
    with pytest.raises(TypeError, match="no parameter 'clip'"):
        softmaxkit.softmax(torch.zeros(2, 3), Softermax(), clip=-1.0)


@pytest.mark.parametrize(
    ("spec", "row"),
    [(Softermax(), [0] * 2048 + [24] * 16), (Softermax(power_sum=UQ(2, 6)), [0] * 16 + [8] + [-100] * 15)],
    ids=["defaults", "a narrow sum"],
)
def test_the_bound_holds_where_the_sum_saturates_before_the_maximum_rises(spec: Softermax, row: list[int]) -> None:
    codes, constants = np.array([row]), spec.constants()
    given = spec.decode(spec.golden(codes, None, constants), constants)
    truth = spec.reference(spec.score_values(codes, constants))
    assert (np.abs(given - truth) <= spec.error_bound(codes, None, constants) * (1 + 1e-9)).all()


def test_the_order_of_slices_is_part_of_the_result() -> None:
    spec = Softermax()
    codes = spec.encode(np.random.default_rng(0).normal(size=(500, 256)) * 4, spec.constants())
    swapped = np.concatenate([codes[:, 128:], codes[:, :128]], axis=1)
    first, second = spec.golden(codes, None, spec.constants()), spec.golden(swapped, None, spec.constants())
    assert (np.concatenate([second[:, 128:], second[:, :128]], axis=1) != first).any()
