"""Where the GPU kernels' numbers end: large grids, places beyond 32 bits, float16's range, long rows."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from attention_cases import Case, float64_attention
from torch import Tensor

import softmaxkit
from softmaxkit import ConSmax, Exact, Exaq, Index, Spec
from softmaxkit.kernels import cards
from softmaxkit.kernels.integers import CodeTableCall
from softmaxkit.kernels.row_gradients import differentiable_levels_backward

pytest.importorskip("triton")
import triton
import triton.language as tl

from softmaxkit.kernels.triton.tiles import kept

MOST_PROGRAMS = (2**31 - 1, 65535, 65535)
"""Of a grid's axes: NVIDIA's CUDA C++ Programming Guide, technical specifications."""


def in_float64(scores: Tensor, base: float, mask: Tensor | None = None) -> Tensor:
    wide = scores.double() * math.log(base)
    return (wide if mask is None else wide.masked_fill(~mask, -torch.inf)).softmax(-1)


@pytest.mark.parametrize("keys", [20, 9000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_at_the_end_of_their_range_are_those_of_torch(
    keys: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Such as those of a row that an additive mask with the lowest number hides as a whole."""
    least, most = torch.finfo(dtype).min, torch.finfo(dtype).max
    scores = torch.full((4, keys), least, dtype=dtype)
    scores[1:3, ::2] = most
    scores[2, 3] = 1.0
    scores[3, 7] = 2.0
    module = Exact().module().to(device)
    assert module.choose(scores.to(device))[1].backend == "triton"
    result = module(scores.to(device)).cpu()
    # The interpreter rounds to bfloat16 towards 0: one unit of 8 bits.
    torch.testing.assert_close(result.double(), in_float64(scores, math.e), rtol=2.0**-7, atol=0.0)


@pytest.mark.parametrize("keys", [100, 9000])
def test_masked_keys_of_a_row_with_nan_are_0(keys: int, device: torch.device) -> None:
    scores = torch.randn(2, keys, device=device)
    mask = torch.arange(keys, device=device).expand(2, keys) % 2 == 0
    scores[0, 4], scores[1, 8] = torch.nan, torch.inf
    for spec, numbers in ((Exact(), {}), (Exaq(), {"clip": -4.0})):
        result = softmaxkit.softmax(scores, spec, mask, **numbers)  # type: ignore[arg-type]
        assert not result[~mask].any()
        assert result[mask].isnan().any()


def test_a_gradient_of_another_shape_is_refused(device: torch.device) -> None:
    from softmaxkit.kernels.triton import rows

    with pytest.raises(ValueError, match=r"gradient must have the shape of the probabilities, \(4, 40\)"):
        rows.softmax_backward(torch.ones(4, 40, device=device), torch.ones(4, 1, device=device))


@pytest.mark.parametrize("keys", [8193, pytest.param(32769, marks=pytest.mark.slow), 70000])
def test_long_rows_are_those_of_float64(keys: int, device: torch.device) -> None:
    from softmaxkit.kernels.triton import rows

    random = torch.Generator().manual_seed(keys)
    scores = torch.randn(2, keys, generator=random) * 3
    mask = torch.rand(2, keys, generator=random) < 0.7
    gradient = torch.randn(2, keys, generator=random)
    given = [x.to(device) for x in (scores, mask, gradient)]
    for base in (2.0, math.e):
        exact = in_float64(scores, base, mask)
        result = rows.softmax_to_base(given[0], base, given[1])
        # Differences of scores up to 30 and their exponentials, each rounded to 24 bits.
        torch.testing.assert_close(result.cpu().double(), exact, rtol=64 * 2.0**-24, atol=0.0)
        back = rows.softmax_backward(result, given[2], base).cpu().double()
        wide = exact * (gradient.double() - (exact * gradient.double()).sum(-1, keepdim=True)) * math.log(base)
        torch.testing.assert_close(back, wide, rtol=1e-4, atol=1e-9)
    spec = Exaq(bits=3)
    result = rows.levels(given[0], -6.0, spec.exponentials(-6.0), given[1]).cpu().double()
    module = spec.module(clip=-6.0)
    exact = module.float_forward(torch.where(mask, scores, 0.0).double(), mask)
    torch.testing.assert_close(result, exact, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("keys", [1, 33, 300, 9000])
@pytest.mark.parametrize(
    ("spec", "numbers"),
    [
        (Exaq(bits=2), {"clip": -5.0}),
        (Exaq(bits=4), {"clip": -9.0}),
        (Exaq(share="head"), {"clip": [-4.0, -1.0, -9.0]}),
        *((Index(bits=bits), {}) for bits in (2, 5, 8)),
    ],
    ids=str,
)
def test_rows_of_levels_and_their_gradients_are_those_of_float64(
    spec: Spec, numbers: dict[str, Any], keys: int, device: torch.device
) -> None:
    random = torch.Generator().manual_seed(keys)
    scores = (torch.randn(2, 3, 2, keys, generator=random) * 3).to(device).requires_grad_()
    mask = (torch.rand(2, 1, 2, keys, generator=random) < 0.7).to(device)
    gradient = torch.randn(scores.shape, generator=random).to(device)
    module = spec.module(heads=3, **numbers).to(device)
    assert module.choose(scores)[1].backend == "triton"
    result = module(scores, mask)
    result.backward(gradient)
    wide = torch.where(mask, scores.detach(), 0.0).double().requires_grad_()
    exact = module.float_forward(wide, mask.expand(scores.shape))
    exact.backward(gradient.double())
    torch.testing.assert_close(result.double(), exact, rtol=1e-5, atol=1e-7)
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad.double(), wide.grad, rtol=1e-4, atol=1e-6)


