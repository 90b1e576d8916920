"""The PyTorch operators: torch's own checks, gradients against torch, compiled and exported, and the k best."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import softmaxkit.kernels as kernels
from softmaxkit import ConSmax, Exact, Exaq, softmax_topk
from softmaxkit.kernels import launch, operators, rows
from softmaxkit.methods.base.spec import Spec

if kernels.native() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

EXPONENTIALS = Exaq(bits=2).exponentials(-5.0)


def scores_of(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_s_own_checks_of_operators(dtype: torch.dtype) -> None:
    scores, mask = scores_of(2, 3, 5, 40, dtype=dtype), torch.rand(5, 40) < 0.7
    for given in (scores, scores.clone().requires_grad_()):
        torch.library.opcheck(operators.exact, (given, mask, True))
        torch.library.opcheck(operators.consmax, (given, torch.zeros(3), 1.0, mask))
    torch.library.opcheck(operators.exaq, (scores, -5.0, EXPONENTIALS, mask))
    torch.library.opcheck(operators.topk, (scores, 7))
    torch.library.opcheck(operators.exact_backward, (scores, scores))
    torch.library.opcheck(operators.consmax_backward, (scores, scores, 1.0))


def gradients(run: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    leaves = [each.clone().requires_grad_() for each in inputs]
    result = run(*leaves)
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (result * weights.to(result.dtype)).sum().backward()  # type: ignore[no-untyped-call]
    return [each.grad for each in leaves if each.grad is not None]


@pytest.mark.parametrize("keys", [1, 7, 16, 40, 333])
def test_gradients_are_those_of_the_torch_form_in_float64(keys: int) -> None:
    scores, mask = scores_of(2, 3, 5, keys), torch.rand(5, keys, generator=torch.Generator().manual_seed(2)) < 0.8
    module = ConSmax(share="head").module(heads=3, beta=[0.5, 1.0, 9.0], gamma=3.0)
    offset = (module.beta + module.log_gamma).detach()

    def by_torch(given: Tensor, offset: Tensor) -> Tensor:
        exponent = (given - offset[:, None, None]).clamp(max=0.0)
        return torch.where(mask, exponent.exp(), 0.0)

    pairs: list[tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (lambda s: operators.exact(s, mask), lambda s: Exact().module()(s, mask), (scores,)),
        (lambda s, o: operators.consmax(s, o, 1.0, mask), by_torch, (scores, offset)),
    ]
    for ours, truth, inputs in pairs:
        for found, expected in zip(
            gradients(ours, *inputs), gradients(truth, *(each.double() for each in inputs)), strict=True
        ):
            # Sums of up to 15 * keys terms of at most about 4, each rounded to 2**-24.
            assert (found - expected).abs().max() <= 2.0**-22 * 4 * math.sqrt(15 * keys)


def test_compiled_and_exported_modules_call_the_operators() -> None:
    torch.compiler.reset()  # other tests have compiled the same forward for other methods
    scores, mask = scores_of(2, 3, 5, 40), torch.rand(5, 40) < 0.7
    chosen: list[tuple[Spec, dict[str, Any]]] = [(ConSmax(), {}), (Exaq(bits=2), {"clip": -5.0})]
    for spec, numbers in [*chosen, *([(Exact(), {})] if launch.instructions() == "avx512" else [])]:
        module = spec.module(**numbers).eval()
        compiled: Any = torch.compile(module, backend="eager", fullgraph=True)
        exported = torch.export.export(module, (scores, mask))
        for run in (compiled, exported.module()):
            assert torch.equal(run(scores, mask), module(scores, mask))
        assert f"softmaxkit.{spec.method}" in str(exported.graph)


@pytest.mark.parametrize(("size", "k"), [(1, 1), (17, 17), (1000, 5), (5000, 50), (40000, 300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_k_best(size: int, k: int, dtype: torch.dtype) -> None:
    logits = torch.stack([scores_of(size), scores_of(size).sort().values, -scores_of(size).sort().values]).to(dtype)
    values, indices = softmax_topk(logits, k)
    truth = torch.softmax(logits.double(), -1)
    assert torch.allclose(values.double(), truth.topk(k).values, rtol=2.0**-8 if dtype == torch.bfloat16 else 1e-5)
    # Equal logits may stand in any order; what is chosen has the probabilities that are told.
    assert torch.allclose(truth.gather(-1, indices), truth.topk(k).values, rtol=1e-12)
    assert all(len(set(row)) == k for row in indices.tolist())


def test_the_k_best_with_infinity_and_nan_are_torch_s() -> None:
    logits = scores_of(4, 100)
    logits[0, 3], logits[1, 5], logits[2, 1:] = math.nan, math.inf, -math.inf
    found, truth = softmax_topk(logits, 3), torch.softmax(logits, -1).topk(3)
    assert torch.allclose(found.values, truth.values, equal_nan=True, rtol=1e-6)
    assert found.indices[2, 0] == 0


def test_out_takes_the_result_and_is_checked() -> None:
    scores = scores_of(3, 40)
    out = torch.empty_like(scores)
    assert rows.exact(scores, out=out) is out
    assert torch.equal(out, rows.exact(scores))
    with pytest.raises(ValueError, match=r"out is contiguous, torch.float32, \(3, 40\), not torch.float32, \(3, 39\)"):
        rows.exact(scores, out=torch.empty(3, 39))
