"""Native row kernels against float64: every instruction set, with lengths, masks, strides and dtypes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from softmaxkit import ConSmax, Exact, Exaq
from softmaxkit.kernels import backends, launch, packed, rows
from softmaxkit.kernels.threads import torch_threads
from softmaxkit.methods.base.module import attended_keys

if backends.native() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

LENGTHS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 63, 64, 65, 100, 257, 1000)


@pytest.fixture(params=backends.NATIVE, autouse=True)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with the kernels of each instruction set that this processor has."""
    if request.param not in backends._supported():
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
def test_softmax_errs_at_most_twice_as_much_as_torch(length: int, dtype: torch.dtype) -> None:
    scores = scores_of(3, 2, 5, length).to(dtype)
    truth = reference(scores)
    ours, theirs = ((result.double() - truth).abs().max() for result in (rows.softmax(scores), scores.softmax(-1)))
    # Twice, plus one rounding of a probability near 1, since torch may happen to be exact on short rows.
    assert ours <= 2 * theirs + 2.0 ** (-23 if dtype == torch.float32 else -9)
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[0, 0, 0] = False
    result = rows.softmax(scores, mask)
    tolerance = 2.0**-20 if dtype == torch.float32 else 2.0**-8
    assert (result.double() - reference(scores, mask)).abs().max() <= tolerance
    assert (result[~mask] == 0).all()


@pytest.mark.parametrize("shape", [(40,), (3, 40), (2, 3, 40), (2, 3, 4, 40), (2, 1, 3, 4, 40), (2, 2, 1, 3, 4, 40)])
def test_axes_and_strides(shape: tuple[int, ...]) -> None:
    scores = scores_of(*shape)
    truth = rows.softmax(scores)
    wide = scores_of(*shape[:-1], 2 * shape[-1])
    wide[..., : shape[-1]] = scores
    assert torch.equal(rows.softmax(wide[..., : shape[-1]]), truth)
    wide[..., ::2] = scores
    assert torch.equal(rows.softmax(wide[..., ::2]), truth)
    offset = torch.empty(scores.numel() + 1)[1:].view(shape).copy_(scores)  # misaligned by 4 bytes
    assert torch.equal(rows.softmax(offset), truth)
    if len(shape) > 2:
        assert torch.equal(rows.softmax(scores.transpose(0, 1)), truth.transpose(0, 1))


@pytest.mark.parametrize("shape", [(), (40,), (5, 1), (5, 40), (3, 1, 40), (2, 1, 5, 40), (2, 3, 1, 1), (2, 3, 5, 1)])
def test_masks_that_broadcast(shape: tuple[int, ...]) -> None:
    scores = scores_of(2, 3, 5, 40)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.5
    truth = reference(scores, mask.expand(scores.shape))
    assert (rows.softmax(scores, mask).double() - truth).abs().max() <= 2.0**-22


@pytest.mark.parametrize(("queries", "keys"), [(1, 7), (7, 7), (5, 40), (40, 5)])
def test_causal(queries: int, keys: int) -> None:
    scores = scores_of(2, 3, queries, keys)
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    # Rows with a mask are summed in another order.
    assert torch.allclose(rows.softmax(scores, is_causal=True), rows.softmax(scores, mask), rtol=1e-6, atol=0)
    both = torch.rand(queries, keys, generator=torch.Generator().manual_seed(3)) < 0.5
    assert torch.equal(rows.softmax(scores, both, is_causal=True), rows.softmax(scores, mask & both))


INVALID = torch.tensor(
    [
        [1.0, math.nan, 2.0, -math.inf],
        [math.inf, 1.0, 2.0, 3.0],
        [-math.inf] * 4,
        [1.0, 2.0, -math.inf, 0.0],
        [math.nan, -math.inf, math.inf, 0.0],
        [math.nan, -math.inf, -math.inf, -math.inf],
        [-math.nan, -math.inf, -math.inf, -math.inf],
    ]
)
"""Rows with NaN and infinities, and two without."""


