"""A fully masked query gives zeros, also where values that other queries attend to are infinite or NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import softmaxkit
from softmaxkit import ConSmax, Exact, Exaq, Index, Sigmoid
from softmaxkit.fused_attention.partial import partial_attention

CONSMAX = {"beta": 0.5, "gamma": 1.0}
IN_PARTS: Any = [(Exact(), {}), (Exaq(), {"clip": -5.0}), (ConSmax(), CONSMAX), (Sigmoid(), {"bias": -1.0})]
METHODS: Any = [*IN_PARTS, (Index(), {})]


def tensors(queries: int, bad: float) -> list[torch.Tensor]:
    """Return queries, 5 keys, values of which one is bad, and a mask that hides all keys from the first query."""
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, n, 16, generator=random) for n in (queries, 5, 5))
    value[:, :, 1] = bad
    mask = torch.ones(1, 1, queries, 5, dtype=torch.bool)
    mask[:, :, 0] = False
    return [query, key, value, mask]


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("queries", [2, 40])
@pytest.mark.parametrize("mode", ["float", "integer"])
@pytest.mark.parametrize(("spec", "numbers"), METHODS, ids=str)
def test_infinite_values_of_others_do_not_reach_it(
    spec: Any, numbers: dict[str, float], mode: str, queries: int, bad: float
) -> None:
    query, key, value, mask = tensors(queries, bad)
    result = softmaxkit.attention(query, key, value, spec, mask, mode=mode, **numbers)
    assert (result[:, :, 0] == 0).all()
    assert not result[:, :, 1:].isfinite().any()
    added = torch.where(mask, 0.0, -math.inf)
    result = softmaxkit.attention(query, key, value, spec, added, mode=mode, **numbers)
    assert (result[:, :, 0] == 0).all()


@pytest.mark.parametrize(("spec", "numbers"), IN_PARTS, ids=str)
def test_infinite_values_of_others_do_not_reach_its_state(spec: Any, numbers: dict[str, float]) -> None:
    query, key, value, mask = tensors(2, math.inf)
    more = {"maximum": (query @ key.mT / 4).amax(-1, keepdim=True)} if isinstance(spec, Exaq) else {}
    state = partial_attention(query, key, value, spec, mask, **numbers, **more)
    assert (state.result()[:, :, 0] == 0).all()
    assert not state.result()[:, :, 1].isfinite().any()
    assert (state.merge(state).result()[:, :, 0] == 0).all()


def test_infinite_values_of_others_do_not_reach_its_state_in_numpy() -> None:
    scores, mask = np.zeros((2, 3)), np.array([[False] * 3, [True] * 3])
    with np.errstate(invalid="ignore"):
        state = softmaxkit.OnlineSoftmax().update(scores, mask, np.array([[1.0], [math.inf], [2.0]]))
    assert state.result().tolist() == [[0.0], [math.inf]]
