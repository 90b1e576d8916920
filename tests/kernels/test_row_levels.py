"""The native kernels of softmax over levels against float64, with probabilities written out and packed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from row_inputs import LENGTHS, scores_of, tolerances

from softmaxkit import Exaq
from softmaxkit.kernels import backends, launch, packed, rows

if backends.native() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("build")


@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_finite_scores_at_any_distance_have_a_level(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    scores = torch.tensor([[largest, -largest, 0.0, -math.inf]], dtype=dtype)
    expected = torch.tensor([[1.0, 0.1, 0.1, 0.0]]) / 1.2
    result = rows.levels(scores, -5.0, [0.1, 0.2, 0.5, 1.0])
    torch.testing.assert_close(result.float(), expected, **tolerances(dtype, 2.0**-22))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_levels(bits: Any, dtype: torch.dtype) -> None:
    scores = scores_of(2, 3, 5, 177).to(dtype)
    mask = torch.rand(5, 177, generator=torch.Generator().manual_seed(1)) < 0.6
    spec, clip = Exaq(bits=bits), -6.0
    exponentials = [math.exp(clip - clip * level / (spec.levels - 1)) for level in range(spec.levels)]
    for source in (None, mask):
        truth = spec.module(clip=clip)(scores.double(), source)
        result = rows.levels(scores, clip, exponentials, source).double()
        # For scores of 16 bits, `score - maximum` is exact in float32, and so are the levels; else a few rows differ.
        allowed = tolerances(dtype, 1e-6)
        same = (result - truth).abs() <= allowed["rtol"] * truth + allowed["atol"]
        assert same.all() if dtype != torch.float32 else same.all(-1).float().mean() > 0.9
    scores[0, 0, 0, 3] = math.nan
    assert rows.levels(scores, clip, exponentials)[0, 0, 0].isnan().all()
    assert (rows.levels(scores, clip, exponentials, torch.zeros(177, dtype=torch.bool)) == 0).all()


def test_results_in_float16_are_those_of_float32_rounded() -> None:
    """To nearest, ties to even, in steps of 2^-24 where they are subnormal: levels are the same in both."""
    scores = scores_of(300, 100).half()
    exponentials = torch.linspace(-20, 0, 16).exp().tolist()
    result, wide = (rows.levels(x, -30.0, exponentials) for x in (scores, scores.float()))
    assert 1000 < (wide < torch.finfo(torch.float16).smallest_normal).sum() < 20000
    assert torch.equal(result, wide.half())


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_errors_do_not_grow_with_the_row(bits: Any, masked: bool) -> None:
    """Sums of 4,096 keys err by up to 64 roundings of 16 lanes in 4 chains, or 256 in one, whatever the length."""
    scores, mask = torch.full((1, 2**20), 0.3), torch.ones(2**20, dtype=torch.bool)
    scores[0, 7] = 2.0
    mask[3] = not masked
    spec, clip = Exaq(bits=bits), -5.0
    truth = spec.module(clip=clip)(scores.double(), mask)
    result = rows.levels(scores, clip, spec.exponentials(clip), mask).double()
    assert ((result - truth).abs() <= (4096 / 16 + 8) * 2.0**-24 * truth).all()
    if not masked:
        packed_result = packed.levels(scores, clip, spec.exponentials(clip)).unpack().double()
        assert ((packed_result - truth).abs() <= (4096 / 16 + 8) * 2.0**-24 * truth).all()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_packed_levels_are_levels(length: int, bits: Any, dtype: torch.dtype) -> None:
    scores = scores_of(3, 2, 5, length).to(dtype)
    arguments = -6.0, Exaq(bits=bits).exponentials(-6.0)
    result = packed.levels(scores, *arguments)
    assert result.codes.shape == (3, 2, 5, -(-length * (2 if bits == 2 else 4) // 8))
    # Sums of 16 lanes in another order, or of a histogram: each rounds once for every 16 keys, and a few times more.
    tolerance = 2 * (length / 16 + 6) * 2.0**-24
    torch.testing.assert_close(result.unpack(), rows.levels(scores.float(), *arguments), rtol=tolerance, atol=0.0)


def test_packed_codes_require_finite_scores() -> None:
    scores, arguments = scores_of(3, 40), (-6.0, Exaq(bits=2).exponentials(-6.0))
    assert packed.levels(scores[:0], *arguments).unpack().shape == (0, 40)
    assert packed.levels(scores[:, :0], *arguments).unpack().shape == (3, 0)
    assert packed.levels(scores.mT, *arguments).unpack().shape == (40, 3)
    for wrong in (math.nan, math.inf, -math.inf):
        scores[1, 39] = wrong
        with pytest.raises(ValueError, match="infinite or NaN"):
            packed.levels(scores, *arguments)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_the_gradient_passes_through_the_rounding_but_not_below_the_clip(bits: Any, dtype: torch.dtype) -> None:
    spec = Exaq(bits=bits, share="head")
    clips = [-4.0, -6.0, -9.5]
    ours, torchs = (spec.module(heads=3, clip=clips) for _ in range(2))
    scores, weights = scores_of(2, 3, 5, 77).to(dtype), scores_of(2, 3, 5, 77, seed=1).to(dtype)
    mask = torch.rand(5, 77, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[3] = False
    leaf, wide = scores.clone().requires_grad_(), scores.double().requires_grad_()
    assert ours.choose(leaf)[1].native
    assert not torchs.choose(wide)[1].kernel
    (ours(leaf, mask) * weights).sum().backward()
    (torchs(wide, mask) * weights).sum().backward()
    assert leaf.grad is not None
    assert wide.grad is not None
    # Results err by some roundings, a score that rounds to a border of two levels aside, of which there is none here.
    tolerance = 2.0 ** (-18 if dtype == torch.float32 else -6)
    torch.testing.assert_close(leaf.grad.double(), wide.grad, rtol=tolerance, atol=tolerance)
    distance = scores.double() - scores.masked_fill(~mask, -math.inf).amax(-1, keepdim=True).double()
    below = (distance < torch.tensor(clips)[:, None, None]) | ~mask
    assert 0.1 < below.double().mean() < 0.99
    assert (leaf.grad[below.expand_as(leaf.grad)] == 0).all()
