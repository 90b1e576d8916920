"""The native kernel of the clamped exponential against float64: bases, limits, offsets per head, and its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from row_inputs import scores_of, tolerances

from softmaxkit import ConSmax
from softmaxkit.kernels import backends, launch, row_gradients, rows
from softmaxkit.methods.base.rows import attended_keys

if backends.native() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("build")


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_exponential(per_head: bool, dtype: torch.dtype) -> None:
    scores = scores_of(2, 3, 5, 77).to(dtype)
    mask = torch.rand(5, 77, generator=torch.Generator().manual_seed(1)) < 0.6
    module = ConSmax(share="head" if per_head else "layer").module(
        heads=3, beta=[0.5, 1, 2] if per_head else 0.5, gamma=7.0
    )
    result = rows.exponential(scores, module.beta + module.log_gamma, module.spec.ceiling, mask=mask)
    truth = module(scores.double(), mask)
    # exp amplifies the relative error of 20 twentyfold.
    torch.testing.assert_close(result.double(), truth, **tolerances(dtype, 3e-6))
    scores[0, 0, 0, 0] = math.nan
    assert rows.exponential(scores, module.beta + module.log_gamma)[0, 0, 0].isnan().sum() == 1


@pytest.mark.parametrize("base", [2.0, math.e, 10.0])
def test_exponential_to_any_base(base: float) -> None:
    scores, offset = scores_of(3, 5, 77), torch.tensor([0.5, 1.0, 2.0])
    exponent = scores.double() - offset.double()[:, None, None]
    for limit in (math.inf, 1.0, 0.3):
        result = rows.exponential(scores, offset, limit, base)
        assert torch.allclose(result.double(), (base**exponent).clamp(max=limit), rtol=5e-6)
    assert torch.equal(
        rows.exponential(torch.tensor([128.0, 127.0, 1e30, math.inf]), torch.tensor(0.0), base=2.0),
        torch.tensor([math.inf, 2.0**127, math.inf, math.inf]),
    )
    for limit, wrong in ((0.0, base), (1.0, 1.0)):
        with pytest.raises(ValueError, match="limit must be positive and base finite and above 1"):
            rows.exponential(scores, offset, limit, wrong)


@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_the_scores_decide_where_the_limit_stops_the_gradient(dtype: torch.dtype) -> None:
    """A rounded result may be below the limit although the limit applies, or reach it although it does not."""
    zero, one = torch.tensor(0.0), torch.ones(1, 4, dtype=dtype)
    for limit in torch.linspace(0.01, 3.0, 300).tolist():
        logarithm = torch.tensor(math.log(limit))
        step = logarithm.abs() * 2.0**-7 + 1e-6  # of bfloat16
        near = torch.stack((logarithm - 2 * step, logarithm + 2 * step)).to(dtype)
        scores = torch.cat((near, torch.tensor([10.0, -10.0]).to(dtype)))[None]
        gradient, sums = row_gradients.exponential_backward(scores, one, zero, limit)
        expected = torch.where(scores.float() > logarithm, 0.0, scores.float().exp())
        assert torch.equal(gradient == 0, expected == 0)
        torch.testing.assert_close(gradient.float(), expected, **tolerances(dtype, 1e-6))
        assert torch.allclose(sums, expected.sum(-1), rtol=1e-6)
    just_below = torch.tensor([[-0.0019]], dtype=dtype)  # in bfloat16 its exponential is rounded to 1
    assert (row_gradients.exponential_backward(just_below, one[:, :1], zero, 1.0)[0] > 0.99).all()


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_exponential_gradient_with_masks_and_strides(per_head: bool, dtype: torch.dtype) -> None:
    scores = scores_of(2, 5, 3, 37).to(dtype).transpose(1, 2)
    scores[0, 0, 0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    offset = torch.tensor([0.5, 1.0, 9.0]) if per_head else torch.tensor(0.7)
    mask = torch.rand(5, 37, generator=torch.Generator().manual_seed(1)) < 0.6
    weights = scores_of(2, 3, 5, 37, seed=1).to(dtype)
    for base in (2.0, math.e):
        leaf = scores.float().clone().requires_grad_()
        attended = attended_keys(scores, mask & torch.ones(5, 37, dtype=torch.bool).tril(32))
        exponent = torch.where(attended, leaf, 0.0) - (offset[:, None, None] if per_head else offset)
        truth = torch.where(attended, base ** exponent.clamp(max=math.log(0.9, base)), 0.0)
        truth.backward(weights.float())  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        gradient, sums = row_gradients.exponential_backward(scores, weights, offset, 0.9, base, mask, True)
        torch.testing.assert_close(gradient.float(), leaf.grad, **tolerances(dtype, 1e-5))
        assert torch.allclose(sums, leaf.grad.sum(-1), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="gradient must have the shape of the scores"):
        row_gradients.exponential_backward(scores, weights[0], offset)
