"""8-bit linear layers: rounding, training and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import softmaxkit
from conftest import tiny_model
from softmaxkit.models.eight_bit import (
    KEPT,
    ROUNDED,
    EightBitLinear,
    _Range,
    round_linear,
    rounded_activations,
    rounded_weights,
)

TOKENS = {"input_ids": torch.arange(60).reshape(3, 20)}


@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.999, 100.0])
def test_the_percentile_is_exact_over_batches(percentile: float) -> None:
    random = np.random.default_rng(0)
    batches = [random.normal(size=(7, 100)).astype(np.float32) for _ in range(5)]
    seen = _Range()
    for batch in batches:
        seen.see(nn.Linear(1, 1), (torch.from_numpy(batch),))
    values = np.sort(np.abs(np.concatenate(batches).ravel()))[::-1]
    assert seen.percentile(percentile) == values[int(len(values) * (1 - percentile / 100))]


def test_a_percentile_below_the_stored_values_is_refused() -> None:
    seen = _Range()
    seen.see(nn.Linear(1, 1), (torch.randn(10, KEPT),))
    assert seen.percentile(99.0) > 2
    with pytest.raises(ValueError, match=r"percentile must be at least 90\.0000, got 80"):
        seen.percentile(80.0)


def test_weights_have_a_scale_per_output() -> None:
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 5)[:, None]
    rounded = rounded_weights(weight, 0)
    scale = weight.abs().amax(1, keepdim=True) / 127
    codes = rounded / scale
    assert (codes - codes.round()).abs().max() < 1e-4
    assert codes.round().abs().amax(1).tolist() == [127] * 5
    # Half a step, plus the rounding of float32.
    assert ((rounded - weight).abs() <= scale * (0.5 + 1e-4)).all()
    assert torch.equal(rounded_weights(weight.T.contiguous(), 1), rounded.T)
    assert torch.equal(rounded_weights(torch.zeros(2, 3), 0), torch.zeros(2, 3))


def test_gradients_pass_straight_through_except_where_activations_saturate() -> None:
    given = torch.tensor([-300.0, -1.3, 0.2, 126.4, 200.0], requires_grad=True)
    rounded = rounded_activations(given, torch.tensor(1.0))
    assert rounded.tolist() == [-127, -1, 0, 126, 127]
    rounded.sum().backward()
    assert given.grad is not None
    assert given.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("kind", ["gpt2", "bert", "llama"])
def test_a_rounded_model_is_close_and_learns(kind: str) -> None:
    model = tiny_model(kind)
    with torch.no_grad():
        before = model(**TOKENS).logits
    linear = sum(type(module) in ROUNDED for module in model.modules())
    round_linear(model, [TOKENS])
    assert sum(type(module) in ROUNDED.values() for module in model.modules()) == linear > 0
    with torch.no_grad():
        after = model(**TOKENS).logits
    change = (after - before).norm() / before.norm()
    assert 1e-4 < change < 0.05
    softmaxkit.apply(model, softmaxkit.Softermax(), mode="integer")
    model(**TOKENS).logits.square().mean().backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not [name for name in missing if "weight" in name and "embed" not in name]
    assert "activation_scale" in "".join(model.state_dict())


def test_models_that_cannot_be_rounded_are_refused() -> None:
    model = tiny_model("bert")
    with pytest.raises(ValueError, match="at least one batch"):
        round_linear(model, [])
    assert not [module for module in model.modules() if isinstance(module, EightBitLinear)]
    with pytest.raises(ValueError, match=r"must be from 50 to 100, such as 99\.999, got 0\.999"):
        round_linear(model, [TOKENS], 0.999)
    round_linear(model, [TOKENS])
    with pytest.raises(ValueError, match="has 8-bit layers already"):
        round_linear(model, [TOKENS])
