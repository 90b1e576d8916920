"""Softmax attention with products of 16-bit integers: sums that fit, errors as expected, and torch beyond them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from tile_builds import WORDS, inputs, softmax_by
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import softmaxkit
from softmaxkit import Exact
from softmaxkit.kernels import attention
from softmaxkit.kernels import native_attention as fused
from softmaxkit.kernels.attention import AttentionCall

BY_E = AttentionCall.by_softmax(math.e)
OF_WEIGHTS = math.sqrt(64 / 12) * 2**-13
"""Largest relative root mean square error of results due to weights, for values of one size without a mean: each of 64
weights is rounded to multiples of 2^-13 of the largest."""


@pytest.fixture(params=WORDS, autouse=True)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the kernels of every build with such products, for float32 and small problems too."""
    monkeypatch.setattr(attention, "float32_precision", lambda: "medium")
    yield from softmax_by(request.param, monkeypatch)


def exact(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    return scaled_dot_product_attention(query.double(), key.double(), value.double(), mask)


def error(result: Tensor, truth: Tensor) -> float:
    return ((result - truth).square().mean() / truth.square().mean()).sqrt().item()


def floor_to_power_of_two(values: Tensor) -> Tensor:
    return 2.0 ** values.log2().floor()


def in_integers(query: Tensor, key: Tensor, bits: int = 14) -> Tensor:
    """Return the scores of queries and keys in integers, in float64, as native/word_operands.hpp describes them."""
    query, key = query.double() / 8, key.double()
    low, high = key.amin(2, keepdim=True), key.amax(2, keepdim=True)
    step = floor_to_power_of_two((high - low) / 2) / 2 ** (bits - 1)
    integers = ((key - (low + high) / 2) / step).round()
    wide = query * step
    unit = floor_to_power_of_two(wide.abs().amax(3, keepdim=True))
    norms = integers.norm(dim=3).amax(2)[..., None, None], (wide / unit).norm(dim=3, keepdim=True)
    finest = (2**31 / (norms[0] + 4) - 4) / norms[1]
    query_step = unit / floor_to_power_of_two(finest).clamp(max=2 ** (bits - 1))
    return query_step * (wide / query_step).round() @ integers.mT + query @ ((low + high) / 2).mT


def error_of_scores(query: Tensor, key: Tensor, bits: int) -> float:
    made = in_integers(query, key, bits) - query.double() @ key.double().mT / 8
    return made.square().mean((0, 2, 3)).sqrt().max().item()


KINDS = ["normal", "means", "a channel", "large queries", "heavy tails"]


def operands_of(kind: str) -> list[Tensor]:
    query, key, value = inputs(320, 600, 64, 64)
    if kind == "means":
        key += 20 * torch.randn(64, generator=torch.Generator().manual_seed(0))
    if kind == "a channel":
        key[..., 3] *= 16
    if kind == "large queries":
        query *= 12
    if kind == "heavy tails":
        key = key**5
    return [query, key, value]


@pytest.mark.parametrize("kind", KINDS)
def test_the_expected_error_is_the_one_that_is_made(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = []
    decide = fused.too_coarse
    monkeypatch.setattr(fused, "too_coarse", lambda *of: expected.append(of[:2]) or decide(*of))
    query, key, value = operands_of(kind)
    scores, coarser = (error_of_scores(query, key, bits) for bits in (14, 13))
    choice = softmaxkit.explain(Exact(), query, key, value)
    assert [of[0] for of in expected] == [pytest.approx(scores, rel=0.05)]
    assert coarser > 1.05 * scores  # so a lost bit would be seen
    assert choice.native == (scores <= fused.SIXTEEN_BITS.scores) == (kind not in ("large queries", "heavy tails"))
    result = softmaxkit.attention(query, key, value, Exact())
    if choice.native:
        assert error(result, exact(query, key, value)) <= math.hypot(*expected[0], OF_WEIGHTS)
    else:
        assert "16 bits would change these scores by" in str(choice)
        assert torch.equal(result, scaled_dot_product_attention(query, key, value))


@pytest.mark.parametrize(("times", "is_native"), [(1, True), (4, True), (64, False)])
def test_a_value_that_is_far_larger_than_the_others(times: float, is_native: bool) -> None:
    query, key, value = inputs(40, 300, 64, 64)
    value[:, :, 5] *= times
    assert softmaxkit.explain(Exact(), query, key, value).native == is_native
    result = softmaxkit.attention(query, key, value, Exact())
    assert error(result, exact(query, key, value)) <= math.hypot(fused.SIXTEEN_BITS.scores, fused.SIXTEEN_BITS.values)


@pytest.mark.parametrize("channels", [1, 3, 64, 127, 300])
@pytest.mark.parametrize("keys", [64, 700])
def test_the_largest_sums_fit_32_bits(keys: int, channels: int) -> None:
    """All products of a sum have one sign and the largest magnitudes; the scores of a row are equal but for one key."""
    signs = torch.randn(channels, generator=torch.Generator().manual_seed(1)).sign()
    almost_two = 2 - 2**-10  # a mantissa that rounds up
    key = (almost_two * signs).repeat(1, 1, keys, 1)
    key[0, 0, 0] *= -1  # so that the channels are centred at 0
    query = (almost_two * signs).repeat(1, 1, 20, 1)
    query[0, 0, ::2] *= -1
    value = torch.full((1, 1, keys, 65), almost_two)
    value[..., ::2] *= -1
    scale = 1 / channels
    result = fused.attend(query, key, value, BY_E, scale=scale)
    assert error(result, exact(query * scale * channels**0.5, key, value)) <= 2**-12


@pytest.mark.parametrize("scale", [1.0, 100.0, 3e3, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_sums_of_large_scores_fit_32_bits(scale: float, dtype: torch.dtype) -> None:
    """Scores that are exact, and so large that their exponents are not: no weight may exceed the largest."""
    key, value = torch.ones(1, 1, 128, 4, dtype=dtype), torch.full((1, 1, 128, 16), 2 - 2**-7, dtype=dtype)
    key[0, 0, 0] *= -1  # so that the channels are centred at 0
    query = torch.ones(1, 1, 48, 4, dtype=dtype) * (1 + torch.arange(48) / 64)[:, None].to(dtype)
    for factor in torch.linspace(1, 1.26, 20).tolist():
        result = fused.attend(query, key, value, BY_E, scale=scale * factor)
        assert error(result, value[:, :, :48].double()) <= 2**-9


@pytest.mark.parametrize("gap", [2, 5, 8, 11, 16])
@pytest.mark.parametrize(("keys", "is_causal"), [(64, False), (300, False), (300, True)])
def test_a_sink(keys: int, is_causal: bool, gap: float) -> None:
    """One key has nearly all of the weight and a value of 0, as the first of a text often has.

    What the others contribute is resolved to 2^-28 of it; 63 such errors add up to less than 2^-26 for these values.
    """
    random = torch.Generator().manual_seed(keys)
    query, key = (torch.randn(2, 2, size, 64, generator=random) for size in (keys, keys))
    value = 1 + torch.randn(2, 2, keys, 64, generator=random)
    query[..., 0], key[..., 0], value[:, :, 0] = 8.0, 0.0, 0.0
    key[:, :, 0, 0] = gap + 2  # nats, less what the others' largest has
    operands = [x.bfloat16() for x in (query, key, value)]
    result = fused.attend(*operands, BY_E, is_causal=is_causal)
    truth = scaled_dot_product_attention(*(x.double() for x in operands), is_causal=is_causal)
    theirs = scaled_dot_product_attention(*operands, is_causal=is_causal)
    for ours, torchs, exactly in zip(*(x.split(60, dim=2) for x in (result, theirs, truth)), strict=True):
        assert error(ours, exactly) <= 1.5 * error(torchs, exactly) + 2**-26 / exactly.square().mean().sqrt()


def test_hidden_keys_have_no_effect() -> None:
    query, key, value = inputs(40, 300, 64, 64)
    mask = torch.ones(2, 1, 1, 300, dtype=torch.bool)
    mask[1, ..., 200:] = False
    alone = fused.attend(query, key, value, BY_E, mask)
    for size in (0.0, 1e4, 3e38):
        key[1, :, 200:], value[1, :, 200:] = size, -size
        assert torch.equal(fused.attend(query, key, value, BY_E, mask), alone)
    key[1, :, 200:] = math.nan
    assert torch.equal(fused.attend(query, key, value, BY_E, mask), alone)
    value[1, :, 250] = math.inf  # torch multiplies it by a weight of 0
    with pytest.raises(FloatingPointError):
        fused.attend(query, key, value, BY_E, mask)


@pytest.mark.parametrize(
    "sizes",
    [(1e-35, 1, 1), (1e33, 1e-28, 1), (1, 1e-35, 1), (1e28, 1e-38, 1), (1e-28, 1e33, 1), (1, 1, 1e-35), (1, 1, 1e33)],
)
def test_magnitudes_without_a_step_run_as_torchs_own(sizes: tuple[float, float, float]) -> None:
    operands = [x * size for x, size in zip(inputs(40, 70, 64, 64), sizes, strict=True)]
    with pytest.raises(ArithmeticError):
        fused.attend(*operands, BY_E)
    assert torch.equal(softmaxkit.attention(*operands, Exact()), scaled_dot_product_attention(*operands))


@pytest.mark.parametrize("masked", [False, True])
def test_scores_that_overflow_run_as_torchs_own(masked: bool) -> None:
    """They are exact in integers, and so not too coarse; where masked, all of them are negative."""
    query, key, value = torch.zeros(2, 2, 40, 64), torch.zeros(2, 2, 70, 64), inputs(40, 70, 64, 64)[2]
    query[..., 0], key[..., 0] = 2.0**20, torch.arange(70.0) - 35
    query[:, :, ::2] *= -1
    mask = query[..., :1] * key[..., 0].unsqueeze(2) < 0 if masked else None
    with pytest.raises(FloatingPointError):
        fused.attend(query, key, value, BY_E, mask, scale=1e38)
    result = softmaxkit.attention(query, key, value, Exact(), mask, scale=1e38)
    theirs = scaled_dot_product_attention(query, key, value, mask, scale=1e38)
    assert torch.equal(result.isnan(), theirs.isnan())


def test_equal_keys_zero_queries_and_zero_values() -> None:
    query, key, value = inputs(40, 70, 64, 64)
    mean = value.double().mean(2, keepdim=True).expand(2, 2, 40, 64)
    for given in ((query * 0, key), (query, key[:, :, :1].expand_as(key)), (query, key * 0)):
        assert error(fused.attend(*given, value, BY_E), mean) <= fused.SIXTEEN_BITS.values
    assert (fused.attend(query, key, value * 0, BY_E) == 0).all()


@pytest.mark.parametrize("step", [4.0, 32.0, 256.0])
def test_rising_scores(step: float) -> None:
    """Each panel of 64 keys has scores far above those before it, so that the reference of the weights changes."""
    value = inputs(20, 640, 64, 64)[2]
    query, key = torch.zeros(2, 2, 20, 64), torch.zeros(2, 2, 640, 64)
    query[..., 0], key[..., 0] = step, torch.arange(640) // 64
    for order in (torch.arange(640), torch.arange(639, -1, -1)):
        operands = query, key[:, :, order], value[:, :, order]
        assert error(fused.attend(*operands, BY_E), exact(*operands)) <= fused.SIXTEEN_BITS.values


def test_a_sequence_that_is_too_coarse_leaves_the_others_alone() -> None:
    query, key, value = inputs(40, 70, 64, 64)
    query[1] *= 50
    result = softmaxkit.attention(query, key, value, Exact())
    assert torch.equal(result[1:], scaled_dot_product_attention(query[1:], key[1:], value[1:]))
    assert torch.equal(result[:1], fused.attend(query[:1], key[:1], value[:1], BY_E))
