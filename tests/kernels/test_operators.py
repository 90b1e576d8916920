"""The PyTorch operators: torch's opcheck, gradients compared with torch's, compile and export, and top-k."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from row_inputs import tolerances
from torch import Tensor

from softmaxkit import ConSmax, Exact, Exaq, Index, Sigmoid, Softermax, softmax_topk
from softmaxkit.kernels import backends, builds, launch, operators, rows
from softmaxkit.methods.base.spec import Spec

if backends.native() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

EXPONENTIALS = Exaq(bits=2).exponentials(-5.0)


def scores_of(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)


@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_operators_pass_opcheck(dtype: torch.dtype) -> None:
    scores, mask = scores_of(2, 3, 5, 40, dtype=dtype), torch.rand(5, 40) < 0.7
    for values in (scores, scores.clone().requires_grad_()):
        torch.library.opcheck(operators.softmax.overload, (values, mask, True))
        torch.library.opcheck(operators.softmax_to_base.overload, (values, 2.0, mask))
        torch.library.opcheck(operators.exponential.overload, (values, torch.zeros(3), 1.0, math.e, mask))
        torch.library.opcheck(operators.logistic.overload, (values, torch.zeros(3), mask))
        torch.library.opcheck(operators.levels.overload, (values, -5.0, EXPONENTIALS, mask))
        torch.library.opcheck(operators.level_table.overload, (values, -5.0, [0.0, 0.5, 1.0], mask))
    torch.library.opcheck(operators.topk.overload, (scores, 7))
    torch.library.opcheck(operators.softmax_backward.overload, (scores, scores))
    torch.library.opcheck(operators.softmax_to_base_backward.overload, (scores, scores, 2.0))
    torch.library.opcheck(operators.logistic_backward.overload, (scores, scores, torch.zeros(3), mask))
    torch.library.opcheck(operators.levels_backward.overload, (scores, scores, scores, -5.0, mask))
    torch.library.opcheck(operators.exponential_backward.overload, (scores, scores, torch.zeros(3), 1.0, 2.0, mask))


def gradients(run: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    leaves = [values.clone().requires_grad_() for values in inputs]
    result = run(*leaves)
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (result * weights.to(result.dtype)).sum().backward()  # type: ignore[no-untyped-call]
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


@pytest.mark.parametrize("keys", [1, 7, 16, 40, 333])
def test_gradients_are_those_of_the_torch_form_in_float64(keys: int) -> None:
    scores, mask = scores_of(2, 3, 5, keys), torch.rand(5, keys, generator=torch.Generator().manual_seed(2)) < 0.8
    module = ConSmax(share="head").module(heads=3, beta=[0.5, 1.0, 9.0], gamma=3.0)
    offset = (module.beta + module.log_gamma).detach()

    def by_torch(values: Tensor, offset: Tensor) -> Tensor:
        exponent = (values - offset[:, None, None]).clamp(max=0.0)
        return torch.where(mask, exponent.exp(), 0.0)

    def by_logistic(values: Tensor, offset: Tensor) -> Tensor:
        return torch.where(mask, torch.sigmoid(values - offset[:, None, None]), 0.0)

    exaq, index = Exaq(bits=3).module(clip=-5.0), Index().module()
    pairs: list[tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (lambda s: operators.softmax(s, mask), lambda s: Exact().module()(s, mask), (scores,)),
        (lambda s: operators.softmax_to_base(s, 2.0, mask), lambda s: Softermax().module()(s, mask), (scores,)),
        (lambda s, o: operators.exponential(s, o, 1.0, math.e, mask), by_torch, (scores, offset)),
        (lambda s, o: operators.logistic(s, -o, mask), by_logistic, (scores, offset)),
        (lambda s: exaq(s, mask), lambda s: exaq(s, mask), (scores,)),  # in float64 there is no kernel
        (lambda s: index(s, mask), lambda s: index(s, mask), (scores,)),
    ]
    for ours, truth, inputs in pairs:
        for result, expected in zip(
            gradients(ours, *inputs), gradients(truth, *(values.double() for values in inputs)), strict=True
        ):
            # Sums of up to 15 * keys terms of at most about 4, each rounded to 2**-24.
            assert (result - expected).abs().max() <= 2.0**-22 * 4 * math.sqrt(15 * keys)


ROW_METHODS: list[tuple[Spec, dict[str, Any]]] = [
    *((spec, {}) for spec in (Exact(), Softermax(), Index(), Sigmoid())),
    (Exaq(bits=3), {"clip": -5.0}),
    (ConSmax(), {"beta": 0.5, "gamma": 3.0}),
]


@pytest.mark.parametrize("mode", ["float", "integer"])
@pytest.mark.parametrize(("spec", "numbers"), ROW_METHODS, ids=lambda x: getattr(x, "method", ""))
def test_gradients_are_finite_where_those_by_torch_are(
    spec: Spec, numbers: dict[str, Any], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With infinite gradients of results that are 0, as a square root or an entropy has, and rows with NaN."""
    scores, of_results = scores_of(2, 3, 6, 40), scores_of(1, 2, 3, 6, 40)[0]
    scores[0, 0, 0, 5], scores[0, 0, 1, 7], scores[1, 1, 2, :] = math.nan, math.inf, -math.inf
    scores[1, 2, 3, 4], of_results[1, 2, 3, 4] = -200.0, math.inf  # not masked
    mask = torch.rand(6, 40, generator=torch.Generator().manual_seed(2)) < 0.8
    of_results = of_results.masked_fill(~mask, math.inf)

    def gradient() -> Tensor:
        leaf = scores.clone().requires_grad_()
        return torch.autograd.grad(spec.module(mode=mode, **numbers)(leaf, mask), leaf, of_results)[0]

    ours = gradient()
    monkeypatch.setenv(builds.VARIABLE, "none")
    backends.reset()
    try:
        truth = gradient()
    finally:
        monkeypatch.undo()
        backends.reset()
    finite = truth.isfinite()
    assert finite.sum() > 0.9 * truth.numel()
    torch.testing.assert_close(ours[finite], truth[finite], rtol=2.0**-16, atol=2.0**-16)


