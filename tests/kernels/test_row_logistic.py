"""The native kernel of the logistic function against float64: biases per head, masks, extremes, and its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from row_inputs import LENGTHS, scores_of, tolerances

from softmaxkit.kernels import backends, launch, row_gradients, rows

if backends.native() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("build")


@pytest.mark.parametrize("bias", [-6.24, [0.5, -3.0, 9.0]])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_logistic(length: int, dtype: torch.dtype, bias: float | list[float]) -> None:
    scores, biases = scores_of(2, 3, 5, length).to(dtype), torch.tensor(bias)
    sums = scores.double() + (biases.double()[:, None, None] if biases.ndim else biases.double())
    truth = sums.sigmoid()
    # float32 rounds the sum and its product with log2(e), which exp multiplies by the sum; a few roundings come after.
    of_result = tolerances(dtype)
    allowed = (of_result["rtol"] + (2 * sums.abs() + 6) * 2.0**-24) * truth + of_result["atol"]
    result = rows.logistic(scores, biases)
    assert ((result.double() - truth).abs() <= allowed).all()
    mask = torch.rand(5, length, generator=torch.Generator().manual_seed(1)) < 0.6
    masked = rows.logistic(scores, biases, mask)
    assert ((masked.double() - torch.where(mask, truth, 0.0)).abs() <= allowed).all()
    assert (masked[..., ~mask] == 0).all()


@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_extremes(dtype: torch.dtype) -> None:
    scores = torch.tensor([[math.nan, math.inf, -math.inf, 1e30, -1e30, 0.0, -80.0]]).to(dtype)
    result = rows.logistic(scores, torch.tensor(0.0))[0]
    assert result[0].isnan()
    assert result[1:6].tolist() == [1.0, 0.0, 1.0, 0.0, 0.5]
    torch.testing.assert_close(result[6].double(), torch.tensor(-80.0).exp().double(), **tolerances(dtype, 2e-5))


@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_the_gradient_and_its_sums(dtype: torch.dtype) -> None:
    scores, gradient = scores_of(2, 3, 5, 77).to(dtype), scores_of(2, 3, 5, 77, seed=1).to(dtype)
    bias = torch.tensor([0.5, -3.0, 9.0])
    mask = torch.rand(5, 77, generator=torch.Generator().manual_seed(2)) < 0.6
    gradient[..., 7], mask[:, 7] = math.inf, False
    sums = scores.double() + bias.double()[:, None, None]
    truth = torch.where(mask, sums.sigmoid() * (-sums).sigmoid() * gradient.double().nan_to_num(), 0.0)
    result, total = row_gradients.logistic_backward(scores, gradient, bias, mask)
    assert result.dtype == dtype
    # 1 - p errs by a rounding of 1, which its product with the gradient, of size 25 or less, and their sums multiply.
    rounding = tolerances(dtype)["rtol"]
    assert ((result.double() - truth).abs() <= rounding * truth.abs() + 25 * 2.0**-21).all()
    assert torch.allclose(total.double(), truth.sum(-1), rtol=1e-5, atol=77 * 25 * 2.0**-22)
    with pytest.raises(ValueError, match=r"gradient must have the shape of the scores, \(2, 3, 5, 77\)"):
        row_gradients.logistic_backward(scores, gradient[..., :1], bias)


def test_masked_keys_are_0_with_any_bias() -> None:
    scores = torch.tensor([[-math.inf, 1.0]])
    assert rows.logistic(scores, torch.tensor(math.inf)).tolist() == [[0.0, 1.0]]


def test_the_bias_is_checked() -> None:
    with pytest.raises(ValueError, match=r"bias must be \(3,\) or a scalar, got \(5,\)"):
        rows.logistic(scores_of(2, 3, 5, 7), torch.zeros(5))