def test_gradients_of_levels_are_0_in_rows_with_nan_and_where_nothing_is_seen(device: torch.device) -> None:
    from softmaxkit.kernels.triton import rows

    scores = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)).to(device)
    scores[0, 3] = torch.nan
    mask = torch.arange(3, device=device)[:, None] != 1
    p = rows.levels(scores, -4.0, Exaq().exponentials(-4.0), mask)
    gradient = torch.ones_like(scores)
    gradient[2, scores[2].argmin()] = torch.inf  # at the clip, where gradients do not pass
    result = rows.levels_backward(scores, p, gradient, -1.0, mask)
    assert not result[:2].any()
    assert torch.equal(result, differentiable_levels_backward(scores, p, gradient, -1.0, mask, False))


def test_entries_that_are_not_exponentials_are_refused(device: torch.device) -> None:
    from softmaxkit.kernels.triton import rows

    scores = torch.zeros(2, 40, device=device)
    rows.level_table(scores, -6.6, Index().powers)
    with pytest.raises(ValueError, match=r"entries must be the exponentials of evenly spaced levels from -6\.5"):
        rows.level_table(scores, -6.5, Index().powers)


def test_a_mask_on_another_device_is_refused(device: torch.device) -> None:
    """A card would read the other's memory, or fail at an address that it does not know."""
    from softmaxkit.kernels.triton import rows

    with pytest.raises(TypeError, match=rf"mask must be boolean, .* on {device.type}.*, got torch.bool on meta"):
        rows.softmax(torch.zeros(3, 4, device=device), torch.ones(3, 4, dtype=torch.bool, device="meta"))


