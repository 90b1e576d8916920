"""Native row kernels against float64: every instruction set, with lengths, masks, strides and dtypes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from row_inputs import LENGTHS, scores_of, tolerances
from torch import Tensor

from softmaxkit import ConSmax, Exact, Exaq
from softmaxkit.kernels import backends, launch, row_gradients, rows
from softmaxkit.kernels.threads import torch_threads
from softmaxkit.methods.base.rows import attended_keys

if backends.native() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("build")


def reference(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    wide = scores.double()
    if mask is None:
        return wide.softmax(-1)
    return torch.where(mask, wide.masked_fill(~mask, -1e300).softmax(-1), 0.0) * mask.any(-1, keepdim=True)


def test_sums_of_long_rows_are_those_of_float64() -> None:
    """Sums of up to 4,096 float32 terms err by a rounding for each of the terms that a lane adds up, 256 or fewer.

    A term errs by 4 roundings more: of the difference, of its product with log2(e), of 2^t and of a last product.
    """
    scores = torch.full((1, 2**20), 0.3)
    scores[0, 7] = 2.0
    gradient = torch.full_like(scores, 0.7)
    tolerance = (4096 / 4 / 4 + 8) * 2.0**-24
    truth = scores.double().softmax(-1)
    for result in (rows.softmax(scores)[0, [7, 8]], rows.topk(scores, 2)[0][0]):
        torch.testing.assert_close(result.double(), truth[0, [7, 8]], rtol=tolerance, atol=0.0)
    offset = torch.tensor(0.5)
    sums = row_gradients.exponential_backward(scores, gradient, offset)[1].double()
    torch.testing.assert_close(sums, ((scores.double() - 0.5).exp() * 0.7).sum(-1), rtol=tolerance, atol=0.0)
    probabilities = torch.full_like(scores, 0.1)  # their products with 0.7 sum to less than 0.7 * 2^20 / 10
    of_scores = row_gradients.softmax_backward(probabilities, gradient).double()
    p, g = float(probabilities[0, 0]), float(gradient[0, 0])
    expected = torch.full_like(of_scores, p * (g - 2**20 * p * g))
    torch.testing.assert_close(of_scores, expected, rtol=tolerance, atol=0.0)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_softmax_errs_at_most_twice_as_much_as_torch(length: int, dtype: torch.dtype) -> None:
    scores = scores_of(3, 2, 5, length).to(dtype)
    truth = reference(scores)
    ours, theirs = ((result.double() - truth).abs().max() for result in (rows.softmax(scores), scores.softmax(-1)))
    # Twice, plus one rounding of a probability near 1, since torch may happen to be exact on short rows.
    assert ours <= 2 * theirs + (2.0**-23 if dtype == torch.float32 else torch.finfo(dtype).eps / 4)
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[0, 0, 0] = False
    result = rows.softmax(scores, mask)
    tolerance = tolerances(dtype, 2.0**-20)["rtol"]
    assert (result.double() - reference(scores, mask)).abs().max() <= tolerance
    assert (result[~mask] == 0).all()


@pytest.mark.parametrize("length", [*LENGTHS, 5000])
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_softmax_to_a_base(length: int, dtype: torch.dtype) -> None:
    """A score of size 30 errs by 2**-24 of itself when multiplied, and its power by as much times 30 log(base)."""
    scores = scores_of(3, 5, length).to(dtype)
    mask = torch.rand(5, length, generator=torch.Generator().manual_seed(1)) < 0.6
    gradient = scores_of(3, 5, length, seed=1).to(dtype)
    for base in (2.0, 10.0):
        truth = reference(scores.double() * math.log(base), mask)
        result = rows.softmax_to_base(scores, base, mask)
        allowed = tolerances(dtype, 60 * math.log(base) * 2.0**-24 + 2.0**-20)
        assert torch.allclose(result.double(), truth, rtol=allowed["rtol"], atol=max(allowed["atol"], 2.0**-126))
        back = row_gradients.softmax_backward(result, gradient, base).double()
        p, g = result.double(), gradient.double()
        expected = p * (g - (p * g).sum(-1, keepdim=True)) * math.log(base)
        tolerance = 2.0**-20 if dtype == torch.float32 else torch.finfo(dtype).eps
        assert torch.allclose(back, expected, rtol=tolerance, atol=tolerance * float((p * g).abs().max()))
    for wrong in (1.0, 0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"base must be finite and above 1, got {wrong}"):
            rows.softmax_to_base(scores, wrong)
        with pytest.raises(ValueError, match=f"base must be finite and above 1, got {wrong}"):
            row_gradients.softmax_backward(scores, scores, wrong)


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
        allowed = tolerances(dtype, 1e-5)  # exp amplifies the relative error of 50 fiftyfold
        assert torch.allclose(result.float(), truth, allowed["rtol"], max(allowed["atol"], 1e-30), equal_nan=True)


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


@pytest.mark.parametrize("length", [1023, 1024, 1025, 2048, 2049, 5000])
@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_rows_of_several_blocks(length: int, dtype: torch.dtype) -> None:
    """Maxima that rise or fall from block to block of 1,024 keys, blocks that are masked, NaN in the last block."""
    scores = scores_of(6, length)
    scores[0] += torch.linspace(0, 60, length)
    scores[1] -= torch.linspace(0, 60, length)
    scores[2, :1020], scores[3, -4:] = -math.inf, -math.inf
    scores[4, -1], scores[5] = math.nan, -math.inf
    scores = scores.to(dtype)
    mask = torch.ones(6, length, dtype=torch.bool)
    mask[:4, 1024:2048] = mask[3, :1024] = False
    for some in (None, mask):
        result = rows.softmax(scores, some).double()
        truth = reference(scores[:4], None if some is None else some[:4])
        # exp amplifies the relative error of 60 sixtyfold; results that float32 cannot represent are 0.
        allowed = tolerances(dtype, 1e-5)
        assert torch.allclose(result[:4], truth, allowed["rtol"], max(allowed["atol"], 1e-37))
        assert result[4].isnan().all()
        assert (result[5] == 0).all()


@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_large_results_of_rows_that_end_at_any_key(dtype: torch.dtype) -> None:
    """A row's result is written while the next row, shorter or longer, masked or invalid, is computed."""
    scores = scores_of(2, 1500, 2560).to(dtype)
    scores[0, 700], scores[1, 3, 0], scores[1, 1499, 2559] = -math.inf, math.nan, math.inf
    mask = torch.rand(1500, 2560, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[40], mask[:, :1024] = False, mask[:, :1024] & (torch.arange(1500) % 3 > 0)[:, None]
    for some in (None, mask):
        large = rows.softmax(scores, some, is_causal=True)
        for first in range(0, 1500, 250):
            part = slice(first, first + 250)
            causal = torch.ones(1500, 2560, dtype=torch.bool).tril(1060)[part]
            small = rows.softmax(scores[:, part], causal if some is None else causal & some[part])
            assert torch.equal(large[:, part].isnan(), small.isnan())
            # Rows with a mask are summed in another order, and may be rounded to the neighbour in 16 bits.
            allowed = {name: 2 * of for name, of in tolerances(dtype, 1e-5).items()}
            torch.testing.assert_close(large[:, part], small, **allowed, equal_nan=True)


@pytest.fixture(params=["torch's threads", "own threads"])
def pool(request: pytest.FixtureRequest, build: str) -> Iterator[None]:
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


@pytest.mark.usefixtures("pool")
def test_exceptions_reach_the_caller_from_every_thread() -> None:
    kernels, keys, nothing = launch.loaded(), 2**60, [0, 0, 0, 0]  # no memory has room for the exponentials of a row
    layout = kernels.Layout([1, 1, 1, 3], nothing, nothing, nothing, keys, 0, False, False)
    with pytest.raises((MemoryError, ValueError)):
        kernels.softmax_bfloat16(0, 0, 0, layout, 3, 1.0)
    scores = scores_of(64, 1000)
    assert torch.equal(rows.softmax(scores)[5], rows.softmax(scores[5]))


def test_unsupported_inputs_are_rejected() -> None:
    scores = scores_of(2, 3, 8)
    assert rows.softmax(torch.empty(3, 0)).shape == (3, 0)
    assert rows.softmax(torch.empty(0, 3)).shape == (0, 3)
    with pytest.raises(TypeError, match=r"float32, bfloat16 or float16 on the CPU, got torch.float64 on cpu"):
        rows.softmax(scores.double())
    with pytest.raises(TypeError, match=r"mask must be boolean, True where attended, on cpu, got torch.float32 on cpu"):
        rows.softmax(scores, scores)
    with pytest.raises(ValueError, match=r"a mask of shape \(7,\) does not broadcast to scores of shape \(2, 3, 8\)"):
        rows.softmax(scores, torch.ones(7, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"offset must be \(2,\) or a scalar, got \(5,\)"):
        rows.exponential(scores, torch.zeros(5))
    with pytest.raises(ValueError, match=r"offset must be a scalar, got \(3,\)"):
        rows.exponential(scores[0], torch.zeros(3))
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
        row_gradients.softmax_backward(rows.softmax(scores), torch.ones(2, 3, 1))
    with pytest.raises(TypeError, match=r"mask must be boolean, True where attended, on cpu, got torch.bool on meta"):
        rows.softmax(scores, torch.ones(8, dtype=torch.bool, device=elsewhere))
    with pytest.raises(ValueError, match=r"got \(2, 3, 8\) torch.float32 on meta"):
        rows.softmax(scores, out=torch.empty_like(scores, device=elsewhere))
    with pytest.raises(NotImplementedError, match="meta tensor"):
        rows.exponential(scores, torch.zeros((), device=elsewhere))
