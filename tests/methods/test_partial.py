"""Rows in pieces: any cut and any order of merging gives the whole row; and the blog post's mistake."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softmaxkit import OnlineSoftmax, softmax_topk
from softmaxkit.masks import exact_softmax


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.lists(st.integers(0, 60), max_size=6), st.integers(0, 2**32), st.booleans())
def test_any_cut_in_any_order_merges_to_the_whole_row(keys: int, cuts: list[int], seed: int, use_torch: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(3, 4, keys)) * rng.choice([0.1, 3, 100])
    mask = rng.random((3, 4, keys)) < rng.choice([0.1, 0.9])
    mask[0, 0] = False
    values = rng.normal(size=(3, keys, 5))
    make = torch.as_tensor if use_torch else np.asarray
    edges = [0, *sorted(min(cut, keys) for cut in cuts), keys]
    states = [
        OnlineSoftmax().update(make(scores[..., a:b]), make(mask[..., a:b]), make(values[:, a:b]))
        for a, b in pairwise(edges)
    ]
    random.Random(seed).shuffle(states)
    while len(states) > 1:
        states.append(states.pop(0).merge(states.pop(0)))
    truth = exact_softmax(scores, mask)
    # Each of the up to 8 merges rounds a few times: 1e-12 is some thousand units of float64.
    assert np.allclose(np.asarray(states[0].result()), truth @ values, atol=1e-12)
    assert np.allclose(np.asarray(states[0].result(make(scores), make(mask))), truth, atol=1e-12)


def test_updates_one_key_at_a_time() -> None:
    state = OnlineSoftmax()
    for score in (1.0, 2.0, 3.0):
        state = state.update(np.array([score]))
    assert state.maximum[0] == 3
    assert state.total[0] == pytest.approx(1 + math.exp(-1) + math.exp(-2))  # 1.5032
    assert round(float(state.total[0]), 4) == 1.5032


def test_the_blog_posts_update_is_wrong() -> None:
    """`d += exp(s - m'); d *= exp(m' - m)` rescales the new term too, with the sign flipped."""
    results = []
    for start in (-math.inf, 1.0):
        highest, total = start, 0.0
        for score in (1.0, 2.0, 3.0):
            risen = max(highest, score)
            total += math.exp(score - risen)
            total *= math.exp(min(risen - highest, 700.0)) if risen > -math.inf else 1.0
            highest = risen
        results.append(total)
    assert results[0] > 1e300
    assert abs(results[1] - 1.5032) > 1


def test_rows_without_an_attended_key_give_zeros() -> None:
    scores = np.array([[1.0, 800.0], [1.0, 2.0]])
    state = OnlineSoftmax().update(scores, np.array([[False, False], [True, True]]))
    assert (state.result(scores)[0] == 0).all()
    assert np.allclose(state.result(scores)[1], exact_softmax(scores[1]))


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="scores are floating"):
        OnlineSoftmax().update(np.array([1, 2]))
    with pytest.raises(TypeError, match="logits are floating"):
        softmax_topk(torch.tensor([1, 2]), 1)
    with pytest.raises(ValueError, match="chunk is 1 or more"):
        softmax_topk(torch.zeros(3), 1, chunk=0)


def test_halves_are_carried_as_float32() -> None:
    scores = torch.randn(4, 3000, generator=torch.Generator().manual_seed(0)).half()
    state = OnlineSoftmax().update(scores)
    assert state.total.dtype == torch.float32
    assert torch.allclose(state.result(scores).sum(-1), torch.ones(4), atol=1e-5)


def test_mistakes_are_named() -> None:
    scores = np.zeros((2, 3))
    with pytest.raises(ValueError, match="has seen no scores"):
        OnlineSoftmax().result()
    with pytest.raises(ValueError, match=r"result\(scores\)"):
        OnlineSoftmax().update(scores).result()
    with pytest.raises(ValueError, match="give values to every update"):
        OnlineSoftmax().update(scores).update(scores, values=np.zeros((2, 3, 1)))


@pytest.mark.parametrize(
    ("size", "k", "chunk"), [(10, 1, 3), (1000, 50, 64), (5000, 5000, 999), (20000, 7, 16384), (3, 3, 1)]
)
def test_topk_equals_softmax_then_topk(size: int, k: int, chunk: int) -> None:
    logits = torch.randn(4, size, generator=torch.Generator().manual_seed(0)) * 4
    found = softmax_topk(logits, k, chunk)
    expected = torch.softmax(logits, -1).topk(k)
    assert torch.equal(found.indices, logits.topk(k).indices)
    assert torch.allclose(found.values, expected.values, rtol=1e-5, atol=0)


def test_topk_in_half_precision_and_bad_k() -> None:
    logits = torch.randn(2, 100, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert softmax_topk(logits, 5).values.dtype == torch.bfloat16
    for k in (0, 101):
        with pytest.raises(ValueError, match="k is 1 to the 100 logits"):
            softmax_topk(logits, k)