def test_every_grid_fits_on_a_card(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows that are too long to run here: memory that nobody touches, and launches that are only looked at."""
    from softmaxkit.kernels.triton import integers, rows

    grids: list[tuple[int, ...]] = []

    class Watched:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            grids.append(grid)
            return lambda *given, **constants: None

    for module, name in ((rows, "exponential_rows"), (integers, "code_table_rows"), (rows, "softmax_rows")):
        monkeypatch.setattr(module, name, Watched())
    long = torch.zeros(1, 1, dtype=torch.float16, device=device).expand(1, 2**28 + 1)
    offset = torch.tensor(0.0)
    rows.exponential(long, offset)
    rows.softmax(long)
    call = CodeTableCall((1.0,), 0, 1, torch.zeros(1, 2))
    integers.run_code_table(call, torch.zeros(1, 1, device=device).expand(1, 2**25 + 1), None)
    rows.exponential(torch.zeros(1, 1, 1, device=device).expand(2**17, 3, 9), offset)
    assert len(grids) == 4
    for grid in grids:
        assert all(size <= most for size, most in zip(grid, MOST_PROGRAMS, strict=False)), grid
    assert grids[0] == (2**28 // 4096 + 1,)
    assert grids[2] == (2**25 // integers.TILE + 1,)


def test_tiles_cover_their_rows(device: torch.device) -> None:
    from softmaxkit.kernels.triton import rows

    scores = torch.randn(3, 2, 9000, generator=torch.Generator().manual_seed(0)).to(device)  # three tiles of 4,096
    offset = torch.tensor([0.5, 1.0, 1.5], device=device)
    exact = (scores.double() - offset[:, None, None]).exp().clamp(max=2.0)
    result = rows.exponential(scores, offset, 2.0).double()
    torch.testing.assert_close(result, exact, rtol=32 * 2.0**-24, atol=0.0)


@pytest.mark.parametrize(("ceiling", "beta"), [(1.0, 0.0), (1.0, 14.0), (2.0**17, 0.0), (2.0**17, -11.0)])
def test_weights_in_float16_neither_overflow_nor_lose_bits(ceiling: float, beta: float, device: torch.device) -> None:
    case = Case(queries=40, keys=40)
    tensors = case.tensors(device, torch.float16)
    with torch.no_grad():
        tensors[2] *= min(math.exp(beta) / 40, 1e3)  # values and results within float16
    spec, numbers = ConSmax(ceiling=ceiling), {"beta": beta, "gamma": 1.0}
    result = softmaxkit.attention(*tensors, spec, **numbers)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    truth = float64_attention(exact, spec, numbers, None, case)
    # Weights and results have 11 bits each.
    assert (result.double() - truth).norm() < 1e-3 * truth.norm()
    result.float().sum().backward()
    truth.sum().backward()
    for tensor, wide in zip(tensors, exact, strict=True):
        assert tensor.grad is not None
        assert wide.grad is not None
        if wide.grad.abs().max() < torch.finfo(torch.float16).max:
            assert (tensor.grad.double() - wide.grad).norm() < 1e-3 * wide.grad.norm()


def test_a_gradient_of_a_gradient_is_refused(device: torch.device) -> None:
    tensors = Case().tensors(device)
    result = softmaxkit.attention(*tensors, ConSmax(), beta=1.0, gamma=1.0)
    with pytest.raises(RuntimeError, match=r"no second derivative, .* run with SOFTMAXKIT_KERNELS=none"):
        torch.autograd.grad(result.sum(), tensors, create_graph=True)


@pytest.mark.parametrize(("heads", "tokens"), [(2, 2**30), (1, 2**31)])
def test_the_copy_engine_gets_no_places_beyond_32_bits(heads: int, tokens: int, device: torch.device) -> None:
    from softmaxkit.kernels.triton.launch import tiles_of

    large = torch.empty(1, heads, tokens, 16, dtype=torch.bfloat16, device="meta")
    assert tiles_of((large, large), 64) == (False, [None, None], [0] * 6)


@triton.jit
def keep(seed, output, first, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write which weights of row `first` dropout keeps."""
    columns = tl.arange(0, COUNT)[None, :]
    rows = (first + tl.arange(0, 1))[:, None]
    tl.store(output + columns, kept(seed, 0, rows, columns, 0.5).to(tl.int8))


def test_dropout_of_far_rows_differs(device: torch.device) -> None:
    """Of 2**20 keys, rows 4,096 apart would have the same numbers if rows and columns made one of 32 bits."""
    seed, output = torch.tensor([7], device=device), torch.zeros(2, 4096, dtype=torch.int8, device=device)
    for place, first in enumerate((0, 4096)):
        keep[(1,)](seed, output[place], first, 4096)
    alike = (output[0] == output[1]).double().mean().item()
    assert abs(alike - 0.5) < 5 * 0.5 / math.sqrt(4096)
    assert abs(output.double().mean().item() - 0.5) < 5 * 0.5 / math.sqrt(8192)


def test_interpreters_of_older_tritons_say_which_numpy_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cards.INTERPRETER, "1")
    for has, with_numpy, is_missing in (
        ("3.6.0", "2.4.1", True),
        ("3.6.0", "2.3.5", False),
        ("3.7.1", "2.10.0", False),
    ):
        monkeypatch.setattr(cards, "version", lambda name, has=has: has)
        monkeypatch.setattr(numpy, "__version__", with_numpy)
        assert ("pip install 'numpy<2.4'" in cards.missing("triton")) == is_missing
    monkeypatch.delenv(cards.INTERPRETER)
    monkeypatch.setattr(cards, "version", lambda name: "3.6.0")
    monkeypatch.setattr(numpy, "__version__", "2.4.1")
    assert not cards.missing("triton")
