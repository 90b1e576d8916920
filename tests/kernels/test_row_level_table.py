"""The native kernel of tables of levels against the float64 reference of IndexSoftmax: sizes, ties, masks, NaN."""

from __future__ import annotations

import math

import pytest
import torch
from row_inputs import LENGTHS, scores_of, tolerances
from torch import Tensor

from softmaxkit import Index
from softmaxkit.kernels import backends, launch, rows
from softmaxkit.methods.base.levels import thresholds

if backends.native() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("build")


def run(spec: Index, scores: Tensor, mask: Tensor | None = None) -> Tensor:
    call = spec.module().row_call(torch.device("cpu"))
    assert call is not None
    return call.run(scores, mask)


def away_from_ties(spec: Index, scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Move scores that are so close to a border of two levels that float32 may take the other level."""
    seen = scores if mask is None else scores.masked_fill(~mask, -math.inf)
    distance = scores.double() - seen.amax(-1, keepdim=True).double()
    borders = torch.tensor([float(value) for value, _ in thresholds(-float(spec.clip), spec.levels)]).double()
    near = (distance[..., None] - borders).abs().amin(-1) < 1e-3
    return torch.where(near & (distance < 0), scores - 4e-3, scores)


@pytest.mark.parametrize("bits", [2, 5, 6, 8])
@pytest.mark.parametrize("length", [*LENGTHS, 5000])
def test_results_are_those_of_the_reference(bits: int, length: int) -> None:
    """Entries and their quotient err by a few roundings, and their sum by one for each term that a lane adds up."""
    spec = Index(bits=bits)
    scores, mask = scores_of(3, 5, length), torch.rand(5, length, generator=torch.Generator().manual_seed(1)) < 0.6
    scores = away_from_ties(spec, scores) if bits < 8 else scores
    truth = torch.from_numpy(spec.reference(scores.numpy()))
    tolerance = (min(length, 4096) / 16 + 8) * 2.0**-24
    if bits < 8:
        torch.testing.assert_close(run(spec, scores).double(), truth, rtol=tolerance, atol=0.0)
        scores = away_from_ties(spec, scores, mask)
        truth = torch.from_numpy(spec.reference(scores.numpy(), mask.numpy()))
        torch.testing.assert_close(run(spec, scores, mask).double(), truth, rtol=tolerance, atol=0.0)
    else:  # levels are 0.026 apart, and a score at a border may take the one beside it
        assert torch.allclose(run(spec, scores).double(), truth, rtol=0.03, atol=1e-8)
    assert (run(spec, scores, mask)[:, ~mask] == 0).all()


@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_ties_go_to_the_even_level_and_the_lowest_level_is_0(dtype: torch.dtype) -> None:
    spec = Index(bits=3, clip=7.0)  # levels at whole numbers
    scores = -torch.arange(0, 9, 0.5)[None]
    result = run(spec, scores.to(dtype)).double()
    truth = torch.from_numpy(spec.reference(scores.numpy()))
    torch.testing.assert_close(result, truth, **tolerances(dtype, 2.0**-20))
    assert truth.count_nonzero() == 13  # at and below -6.5 nothing is left


@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_rows_that_are_masked_or_not_finite(dtype: torch.dtype) -> None:
    nan, inf, largest = math.nan, math.inf, torch.finfo(dtype).max
    scores = torch.tensor(
        [
            [-inf, -inf, -inf],
            [nan, 1.0, -inf],
            [inf, 1.0, -inf],
            [-inf, nan, -inf],
            [3.0, -inf, 3.0],
            [-largest, largest, 0],
        ],
        dtype=dtype,
    )
    result = run(Index(), scores.repeat(1, 20))[:, :3]
    expected = torch.tensor([[0, 0, 0], [nan, nan, 0], [nan, nan, 0], [0, nan, 0], [0.025, 0, 0.025], [0, 0.05, 0]])
    torch.testing.assert_close(result.float(), expected, **tolerances(dtype, 2.0**-22), equal_nan=True)


def test_arguments_are_checked() -> None:
    scores = scores_of(2, 7)
    with pytest.raises(ValueError, match="clip must be negative and finite, got 6"):
        rows.level_table(scores, 6.0, [0.0, 1.0])
    for wrong in ([1.0], [0.5] * 257, [0.0, math.nan], [0.0, math.inf, 1.0], [-0.1, 1.0], [1.0, 0.0]):
        with pytest.raises(ValueError, match="entries must be 2 to 256 numbers, finite and not negative"):
            rows.level_table(scores, -6.0, wrong)