@pytest.mark.parametrize("spec", [Exact(), Exaq(bits=2), Exaq(bits=4), ConSmax()], ids=lambda spec: f"{spec.method}")
@pytest.mark.parametrize("extra", [0, 70])
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_nan_and_infinity_propagate_as_in_the_torch_form(spec: Any, extra: int, dtype: torch.dtype) -> None:
    """Masked keys and scores of -inf give 0 in any row; other keys of a row with NaN give NaN, unless element-wise."""
    scores = torch.cat([INVALID, scores_of(len(INVALID), extra) - 50], 1).to(dtype)
    module = spec.module(**({"clip": -6.0} if spec.method == "exaq" else {}))
    kernel = {
        "exact": rows.softmax,
        "exaq": lambda scores, mask: rows.levels(scores, -6.0, spec.exponentials(-6.0), mask),
        "consmax": lambda scores, mask: rows.exponential(scores, module.beta + module.log_gamma, 1.0, mask=mask),
    }[spec.method]
    random = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    for mask in (None, random, random.logical_not(), torch.arange(scores.shape[1]) > 1):
        attended = attended_keys(scores, mask)
        truth = module.float_forward(torch.where(attended, scores.float(), 0.0), attended).detach()
        result = kernel(scores, mask)
        assert torch.equal(result.isnan(), truth.isnan())
        assert (result[~attended] == 0).all()
        tolerance = 1e-5 if dtype == torch.float32 else 2.0**-8  # exp amplifies the relative error of 50 fiftyfold
        assert torch.allclose(result.float(), truth, rtol=tolerance, atol=1e-30, equal_nan=True)


