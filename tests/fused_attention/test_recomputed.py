"""Gradients that compute scores again are those of scores that are kept: masks, biases, heads, dropout, learning."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from memory_use import memory_use
from torch import Tensor

import softmaxkit
from softmaxkit import ConSmax, Exaq, Index, Sigmoid, Spec
from softmaxkit.fused_attention import recomputed, torch_attention

BATCH, HEADS, TOKENS, CHANNELS = 3, 4, 40, 8
METHODS: list[tuple[Spec, dict[str, Any]]] = [
    (Exaq(), {"clip": -4.0}),
    (Exaq(share="head"), {"clip": [-4.0, -1.0, -9.0, -2.5]}),
    (ConSmax(), {"beta": 1.5, "gamma": 2.0}),
    (ConSmax(), {"beta": [0.5, 1.5, -1.0, 1.0], "gamma": [9.0, 5.0, 0.7, 1.0]}),
    (Sigmoid(), {"bias": [-2.0, -1.0, 0.0, 1.0]}),
    (Index(), {}),
    (Index(bits=8), {}),  # without fused attention: by the module, and in stripes of all heads
]
random = torch.Generator().manual_seed(4)
MASK = torch.rand(BATCH, 1, TOKENS, TOKENS, generator=random) < 0.7
MASK[0, :, 3] = False
BIAS = torch.randn(1, HEADS, TOKENS, TOKENS, generator=random)
MASKS: dict[str, dict[str, Any]] = {
    "all": {},
    "causal": {"is_causal": True},
    "mask": {"attn_mask": MASK},
    "mask of keys": {"attn_mask": MASK[:1, :, :1]},
    "bias": {"attn_mask": BIAS},
    "bias of keys": {"attn_mask": BIAS[:, :, :1]},
}


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Return what selects whether scores are computed again, in several stripes of few sequences and heads."""

    def select(computes: bool) -> None:
        monkeypatch.setattr(torch_attention, "KEPT", 0 if computes else 1 << 30)
        monkeypatch.setattr(recomputed, "LEAST_ROWS", 1)
        monkeypatch.setattr(recomputed, "STRIPE", 2 * TOKENS * TOKENS // 3)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    return select


def operands(key_heads: int = HEADS, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(BATCH, heads, TOKENS, CHANNELS) for heads in (HEADS, key_heads, key_heads)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def numbers_of(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return learned numbers as tensors that require gradients; a clip stays what it is."""
    return {
        name: x if name == "clip" else torch.tensor(x, dtype=torch.float32, requires_grad=True)
        for name, x in numbers.items()
    }


def gradients(spec: Spec, numbers: dict[str, Any], inputs: list[Tensor], how: dict[str, Any]) -> list[Tensor]:
    how = {name: x.clone().requires_grad_() if name == "attn_mask" and x.is_floating_point() else x
           for name, x in how.items()}  # fmt: skip
    given = numbers_of(numbers)
    output = softmaxkit.attention(*inputs, spec, enable_gqa=True, **how, **given)
    trained = [x for x in (*inputs, *given.values(), *how.values()) if isinstance(x, Tensor) and x.requires_grad]
    return [output, *torch.autograd.grad(output.square().sum(), trained)]


def assert_alike(actual: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    """Compare norms: products of stripes sum in another order."""
    assert len(actual) == len(expected)
    for gradient, other in zip(actual, expected, strict=True):
        assert (gradient.dtype, gradient.shape) == (other.dtype, other.shape)
        assert torch.linalg.vector_norm(gradient - other) <= tolerance * torch.linalg.vector_norm(other) + 1e-12


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("spec", "numbers"), METHODS, ids=lambda x: x.name if isinstance(x, Spec) else "")
def test_gradients_are_those_of_scores_that_are_kept(
    spec: Spec, numbers: dict[str, Any], mask: str, again: Callable[[bool], None]
) -> None:
    results = []
    for computes in (False, True):
        again(computes)
        results.append(gradients(spec, numbers, operands(key_heads=2), MASKS[mask]))
    assert_alike(results[1], results[0])
    assert not ("attn_mask" in MASKS[mask] and mask == "mask") or not results[1][0][0, :, 3].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(dtype: torch.dtype, again: Callable[[bool], None]) -> None:
    results = []
    for computes in (False, True):
        again(computes)
        results.append(gradients(Exaq(), {"clip": -4.0}, operands(dtype=dtype), {"is_causal": True}))
    assert_alike(results[1], results[0], 1e-12 if dtype == torch.float64 else 0.01)


@pytest.mark.parametrize(("spec", "numbers"), METHODS[2:5], ids=lambda x: x.name if isinstance(x, Spec) else "")
@pytest.mark.parametrize("without", ["float64", "integer mode", "kernels"])
def test_gradients_reach_numbers_where_no_row_kernel_runs(
    spec: Spec, numbers: dict[str, Any], without: str, again: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if without == "kernels":
        monkeypatch.setattr("softmaxkit.fused_attention.call.row_kernel", lambda call, query: None)
    how = {"mode": "integer"} if without == "integer mode" else {}
    results = []
    for computes in (False, True):
        again(computes)
        inputs = operands(dtype=torch.float64 if without == "float64" else torch.float32)
        results.append(gradients(spec, numbers, inputs, how))
    assert all(x.any() for x in results[0])
    assert_alike(results[1], results[0])


@pytest.mark.parametrize("spec", [Exaq(), ConSmax()], ids=str)
def test_the_integer_mode_has_its_straight_through_gradients(spec: Spec, again: Callable[[bool], None]) -> None:
    numbers = {"clip": -4.0} if isinstance(spec, Exaq) else {"beta": 1.5, "gamma": 2.0}
    results = []
    for computes in (False, True):
        again(computes)
        output = softmaxkit.attention(*(inputs := operands()), spec, mode="integer", **numbers)
        results.append([output, *torch.autograd.grad(output.square().sum(), inputs)])
    assert_alike(results[1], results[0])


@pytest.mark.parametrize(("spec", "numbers"), METHODS[:3], ids=lambda x: x.name if isinstance(x, Spec) else "")
def test_second_derivatives(spec: Spec, numbers: dict[str, Any], again: Callable[[bool], None]) -> None:
    results = []
    for computes in (False, True):
        again(computes)
        inputs = operands()
        output = softmaxkit.attention(*inputs, spec, is_causal=True, **numbers)
        first = torch.autograd.grad(output.square().sum(), inputs, create_graph=True)
        results.append(list(torch.autograd.grad(sum(x.square().sum() for x in first), inputs)))  # type: ignore[arg-type]
    assert_alike(results[1], results[0], 1e-4)


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_gradients_know_what_dropout_dropped(rate: float, again: Callable[[bool], None]) -> None:
    """The output is linear in the values, so its product with any gradient is that of the values with theirs."""
    again(True)
    query, key, value = operands()
    torch.manual_seed(3)
    output = softmaxkit.attention(query, key, value, Exaq(), dropout_p=rate, clip=-4.0)
    weights = torch.randn_like(output)
    output.backward(weights)
    assert value.grad is not None
    torch.testing.assert_close((output * weights).sum(), (value * value.grad).sum(), rtol=1e-4, atol=1e-4)
    torch.manual_seed(3)
    assert torch.equal(output, softmaxkit.attention(query, key, value, Exaq(), dropout_p=rate, clip=-4.0))
    if rate == 1.0:
        assert not output.any()
        return
    kept = softmaxkit.attention(
        query, key, torch.eye(TOKENS).expand(BATCH, HEADS, -1, -1), Exaq(), None, rate, clip=-4.0
    )
    dropped = (kept == 0).double()
    assert abs(dropped.mean().item() - rate) < 5 * math.sqrt(rate * (1 - rate) / kept.numel())
    assert not torch.equal(dropped[:, 0], dropped[:, 1])
    assert not torch.equal(dropped[0], dropped[1])


def test_what_requires_no_gradient_gets_none(again: Callable[[bool], None]) -> None:
    again(True)
    query, key, value = operands()
    beta = torch.tensor(1.5, requires_grad=True)
    softmaxkit.attention(query.detach(), key.detach(), value.detach(), ConSmax(), beta=beta, gamma=2.0).sum().backward()
    assert beta.grad is not None
    assert beta.grad.isfinite()
    assert query.grad is None


def test_no_scores_are_kept_for_the_gradients(again: Callable[[bool], None]) -> None:
    again(True)
    query, key, value = (torch.randn(1, 2, 1024, 8, requires_grad=True) for _ in range(3))
    outputs: list[Tensor] = []
    _, kept = memory_use(lambda: outputs.append(softmaxkit.attention(query, key, value, Exaq(), clip=-4.0)))
    assert kept <= 4 * outputs[0].nbytes
    most, _ = memory_use(lambda: outputs[0].sum().backward())
    assert most < 2 * 1024 * 1024 * 4 / 2  # half of the scores