@pytest.mark.parametrize(("spec", "numbers"), ROW_METHODS, ids=lambda x: getattr(x, "method", ""))
def test_rows_of_float16_are_those_of_float32_rounded(spec: Spec, numbers: dict[str, Any]) -> None:
    module, mask = spec.module(**numbers), torch.rand(6, 40, generator=torch.Generator().manual_seed(2)) < 0.8
    scores, of_results = scores_of(2, 3, 6, 40, dtype=torch.float16), scores_of(2, 3, 6, 40)
    assert module.choose(scores)[1].native

    def run(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        leaf = scores.to(dtype).requires_grad_()
        result = module(leaf, mask)
        return result, torch.autograd.grad(result, leaf, of_results.to(dtype))[0]

    result, gradient = run(torch.float16)
    truth, expected = run(torch.float32)
    torch.testing.assert_close(result.float(), truth, **tolerances(torch.float16, 2.0**-20))
    # p * (g - sum(p * g)) of a p and a g that are rounded: by 2 times max(g) for p, by 1 for g, by 2 for the sum, in
    # which both are, and by 2 for the gradient itself. Subnormal numbers err by 2^-25.
    allowed = (7 * 2.0**-11 * truth + 2.0**-23) * of_results.abs().max()
    assert ((gradient - expected).abs() <= allowed).all()
    compiled: Any = torch.compile(module, backend="eager", fullgraph=True)
    assert torch.equal(compiled(scores, mask), result)


@pytest.mark.parametrize("dtype", launch.DTYPES)
@pytest.mark.parametrize(
    "case", ["softmax", "causal", "softmax to base 2", "exponential", "exponential to base 2", "logistic"]
)
def test_gradients_of_gradients_are_those_of_the_torch_form_in_float64(case: str, dtype: torch.dtype) -> None:
    scores, offset = scores_of(2, 3, 5, 17, dtype=dtype), torch.tensor([0.5, 1.0, 9.0])
    mask, causal = torch.rand(5, 17, generator=torch.Generator().manual_seed(2)) < 0.8, case == "causal"
    base, limit, is_softmax = (
        (2.0 if "base 2" in case else math.e),
        0.9,
        "exponential" not in case and case != "logistic",
    )
    attended = mask & torch.ones(5, 17, dtype=torch.bool).tril(12) if causal else mask

    def by_torch(scores: Tensor, offset: Tensor) -> Tensor:
        if is_softmax:
            return Exact().module()(scores * math.log(base), attended)  # type: ignore[no-any-return]
        if case == "logistic":
            return torch.where(attended, torch.sigmoid(scores - offset[:, None, None]), 0.0)
        exponent = (scores - offset[:, None, None]).clamp(max=math.log(limit, base))
        return torch.where(attended, base**exponent, 0.0)

    def ours(scores: Tensor, offset: Tensor) -> Tensor:
        if is_softmax:
            to_e = base == math.e
            return operators.softmax(scores, mask, causal) if to_e else operators.softmax_to_base(scores, base, mask)
        if case == "logistic":
            return operators.logistic(scores, -offset, mask)
        return operators.exponential(scores, offset, limit, base, mask)

    weights, directions = scores_of(2, 2, 3, 5, 17).double(), torch.tensor([0.3, -1.0, 2.0]).double()

    def derivatives(run: Callable[..., Tensor], *leaves: Tensor) -> list[Tensor]:
        """Return the first, second and third derivatives along fixed directions."""
        result = run(*leaves)
        value, collected = (result * weights[0].to(result.dtype)).sum(), []
        for _ in range(3):
            by_scores, by_offset = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
            collected += [by_scores.detach().double(), by_offset.detach().double()]
            value = (by_scores * weights[1].to(result.dtype)).sum() + (by_offset * directions.to(by_offset.dtype)).sum()
        return collected

    truth = derivatives(by_torch, scores.double().requires_grad_(), offset.double().requires_grad_())
    tolerance = 2e-5 if dtype == torch.float32 else 0.05
    for order, (result, expected) in enumerate(
        zip(derivatives(ours, scores.clone().requires_grad_(), offset.clone().requires_grad_()), truth, strict=True)
    ):
        # Derivatives of probabilities of 16 bits lose more precision with every order.
        assert (result - expected).abs().max() <= tolerance * 2 ** (order // 2) * (1 + expected.abs().max())
        assert expected.any() or is_softmax


def test_no_gradient_at_the_limit() -> None:
    module = ConSmax(ceiling=0.4).module(beta=0.0, gamma=1.0)
    scores = torch.tensor([[10.0, -10.0]], requires_grad=True)
    operators.exponential(scores, module.beta + module.log_gamma, 0.4, math.e).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, 0] == 0
    assert scores.grad[0, 1] > 0


def test_compiled_and_exported_modules_call_the_operators() -> None:
    torch.compiler.reset()  # other tests have compiled the same forward for other methods
    scores, mask = scores_of(2, 3, 5, 40), torch.rand(5, 40) < 0.7
    chosen: list[tuple[Spec, dict[str, Any]]] = [(ConSmax(), {}), (Exaq(bits=2), {"clip": -5.0})]
    for spec, numbers in [*chosen, *([(Exact(), {})] if backends.backend_name() == "avx512" else [])]:
        module = spec.module(**numbers).eval()
        compiled: Any = torch.compile(module, backend="eager", fullgraph=True)
        exported = torch.export.export(module, (scores, mask))
        for run in (compiled, exported.module()):
            assert torch.equal(run(scores, mask), module(scores, mask))
        assert f"softmaxkit.{spec.module(**numbers).row_call(torch.device('cpu')).kernel}" in str(exported.graph)


@pytest.mark.parametrize(("size", "k"), [(1, 1), (17, 17), (1000, 5), (5000, 50), (40000, 300)])
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_topk(size: int, k: int, dtype: torch.dtype) -> None:
    logits = torch.stack([scores_of(size), scores_of(size).sort().values, -scores_of(size).sort().values]).to(dtype)
    values, indices = softmax_topk(logits, k)
    truth = torch.softmax(logits.double(), -1)
    torch.testing.assert_close(values.double(), truth.topk(k).values, **tolerances(dtype, 1e-5))
    # Equal logits may come in any order, so the probabilities at the returned indices are compared.
    assert torch.allclose(truth.gather(-1, indices), truth.topk(k).values, rtol=1e-12)
    assert all(len(set(row)) == k for row in indices.tolist())


@pytest.mark.parametrize("dtype", launch.DTYPES)
@pytest.mark.parametrize("size", [3, 100, 5000])
def test_topk_with_infinity_and_nan_is_that_of_torch(size: int, dtype: torch.dtype) -> None:
    logits = scores_of(6, size).to(dtype)
    logits[0, 2], logits[1, 1], logits[2, 1:], logits[3], logits[4] = math.nan, math.inf, -math.inf, -math.inf, math.nan
    for rest in (logits, logits[3]):  # a single row, too
        values, indices = rows.topk(rest, 3)
        truth = torch.softmax(rest, -1).topk(3)
        assert torch.allclose(values, truth.values, equal_nan=True, rtol=1e-6 if dtype == torch.float32 else 2.0**-7)
        assert values.dtype == dtype
        assert indices.min() >= 0
    assert rows.topk(logits, 3)[1][2, 0] == 0
    assert rows.topk(logits, 3)[0][3].isnan().all()


def test_out_receives_the_result_and_is_checked() -> None:
    scores = scores_of(3, 40)
    out = torch.empty_like(scores)
    assert rows.softmax(scores, out=out) is out
    assert torch.equal(out, rows.softmax(scores))
    with pytest.raises(ValueError, match=r"out must be contiguous, \(3, 40\) torch.float32 on cpu, got \(3, 39\)"):
        rows.softmax(scores, out=torch.empty(3, 39))
    both = torch.zeros(240)  # a row with NaN would be read again after its exponentials have replaced its scores
    for first in (0, 1, 119):
        with pytest.raises(ValueError, match="out must not share memory with the scores"):
            rows.softmax(both[:120].view(3, 40), out=both[first : first + 120].view(3, 40))
    assert rows.softmax(both[:120].view(3, 40), out=both[120:].view(3, 40)).sum().isclose(torch.tensor(3.0))