@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_finite_scores_at_any_distance_have_a_level(dtype: torch.dtype) -> None:
    scores = torch.tensor([[3e38, -3e38, 0.0, -math.inf]]).to(dtype)
    expected = torch.tensor([[1.0, 0.1, 0.1, 0.0]]) / 1.2
    assert torch.allclose(rows.levels(scores, -5.0, [0.1, 0.2, 0.5, 1.0]).float(), expected, rtol=2.0**-8)


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
    relative = 3e-6 if dtype == torch.float32 else 2.0**-8  # exp amplifies the relative error of 20 twentyfold
    assert ((result.double() - truth).abs() <= relative * truth).all()
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
        gradient, sums = rows.exponential_backward(scores, one, zero, limit)
        expected = torch.where(scores.float() > logarithm, 0.0, scores.float().exp())
        assert torch.equal(gradient == 0, expected == 0)
        assert torch.allclose(gradient.float(), expected, rtol=1e-6 if dtype == torch.float32 else 2.0**-8)
        assert torch.allclose(sums, expected.sum(-1), rtol=1e-6)
    just_below = torch.tensor([[-0.0019]], dtype=dtype)  # in bfloat16 its exponential is rounded to 1
    assert (rows.exponential_backward(just_below, one[:, :1], zero, 1.0)[0] > 0.99).all()


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
        gradient, sums = rows.exponential_backward(scores, weights, offset, 0.9, base, mask, True)
        tolerance = 1e-5 if dtype == torch.float32 else 2.0**-8
        assert torch.allclose(gradient.float(), leaf.grad, rtol=tolerance, atol=1e-30)
        assert torch.allclose(sums, leaf.grad.sum(-1), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="gradient must have the shape of the scores"):
        rows.exponential_backward(scores, weights[0], offset)


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
        # For bfloat16 scores, `score - maximum` is exact in float32, and so are the levels; else a few rows differ.
        same = (result - truth).abs() <= (1e-6 if dtype == torch.float32 else 2.0**-8) * truth
        assert same.all() if dtype == torch.bfloat16 else same.all(-1).float().mean() > 0.9
    scores[0, 0, 0, 3] = math.nan
    assert rows.levels(scores, clip, exponentials)[0, 0, 0].isnan().all()
    assert (rows.levels(scores, clip, exponentials, torch.zeros(177, dtype=torch.bool)) == 0).all()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_packed_levels_are_levels(length: int, bits: Any, dtype: torch.dtype) -> None:
    scores = scores_of(3, 2, 5, length).to(dtype)
    arguments = -6.0, Exaq(bits=bits).exponentials(-6.0)
    result = packed.levels(scores, *arguments)
    assert result.codes.shape == (3, 2, 5, -(-length * (2 if bits == 2 else 4) // 8))
    # One may sum a histogram and the other exponentials: they differ by a few roundings of 2^-24.
    torch.testing.assert_close(result.unpack(), rows.levels(scores.float(), *arguments), rtol=1e-6, atol=0.0)


def test_packed_codes_require_finite_scores() -> None:
    scores, arguments = scores_of(3, 40), (-6.0, Exaq(bits=2).exponentials(-6.0))
    assert packed.levels(scores[:0], *arguments).unpack().shape == (0, 40)
    assert packed.levels(scores[:, :0], *arguments).unpack().shape == (3, 0)
    assert packed.levels(scores.mT, *arguments).unpack().shape == (40, 3)
    for wrong in (math.nan, math.inf, -math.inf):
        scores[1, 39] = wrong
        with pytest.raises(ValueError, match="infinite or NaN"):
            packed.levels(scores, *arguments)


@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_large_results_are_those_of_small_ones(dtype: torch.dtype) -> None:
    """Results beyond 8 MiB are written with non-temporal stores."""
    scores = scores_of(2, 2, 900, 4000).to(dtype)
    offset, levels = torch.tensor([2.0, 3.0]), [0.1, 0.2, 0.5, 1.0]
    scores[0, 0, 5, 7], scores[1, 1, 899, 3999] = -math.inf, math.nan
    for compute in (rows.softmax, lambda x: rows.exponential(x, offset), lambda x: rows.levels(x, -5.0, levels)):
        large = compute(scores)
        for first in range(0, 900, 100):
            small = compute(scores[:1, :, first : first + 100])
            assert torch.equal(large[:1, :, first : first + 100], small)
        assert large[1, 1, -1].isnan().any()
        assert not large[:, 0].isnan().any()


@pytest.fixture(params=["torch's threads", "own threads"])
def pool(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run on torch's OpenMP threads, and on the kernels' own, which replace them if torch's library is not found."""
    kernel = launch.loaded()
    address = 0 if request.param == "own threads" else torch_threads()
    if address == 0 and request.param != "own threads":
        pytest.skip("torch's OpenMP library was not found")
    kernel.share_threads(address)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    kernel.share_threads(torch_threads())


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    scores = scores_of(64, 9, 1000)
    alone = rows.softmax(scores)
    torch.set_num_threads(threads)
    for _ in range(20):
        assert torch.equal(rows.softmax(scores), alone)


@pytest.mark.usefixtures("pool")
def test_concurrent_callers_get_their_own_results() -> None:
    source = [scores_of(64, 9, 100 + 10 * seed, seed=seed) for seed in range(4)]
    right = [rows.softmax(scores) for scores in source]

    def call(index: int) -> bool:
        torch.set_num_threads(2)
        return all(torch.equal(rows.softmax(source[index]), right[index]) for _ in range(20))

    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(call, range(4)))


def test_unsupported_inputs_are_rejected() -> None:
    scores = scores_of(2, 3, 8)
    assert rows.softmax(torch.empty(3, 0)).shape == (3, 0)
    assert rows.softmax(torch.empty(0, 3)).shape == (0, 3)
    with pytest.raises(TypeError, match=r"float32 or bfloat16 on the CPU, got torch.float64 on cpu"):
        rows.softmax(scores.double())
    with pytest.raises(TypeError, match=r"mask must be boolean, True where attended, on cpu, got torch.float32 on cpu"):
        rows.softmax(scores, scores)
    with pytest.raises(ValueError, match=r"a mask of shape \(7,\) does not broadcast to scores of shape \(2, 3, 8\)"):
        rows.softmax(scores, torch.ones(7, dtype=torch.bool))
    with pytest.raises(ValueError, match="offset must be"):
        rows.exponential(scores, torch.zeros(5))
    with pytest.raises(ValueError, match="4, 8 or 16 levels, got 2"):
        rows.levels(scores, -1.0, [0.3, 1.0])
    with pytest.raises(ValueError, match="clip must be negative and finite, got 1"):
        rows.levels(scores, 1.0, [0.1, 0.2, 0.5, 1.0])
    with pytest.raises(ValueError, match=r"scores must be \(..., keys\), got \(\)"):
        rows.softmax(torch.tensor(1.0))
    for k in (0, 9):
        with pytest.raises(ValueError, match=f"k must be 1 to 8, the logits of a row, got {k}"):
            rows.topk(scores, k)


def test_tensors_that_a_kernel_would_read_out_of_bounds_are_rejected() -> None:
    """A gradient with fewer elements than the probabilities, and tensors whose address is not valid on the CPU."""
    scores, elsewhere = scores_of(2, 3, 8), torch.device("meta")
    with pytest.raises(ValueError, match=r"the shape of the probabilities, \(2, 3, 8\), got \(2, 3, 1\)"):
        rows.softmax_backward(rows.softmax(scores), torch.ones(2, 3, 1))
    with pytest.raises(TypeError, match=r"mask must be boolean, True where attended, on cpu, got torch.bool on meta"):
        rows.softmax(scores, torch.ones(8, dtype=torch.bool, device=elsewhere))
    with pytest.raises(ValueError, match=r"got \(2, 3, 8\) torch.float32 on meta"):
        rows.softmax(scores, out=torch.empty_like(scores, device=elsewhere))
    with pytest.raises(NotImplementedError, match="meta tensor"):
        rows.exponential(scores, torch.zeros((), device=elsewhere))
