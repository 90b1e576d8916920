"""Native kernels against float64: every instruction set, length, mask, stride and precision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

import softmaxkit.kernels as kernels
from softmaxkit import ConSmax, Exaq
from softmaxkit.kernels import launch, packed, rows

if kernels.native() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

LENGTHS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 63, 64, 65, 100, 257, 1000)


@pytest.fixture(params=kernels.SETS, autouse=True)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with the kernels of each instruction set that this processor has."""
    if request.param not in import_module("softmaxkit.kernels._plain").supported():
        pytest.skip(f"this processor has no {request.param}")
    module = import_module(f"softmaxkit.kernels._{request.param}")
    monkeypatch.setattr(launch, "native", lambda: module)
    return str(request.param)


def scores_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 6


def reference(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    wide = scores.double()
    if mask is None:
        return wide.softmax(-1)
    return torch.where(mask, wide.masked_fill(~mask, -1e300).softmax(-1), 0.0) * mask.any(-1, keepdim=True)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_exact_errs_at_most_twice_as_much_as_torch(length: int, dtype: torch.dtype) -> None:
    scores = scores_of(3, 2, 5, length).to(dtype)
    truth = reference(scores)
    ours, theirs = ((each.double() - truth).abs().max() for each in (rows.exact(scores), scores.softmax(-1)))
    # Twice, and one rounding of a probability near 1: on short rows torch is sometimes lucky.
    assert ours <= 2 * theirs + 2.0 ** (-23 if dtype == torch.float32 else -9)
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[0, 0, 0] = False
    found = rows.exact(scores, mask)
    tolerance = 2.0**-20 if dtype == torch.float32 else 2.0**-8
    assert (found.double() - reference(scores, mask)).abs().max() <= tolerance
    assert (found[~mask] == 0).all()


@pytest.mark.parametrize("shape", [(40,), (3, 40), (2, 3, 40), (2, 3, 4, 40), (2, 1, 3, 4, 40), (2, 2, 1, 3, 4, 40)])
def test_axes_and_strides(shape: tuple[int, ...]) -> None:
    scores = scores_of(*shape)
    truth = rows.exact(scores)
    wide = scores_of(*shape[:-1], 2 * shape[-1])
    wide[..., : shape[-1]] = scores
    assert torch.equal(rows.exact(wide[..., : shape[-1]]), truth)
    wide[..., ::2] = scores
    assert torch.equal(rows.exact(wide[..., ::2]), truth)
    offset = torch.empty(scores.numel() + 1)[1:].view(shape).copy_(scores)  # 4 bytes off any vector
    assert torch.equal(rows.exact(offset), truth)
    if len(shape) > 2:
        assert torch.equal(rows.exact(scores.transpose(0, 1)), truth.transpose(0, 1))


@pytest.mark.parametrize("shape", [(), (40,), (5, 1), (5, 40), (3, 1, 40), (2, 1, 5, 40), (2, 3, 1, 1), (2, 3, 5, 1)])
def test_masks_that_broadcast(shape: tuple[int, ...]) -> None:
    scores = scores_of(2, 3, 5, 40)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.5
    truth = reference(scores, mask.expand(scores.shape))
    assert (rows.exact(scores, mask).double() - truth).abs().max() <= 2.0**-22


@pytest.mark.parametrize(("queries", "keys"), [(1, 7), (7, 7), (5, 40), (40, 5)])
def test_causal(queries: int, keys: int) -> None:
    scores = scores_of(2, 3, queries, keys)
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    # Masked rows are summed in another order.
    assert torch.allclose(rows.exact(scores, is_causal=True), rows.exact(scores, mask), rtol=1e-6, atol=0)
    both = torch.rand(queries, keys, generator=torch.Generator().manual_seed(3)) < 0.5
    assert torch.equal(rows.exact(scores, both, is_causal=True), rows.exact(scores, mask & both))


def test_nan_and_infinity() -> None:
    nan, infinity = math.nan, math.inf
    scores = torch.tensor([[1.0, nan, 2.0], [infinity, 1, 2], [-infinity] * 3, [1, 2, -infinity], [nan, -infinity, 0]])
    for extended in (scores, torch.cat([scores, scores_of(5, 70) - 50], 1)):
        truth = torch.where((extended == -infinity).all(-1, keepdim=True), 0.0, extended.softmax(-1))
        assert torch.allclose(rows.exact(extended), truth, rtol=1e-5, atol=0, equal_nan=True)
    # A NaN that is masked is not seen.
    assert torch.equal(
        rows.exact(scores[:1], torch.tensor([True, False, True])), rows.exact(torch.tensor([[1.0, -infinity, 2.0]]))
    )


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_consmax(per_head: bool, dtype: torch.dtype) -> None:
    scores = scores_of(2, 3, 5, 77).to(dtype)
    mask = torch.rand(5, 77, generator=torch.Generator().manual_seed(1)) < 0.6
    module = ConSmax(share="head" if per_head else "layer").module(
        heads=3, beta=[0.5, 1, 2] if per_head else 0.5, gamma=7.0
    )
    found = rows.consmax(scores, module.beta + module.log_gamma, module.spec.ceiling, mask)
    truth = module(scores.double(), mask)
    relative = 3e-6 if dtype == torch.float32 else 2.0**-8  # exp of 20 enlarges an ulp of the exponent twentyfold
    assert ((found.double() - truth).abs() <= relative * truth).all()
    scores[0, 0, 0, 0] = math.nan
    assert rows.consmax(scores, module.beta + module.log_gamma)[0, 0, 0].isnan().sum() == 1


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_exaq(bits: Any, dtype: torch.dtype) -> None:
    scores = scores_of(2, 3, 5, 177).to(dtype)
    mask = torch.rand(5, 177, generator=torch.Generator().manual_seed(1)) < 0.6
    spec, clip = Exaq(bits=bits), -6.0
    exponentials = [math.exp(clip - clip * level / (spec.levels - 1)) for level in range(spec.levels)]
    for given in (None, mask):
        truth = spec.module(clip=clip)(scores.double(), given)
        found = rows.exaq(scores, clip, exponentials, given).double()
        # In bfloat16 `score - maximum` is exact in float32, and so are the levels; in float32 a few rows differ.
        same = (found - truth).abs() <= (1e-6 if dtype == torch.float32 else 2.0**-8) * truth
        assert same.all() if dtype == torch.bfloat16 else same.all(-1).float().mean() > 0.9
    scores[0, 0, 0, 3] = math.nan
    assert rows.exaq(scores, clip, exponentials)[0, 0, 0].isnan().all()
    assert (rows.exaq(scores, clip, exponentials, torch.zeros(177, dtype=torch.bool)) == 0).all()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_packed_exaq_is_exaq(length: int, bits: Any, dtype: torch.dtype) -> None:
    scores = scores_of(3, 2, 5, length).to(dtype)
    arguments = Exaq(bits=bits).module(clip=-6.0).native_arguments()
    found = packed.exaq(scores, *arguments)
    assert found.codes.shape == (3, 2, 5, -(-length * (2 if bits == 2 else 4) // 8))
    # One sums a histogram and the other exponentials, or both the same: a few roundings of 2^-24.
    torch.testing.assert_close(found.unpack(), rows.exaq(scores.float(), *arguments), rtol=1e-6, atol=0.0)


def test_packed_codes_hold_finite_scores() -> None:
    scores, arguments = scores_of(3, 40), Exaq(bits=2).module(clip=-6.0).native_arguments()
    assert packed.exaq(scores[:0], *arguments).unpack().shape == (0, 40)
    assert packed.exaq(scores[:, :0], *arguments).unpack().shape == (3, 0)
    assert packed.exaq(scores.mT, *arguments).unpack().shape == (40, 3)
    for wrong in (math.nan, math.inf, -math.inf):
        scores[1, 39] = wrong
        with pytest.raises(ValueError, match="infinite or NaN"):
            packed.exaq(scores, *arguments)


@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_large_results_are_those_of_small_ones(dtype: torch.dtype) -> None:
    """Beyond 8 MiB they go past the caches."""
    scores = scores_of(2, 2, 900, 4000).to(dtype)
    offset, levels = torch.tensor([2.0, 3.0]), [0.1, 0.2, 0.5, 1.0]
    scores[0, 0, 5, 7], scores[1, 1, 899, 3999] = -math.inf, math.nan
    for compute in (rows.exact, lambda x: rows.consmax(x, offset), lambda x: rows.exaq(x, -5.0, levels)):
        large = compute(scores)
        for first in range(0, 900, 100):
            small = compute(scores[:1, :, first : first + 100])
            assert torch.equal(large[:1, :, first : first + 100], small)
        assert large[1, 1, -1].isnan().any()
        assert not large[:, 0].isnan().any()


@pytest.fixture(params=["torch's threads", "own threads"])
def pool(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run on torch's OpenMP threads, and on those that the kernels start where these are not found."""
    kernel = launch.loaded()
    address = 0 if request.param == "own threads" else kernels.torch_threads()
    if address == 0 and request.param != "own threads":
        pytest.skip("torch's OpenMP library is not found")
    kernel.share_threads(address)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    kernel.share_threads(kernels.torch_threads())


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads: int) -> None:
    scores = scores_of(64, 9, 1000)
    alone = rows.exact(scores)
    torch.set_num_threads(threads)
    for _ in range(20):
        assert torch.equal(rows.exact(scores), alone)


@pytest.mark.usefixtures("pool")
def test_callers_at_once_get_their_own() -> None:
    given = [scores_of(64, 9, 100 + 10 * seed, seed=seed) for seed in range(4)]
    right = [rows.exact(scores) for scores in given]

    def call(index: int) -> bool:
        torch.set_num_threads(2)
        return all(torch.equal(rows.exact(given[index]), right[index]) for _ in range(20))

    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(call, range(4)))


def test_what_kernels_do_not_take_is_refused() -> None:
    scores = scores_of(2, 3, 8)
    assert rows.exact(torch.empty(3, 0)).shape == (3, 0)
    assert rows.exact(torch.empty(0, 3)).shape == (0, 3)
    with pytest.raises(TypeError, match=r"float32 or bfloat16 on the CPU, not torch.float64 on cpu"):
        rows.exact(scores.double())
    with pytest.raises(TypeError, match=r"a mask is boolean, True where attended, not torch.float32 on cpu"):
        rows.exact(scores, scores)
    with pytest.raises(ValueError, match=r"a mask broadcasts to the scores, \(2, 3, 8\); it is \(7,\)"):
        rows.exact(scores, torch.ones(7, dtype=torch.bool))
    with pytest.raises(ValueError, match="offsets are"):
        rows.consmax(scores, torch.zeros(5))
    with pytest.raises(ValueError, match="4, 8 or 16 levels"):
        rows.exaq(scores, -1.0, [0.3, 1.0])
