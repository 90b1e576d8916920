"""Softmax attention of many queries: as close as torch's own in bfloat16.

By AMX tiles, the processor's and those emulated in C++, and by products of 16-bit integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import import_module
from typing import Literal

import pytest
import torch
from tile_builds import BUILDS, WORDS, inputs, softmax_by
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import softmaxkit
from conftest import tiny_model
from softmaxkit import Exact, Softermax, Spec
from softmaxkit.kernels import attention, launch
from softmaxkit.kernels import native_attention as fused
from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.methods.base.numbers import MISSES_FLOATS
from softmaxkit.models import fused_layers

BY_E = AttentionCall.by_softmax(math.e)
ROUNDING = 2.0**-7 / math.sqrt(12) * math.sqrt(3 / (8 * math.log(2)))
"""Relative root mean square error of rounding to bfloat16: steps of 2^-7, uniform errors, and mantissas that are
uniform on a logarithmic scale, for which the mean of 1 / mantissa^2 is 3 / (8 ln 2)."""


@pytest.fixture(params=[*BUILDS, *WORDS], autouse=True)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the kernels of every build."""
    yield from softmax_by(request.param, monkeypatch)


def exact(
    operands: list[Tensor], mask: Tensor | None = None, scale: float | None = None, base: float = math.e
) -> Tensor:
    """Return attention in float64."""
    query, key, value = (x.double() for x in operands)
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return (scores * math.log(base)).softmax(-1).nan_to_num(0.0) @ value.repeat_interleave(groups, 1)


def rms(values: Tensor) -> float:
    return values.double().square().mean().sqrt().item()


