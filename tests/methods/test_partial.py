"""Partial rows: any split and merge order gives the whole row, for every method; and a blog post's mistake."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from cases import BY_METHOD, CASES, DEFAULTS
from hypothesis import given, settings
from hypothesis import strategies as st
from method_cases import Case
from numpy.typing import NDArray

from softmaxkit import OnlineSoftmax, softmax_topk
from softmaxkit.masks import exact_softmax


class Rows(NamedTuple):
    """Rows of float64 with values, and the parts into which they are split."""

    scores: NDArray[np.float64]
    mask: NDArray[np.bool_]
    values: NDArray[np.float64]
    parts: Sequence[slice]
    seed: int


@st.composite
def cut_rows(draw: st.DrawFn) -> Rows:
    """Draw rows of 1 to 60 keys in 1 to 7 parts, with small or large spread, some -inf, and the first fully masked."""
    keys, seed = draw(st.integers(1, 60)), draw(st.integers(0, 2**32))
    edges = [0, *sorted(draw(st.lists(st.integers(0, keys), max_size=6))), keys]
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(3, 4, keys)) * rng.choice([0.1, 3, 100])
    scores[rng.random(scores.shape) < 0.02] = -np.inf
    mask = rng.random((3, 4, keys)) < rng.choice([0.1, 0.9])
    mask[0, 0] = False
    return Rows(scores, mask, rng.normal(size=(3, keys, 5)), [slice(a, b) for a, b in pairwise(edges)], seed)


def merged(empty: Any, rows: Rows, make: Callable[[Any], Any], with_values: bool = True) -> Any:
    """Update one state per part, and merge the states in random order."""
    rng = random.Random(rows.seed)
    states = []
    for part in rows.parts:
        values = make(rows.values[:, part]) if with_values else None
        states.append(empty.update(make(rows.scores[..., part]), make(rows.mask[..., part]), values))
    while len(states) > 1:
        rng.shuffle(states)
        states.append(states.pop().merge(states.pop()))
    return states[0]


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("case", CASES, ids=str)
@settings(max_examples=10, deadline=None)
@given(rows=cut_rows())
def test_parts_merge_to_the_whole_row(case: Case, make: Callable[[Any], Any], rows: Rows) -> None:
    cases = BY_METHOD[case.spec.method]
    if cases.whole_row is None:
        with pytest.raises(ValueError, match="depends on the whole row"):
            case.spec.partial(**case.parameters)
        return
    scores, mask, values, *_ = rows
    whole = cases.whole_row(scores, mask)
    empty = case.spec.partial(**case.parameters, **{name: make(number) for name, number in whole.items()})
    truth = case.spec.reference(scores, mask, **case.parameters)
    # Scores of magnitude up to 400 are rounded a few times, by up to 2**-45, which is the relative error of a power in
    # each of 7 parts. With torch, a module's parameters are float32.
    tolerance = max(1e-12, cases.float_tolerance if make is torch.as_tensor else 0.0)
    with torch.no_grad():
        state = merged(empty, rows, make)
        weighted, probabilities = state.result(), state.result(make(scores), make(mask))
        without_values = merged(empty, rows, make, with_values=False).result(make(scores), make(mask))
    scale = np.maximum(truth @ np.abs(values), 1)
    assert (np.abs(np.asarray(weighted) - truth @ values) <= tolerance * scale).all()
    for result in (probabilities, without_values):
        assert np.abs(np.asarray(result) - truth).max() <= tolerance * max(truth.max(), 1)
        assert (np.asarray(result)[~mask] == 0).all()
    assert (np.asarray(weighted)[0, 0] == 0).all()


@pytest.mark.parametrize("case", [case for case in DEFAULTS if BY_METHOD[case.spec.method].whole_row], ids=str)
def test_invalid_use_of_partial_states_is_refused(case: Case) -> None:
    spec, scores = case.spec, np.array([[0.5, 1.0]])
    whole = BY_METHOD[spec.method].whole_row(scores, scores == scores)  # type: ignore[misc]
    state = spec.partial(**case.parameters, **whole).update(scores)
    with pytest.raises(ValueError, match=r"no values were passed.*result\(scores\)"):
        state.result()
    for name in whole:
        with pytest.raises(ValueError, match=f"whole row.*{name}="):
            spec.partial(**case.parameters)
        with pytest.raises(TypeError, match=f"{name} must be a tensor or an array.*, got float"):
            spec.partial(**case.parameters, **{name: 1.0})
        other = spec.partial(**case.parameters, **{name: whole[name] + 1}).update(scores)
        with pytest.raises(ValueError, match="do not merge"):
            state.merge(other)
    for name, number in case.parameters.items():
        other = spec.partial(**{**case.parameters, name: 1.5 * number or 1.0}, **whole).update(scores)
        with pytest.raises(ValueError, match="do not merge"):
            state.merge(other)
    state.merge(spec.partial(**case.parameters, **whole).update(scores))


def test_updates_one_key_at_a_time() -> None:
    state = OnlineSoftmax()
    for score in (1.0, 2.0, 3.0):
        state = state.update(np.array([score]))
    assert state.maximum[0] == 3
    assert state.total[0] == pytest.approx(1 + math.exp(-1) + math.exp(-2))  # 1.5032
    assert round(float(state.total[0]), 4) == 1.5032


def test_the_blog_posts_update_is_wrong() -> None:
    """`d += exp(s - m'); d *= exp(m' - m)` also rescales the new term, and with the wrong sign."""
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
    with pytest.raises(TypeError, match="scores must be floating-point"):
        OnlineSoftmax().update(np.array([1, 2]))
    with pytest.raises(TypeError, match="logits must be floating-point"):
        softmax_topk(torch.tensor([1, 2]), 1)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        softmax_topk(torch.zeros(3), 1, chunk=0)


def test_half_precision_is_accumulated_in_float32() -> None:
    scores = torch.randn(4, 3000, generator=torch.Generator().manual_seed(0)).half()
    state = OnlineSoftmax().update(scores)
    assert state.total.dtype == torch.float32
    assert torch.allclose(state.result(scores).sum(-1), torch.ones(4), atol=1e-5)


def test_misuse_is_refused_with_a_remedy() -> None:
    scores = np.zeros((2, 3))
    with pytest.raises(ValueError, match="has seen no scores"):
        OnlineSoftmax().result()
    with pytest.raises(ValueError, match=r"result\(scores\)"):
        OnlineSoftmax().update(scores).result()
    with pytest.raises(ValueError, match="pass values to every update"):
        OnlineSoftmax().update(scores).update(scores, values=np.zeros((2, 3, 1)))


@pytest.mark.parametrize(
    ("size", "k", "chunk"), [(10, 1, 3), (1000, 50, 64), (5000, 5000, 999), (20000, 7, 16384), (3, 3, 1)]
)
def test_topk_equals_softmax_then_topk(size: int, k: int, chunk: int) -> None:
    logits = torch.randn(4, size, generator=torch.Generator().manual_seed(0)) * 4
    highest = softmax_topk(logits, k, chunk)
    expected = torch.softmax(logits, -1).topk(k)
    assert torch.equal(highest.indices, logits.topk(k).indices)
    assert torch.allclose(highest.values, expected.values, rtol=1e-5, atol=0)


def test_topk_in_half_precision_and_invalid_k() -> None:
    logits = torch.randn(2, 100, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert softmax_topk(logits, 5).values.dtype == torch.bfloat16
    for k in (0, 101):
        with pytest.raises(ValueError, match="k must be from 1 to 100"):
            softmax_topk(logits, k)
    with pytest.raises(ValueError, match=r"logits must have the shape \(..., vocabulary\), got a scalar"):
        softmax_topk(logits[0, 0], 1)
    with pytest.raises(TypeError, match="logits must be a torch tensor, got list"):
        softmax_topk([1.0, 2.0], 1)  # type: ignore[arg-type]
    for wrong in ({"k": 1.5}, {"k": "2"}, {"k": 2, "chunk": 1.5}):
        with pytest.raises(TypeError, match=r"(k|chunk) must be an integer, got"):
            softmax_topk(logits, **wrong)  # type: ignore[arg-type]