SIZES = [  # queries, keys, channels, value channels: on either side of tiles, panels of 64 and blocks of 256 keys
    (13, 1, 1, 1),
    (16, 64, 64, 16),
    (17, 63, 65, 17),
    (31, 65, 31, 33),
    (32, 256, 32, 64),
    (33, 257, 80, 48),
    (65, 600, 128, 65),
    (20, 1100, 192, 144),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_bfloat16_errs_by_two_roundings(sizes: tuple[int, int, int, int]) -> None:
    """Weights and results are rounded; scores and sums are float32. A margin of a tenth, as there are few results."""
    operands = [x.bfloat16() for x in inputs(*sizes)]
    result, truth = fused.attend(*operands, BY_E), exact(operands)
    assert result.dtype == torch.bfloat16
    assert rms(result - truth) <= 1.1 * math.sqrt(2) * ROUNDING * rms(truth)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("channels", [64, 128])
def test_errs_no_more_than_torch_in_bfloat16(channels: int, is_causal: bool) -> None:
    """Weights are rounded relative to other maxima than torch's: errors differ by chance, below 1% for 10^5 results."""
    operands = inputs(300, 300, channels, channels)
    mask = torch.ones(300, 300, dtype=torch.bool).tril() if is_causal else None
    small = [x.bfloat16() for x in operands]
    theirs = scaled_dot_product_attention(*small, is_causal=is_causal)
    ours = fused.attend(*small, BY_E, is_causal=is_causal)
    assert rms(ours - exact(small, mask)) <= 1.01 * rms(theirs - exact(small, mask))
    wide = fused.attend(*operands, BY_E, is_causal=is_causal)  # results are not rounded
    assert wide.dtype == torch.float32
    assert rms(wide - exact(operands, mask)) <= rms(theirs - exact(operands, mask))


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("channels", [64, 128])
def test_errs_at_most_twice_as_much_as_torch_in_float16(channels: int, is_causal: bool) -> None:
    """By 16-bit integers in every build: what bfloat16 has lost could not be this close."""
    operands = [x.half() for x in inputs(300, 300, channels, channels)]
    mask = torch.ones(300, 300, dtype=torch.bool).tril() if is_causal else None
    truth = exact(operands, mask)
    ours = fused.attend(*operands, BY_E, is_causal=is_causal)
    assert ours.dtype == torch.float16
    assert torch.equal(softmaxkit.attention(*operands, Exact(), is_causal=is_causal), ours)
    theirs = scaled_dot_product_attention(*operands, is_causal=is_causal)
    assert rms(ours - truth) <= 2 * rms(theirs - truth)


def test_float16_allows_less_than_bfloat16() -> None:
    """A channel of the keys with most of the magnitude: 16 bits have fewer digits left for the others."""
    query, key, value = inputs(40, 300, 64, 64)
    key[..., 3] *= 16
    small, smaller = ([x.to(dtype) for x in (query, key, value)] for dtype in (torch.bfloat16, torch.float16))
    assert softmaxkit.explain(Exact(), *small).native
    assert "16 bits would change these scores by" in str(softmaxkit.explain(Exact(), *smaller))
    assert torch.equal(softmaxkit.attention(*smaller, Exact()), scaled_dot_product_attention(*smaller))


def masks(queries: int, keys: int) -> dict[str, Tensor]:
    random = torch.rand(2, 4, queries, keys, generator=torch.Generator().manual_seed(1)) < 0.6
    random[:, :, -1] = False  # a fully masked query
    random[:, :, 3, : keys // 2] = False
    padding = torch.ones(2, 1, 1, keys, dtype=torch.bool)
    padding[1, ..., : keys // 2] = False
    nothing = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    return {
        "scores": random,
        "queries": random[:, :, :, :1],
        "heads": random[:1, :, :1],
        "padding": padding,
        "nothing": nothing,
    }


@pytest.mark.parametrize("kind", masks(4, 1))
@pytest.mark.parametrize(("queries", "keys"), [(40, 700), (150, 70)])
def test_masks_and_grouped_keys(queries: int, keys: int, kind: str) -> None:
    operands, mask = [x.bfloat16() for x in inputs(queries, keys, 64, 64, heads=4)], masks(queries, keys)[kind]
    result, truth = fused.attend(*operands, BY_E, mask), exact(operands, mask)
    assert rms(result - truth) <= 1.1 * math.sqrt(2) * ROUNDING * rms(truth)
    assert (result[~mask.expand(2, 4, queries, keys).any(-1)] == 0).all()


@pytest.mark.parametrize(("keys", "queries"), [(70, 200), (200, 70)])
def test_causal(queries: int, keys: int) -> None:
    operands = [x.bfloat16() for x in inputs(queries, keys, 64, 64)]
    truth = exact(operands, torch.ones(queries, keys, dtype=torch.bool).tril())
    assert rms(fused.attend(*operands, BY_E, is_causal=True) - truth) <= 1.1 * math.sqrt(2) * ROUNDING * rms(truth)


def test_scales_bases_and_rows_whose_largest_score_comes_last() -> None:
    query, key, value = (x.bfloat16() for x in inputs(40, 700, 64, 64))
    key = key * torch.linspace(0.1, 3, 700).bfloat16()[:, None]
    for scale, base in ((0.3, 2.0), (-0.1, math.e), (0.0, 2.0)):
        result = fused.attend(query, key, value, AttentionCall.by_softmax(base), scale=scale)
        truth = exact([query, key, value], scale=scale, base=base)
        assert rms(result - truth) <= 1.1 * math.sqrt(2) * ROUNDING * rms(truth)


def test_strides_and_threads() -> None:
    operands = [x.bfloat16() for x in inputs(200, 300, 64, 80)]
    alone = fused.attend(*operands, BY_E)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(fused.attend(*operands, BY_E), alone)
    finally:
        torch.set_num_threads(before)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in operands]
    assert torch.equal(fused.attend(*turned, BY_E), alone)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, "the largest"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_nan_infinity_and_overflow_propagate_as_in_torch(
    place: int, wrong: float | Literal["the largest"], dtype: torch.dtype
) -> None:
    operands = [x.to(dtype) for x in inputs(40, 70, 64, 64)]
    operands[place][0, 0, 1, :] = number = torch.finfo(dtype).max if isinstance(wrong, str) else wrong
    operands[0][0, 0, 2] = 100.0
    if not math.isfinite(number) or (place < 2 and dtype == torch.bfloat16):
        with pytest.raises(FloatingPointError):
            fused.attend(*operands, BY_E)
    result, theirs = softmaxkit.attention(*operands, Exact()), scaled_dot_product_attention(*operands)
    assert torch.equal(result.isnan(), theirs.isnan())
    assert torch.allclose(result, theirs, rtol=2**-6, atol=2**-6, equal_nan=True)


def test_when_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    operands = [x.bfloat16() for x in inputs(60, 70, 64, 64)]
    assert torch.equal(softmaxkit.attention(*operands, Exact()), fused.attend(*operands, BY_E))
    by_two = fused.attend(*operands, AttentionCall.by_softmax(2.0))
    assert torch.equal(softmaxkit.attention(*operands, Softermax()), by_two)
    assert softmaxkit.explain(Exact(), *operands).native
    wide = [x.float() for x in operands]
    assert "set_float32_matmul_precision('medium')" in str(softmaxkit.explain(Exact(), *wide))
    for precision in ("highest", "high", "medium"):
        with monkeypatch.context() as set_precision:
            set_precision.setattr(torch, "get_float32_matmul_precision", lambda precision=precision: precision)
            expected = fused.attend(*wide, BY_E) if precision == "medium" else scaled_dot_product_attention(*wide)
            assert torch.equal(softmaxkit.attention(*wide, Exact()), expected)
    bias = torch.randn(60, 70).bfloat16()
    assert torch.equal(softmaxkit.attention(*operands, Exact(), bias), scaled_dot_product_attention(*operands, bias))
    learned = operands[0].clone().requires_grad_()
    assert softmaxkit.attention(learned, *operands[1:], Exact()).requires_grad
    monkeypatch.setattr(attention, "softmax_products", lambda dtype: "")
    assert torch.equal(softmaxkit.attention(*operands, Exact()), scaled_dot_product_attention(*operands))


def test_a_small_problem_runs_as_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    operands = [x.bfloat16() for x in inputs(48, 60, 64, 64)]  # of two sequences with two heads
    multiplied = 2 * 2 * 48 * 60 * 64
    for least, of, reason in (
        (attention.LEAST_QUERIES, 48, "for fewer than 49 queries per head"),
        (attention.LEAST_MULTIPLIED, multiplied, f"for fewer than {multiplied + 1:,} multiplications"),
    ):
        monkeypatch.setitem(least, torch.bfloat16, of)
        assert softmaxkit.explain(Exact(), *operands).native
        monkeypatch.setitem(least, torch.bfloat16, of + 1)
        assert reason in str(softmaxkit.explain(Exact(), *operands))
        assert torch.equal(softmaxkit.attention(*operands, Exact()), scaled_dot_product_attention(*operands))
        monkeypatch.setitem(least, torch.bfloat16, 0)


def test_heads_that_share_keys_need_fewer_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(attention.LEAST_QUERIES, torch.bfloat16, 48)
    for heads, least in ((2, 48), (4, 18), (6, 8)):
        query, key, value = (x.bfloat16() for x in inputs(least, 600, 64, 64, heads=heads))
        assert softmaxkit.explain(Exact(), query, key, value, enable_gqa=True).native
        choice = softmaxkit.explain(Exact(), query[:, :, 1:], key, value, enable_gqa=True)
        assert f"for fewer than {least} queries per head" in str(choice)


@pytest.mark.skipif(MISSES_FLOATS, reason="within Dynamo of this torch every graph seems to be exported")
def test_it_compiles_to_one_graph() -> None:
    spec = Exact()

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return softmaxkit.attention(query, key, value, spec)

    operands = [x.bfloat16() for x in inputs(60, 70, 64, 64)]
    torch.compiler.reset()
    compiled = torch.compile(attend, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*operands), fused.attend(*operands, BY_E))
    wide = [x.float() for x in operands]  # asks for torch's precision of float32 products
    assert torch.equal(compiled(*wide), scaled_dot_product_attention(*wide))


@pytest.mark.parametrize("spec", [Exact(), Softermax()], ids=["exact", "softermax"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_layers_of_a_model_in_16_bits(spec: Spec, dtype: torch.dtype) -> None:
    model = softmaxkit.apply(tiny_model("llama"), spec, mode="fused").to(dtype)
    tokens = torch.randint(0, 100, (2, 24), generator=torch.Generator().manual_seed(0))
    assert all(choice.native for choice in fused_layers(model, tokens).values())
    result = model(tokens).logits
    softmaxkit.set_mode(model, "float")
    assert rms(result - model(tokens).logits) <= 0.01 * rms(result)


def test_the_plain_build_has_no_softmax_attention_of_many_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "native", lambda: import_module("softmaxkit.kernels._plain"))
    with pytest.raises(RuntimeError, match=r"more than 12 queries per key head has native kernels for AVX2"):
        fused.attend(*inputs(40, 70, 64, 64), BY_E)


def test_coarser_weights_are_detected() -> None:
    """The tolerance is tight: weights with 7-bit instead of 8-bit mantissas would not pass."""
    operands = [x.bfloat16() for x in inputs(65, 600, 64, 64)]
    query, key, value = (x.double() for x in operands)
    weights = (query @ key.mT / 8).softmax(-1)
    step = 2.0 ** (weights.log2().floor() - 6)
    coarse = ((weights / step).round() * step @ value).bfloat16()
    assert rms(coarse - exact(operands)) > 1.1 * math.sqrt(2) * ROUNDING * rms(exact(operands))
