"""A few queries over a cache: results within a derived bound of float64 over the same codes; hidden tokens not read."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from softmaxkit import ConSmax, Exact, Exaq, Index, KeyValueCache, Sigmoid, Softermax
from softmaxkit.kernels import attention, backends, launch
from softmaxkit.kernels import native_attention as kernels
from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.codes import BITS, Cached
from softmaxkit.kernels.encode import encode

if backends.native() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

INTEGER = 127 * 256 + 127
"""Largest integer of a quantised query, and of quantised products of weights and value steps."""
FLOAT = 1e-6
"""Error of a sum in float32, relative to the sum of magnitudes."""
BLOCK = 128
"""Values whose weights are quantised with a common step."""
CLIP = -5.0
CONSMAX = {"beta": 2.0, "gamma": 1.0}
INDEX = Index(clip=-CLIP)
ELEMENT_WISE = (ConSmax, Sigmoid)


@dataclasses.dataclass(frozen=True)
class Case:
    heads: int = 2
    key_heads: int = 2
    queries: int = 1
    keys: int = 100
    channels: int = 64
    values: int = 64
    batch: int = 1
    mask: tuple[int, ...] = ()
    is_causal: bool = False

    def tensors(self) -> list[Tensor]:
        random = torch.Generator().manual_seed(self.keys + self.channels)

        def normal(*size: int) -> Tensor:
            return torch.randn(self.batch, *size, generator=random)

        query = 2 * normal(self.heads, self.queries, self.channels)
        key = normal(self.key_heads, self.keys, self.channels) + normal(self.key_heads, 1, self.channels)
        return [query, key, normal(self.key_heads, self.keys, self.values)]

    def attended(self) -> Tensor:
        everything = torch.ones(self.batch, self.heads, self.queries, self.keys, dtype=torch.bool)
        if self.is_causal:
            return everything.tril()
        if not self.mask:
            return everything
        return everything & (torch.rand(self.mask, generator=torch.Generator().manual_seed(1)) < 0.6)


CASES = [
    Case(keys=1300),
    Case(heads=8, key_heads=2, channels=128, values=128, keys=700),
    Case(batch=2, heads=6, key_heads=2, queries=2, keys=145, channels=80, values=48, mask=(2, 1, 2, 145)),
    Case(heads=3, key_heads=1, queries=4, keys=77, channels=13, values=7, is_causal=True),
    Case(heads=4, key_heads=4, keys=33, channels=200, values=130, mask=(1, 1, 1, 33)),
    Case(keys=20, channels=63, values=127),
    Case(keys=1, channels=1, values=1),
]


def weights_of(spec: Any, scores: Tensor, attended: Tensor, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights of scores, and their lower and upper bounds if the scores err by up to `error`."""
    if isinstance(spec, ELEMENT_WISE):
        function = torch.exp if isinstance(spec, ConSmax) else torch.sigmoid
        low, middle, high = (function(scores + change - 7.0) * attended for change in (-error, 0.0, error))
        return middle, low, high
    hidden = scores.masked_fill(~attended, -math.inf)
    distance = hidden - hidden.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    widest = error.amax(-1, keepdim=True) + error  # the maximum errs, too
    distances = ((distance + change).clamp(max=0) for change in (-widest, 0.0, widest))
    if isinstance(spec, Exaq | Index):
        step = -CLIP / (2**spec.bits - 1)
        levels = ((shifted.clamp(min=CLIP) / step).round() for shifted in distances)
        # IndexSoftmax's lowest level weighs nothing.
        lowest = 1.0 - 2**spec.bits if isinstance(spec, Index) else -math.inf
        distances = (level.mul(step).masked_fill(level == lowest, -math.inf) for level in levels)
    else:
        distances = (shifted * math.log(spec.base) for shifted in distances)
    low, middle, high = (shifted.exp() * attended for shifted in distances)
    return middle, low, high


def bound_of(spec: Any, operands: list[Tensor], attended: Tensor) -> tuple[Tensor, Tensor]:
    """Return attention in float64, and a bound on the error of integer products.

    Each channel of a query errs by up to half a step, and a score by that times the sum of the key's magnitudes. The
    product of a weight and a value's largest magnitude errs by half a step, which depends on the largest such product
    in its block, wherever the block begins.
    """
    groups = operands[0].shape[1] // operands[1].shape[1]
    query, key, value = (x.double() for x in (operands[0], *(x.repeat_interleave(groups, 1) for x in operands[1:])))
    scale = query.shape[-1] ** -0.5
    part = query.abs().amax(-1, keepdim=True) / INTEGER / 2
    error = scale * (part * key.abs().sum(-1)[:, :, None] + FLOAT * query.abs() @ key.abs().mT)
    middle, low, high = weights_of(spec, scale * query @ key.mT, attended, error)
    # The value's largest magnitude bounds code times step: of its 32 channels with 4 bits, of the token with 8 bits.
    sizes = value.abs().amax(-1)[:, :, None]
    largest = max_pool1d((high * sizes).flatten(0, 2), 2 * BLOCK - 1, 1, BLOCK - 1).view_as(high)
    rounding = largest.sum(-1, keepdim=True) / INTEGER / 2
    normalised = not isinstance(spec, ELEMENT_WISE)
    total, least = (x.sum(-1, keepdim=True) if normalised else torch.ones(1) for x in (middle, low))
    result = (middle @ value / total).nan_to_num(nan=0.0)
    change = (high - low) @ value.abs() + rounding * 1.001 + FLOAT * high @ value.abs()
    if normalised:
        change = change + result.abs() * (high - low).sum(-1, keepdim=True)
    return result, (change / least).nan_to_num(nan=0.0)


def call_of(spec: Any) -> AttentionCall:
    if isinstance(spec, ConSmax):
        return AttentionCall.by_exponential(torch.tensor(7.0), 1e6)
    if isinstance(spec, Sigmoid):
        return AttentionCall.by_logistic(torch.tensor(7.0))
    if isinstance(spec, Index):
        return AttentionCall.by_levels(CLIP, spec.powers)
    if isinstance(spec, Exaq):
        return AttentionCall.by_levels(CLIP, spec.exponentials(CLIP))
    return AttentionCall.by_softmax(spec.base)


def attend(operands: list[Any], case: Case, spec: Any, attended: Tensor | None = None) -> Tensor:
    mask = case.attended() if attended is None and case.mask else attended
    return kernels.attend(*operands, call_of(spec), None if case.is_causal else mask, case.is_causal)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_over_codes_are_within_the_bound(case: Case, bits: int, build: str) -> None:
    query, key, value = case.tensors()
    cached = [encode(x, bits) for x in (key, value)]
    dequantised = [query, *(x.decoded(torch.float32) for x in cached)]
    for spec in (ConSmax(), Exaq(bits=2), Exaq(bits=3), Exaq(bits=4), Exact(), Softermax(), INDEX, Sigmoid()):
        expected, bound = bound_of(spec, dequantised, case.attended())
        error = (attend([query, *cached], case, spec) - expected).abs()
        assert (error <= bound + 1e-7).all()
        # Rounding errors are independent, so their squares add up. A query's are 2e-5 of its root mean square, as its
        # largest channel is 2.5 times that; scores with a standard deviation of 3 err by 6e-5, and so do weights. Few
        # scores are at a border between levels, but more where there are many levels.
        most = 2e-3 if isinstance(spec, Index) else 3e-4
        assert error.square().mean().sqrt() <= most * expected.square().mean().sqrt()


@pytest.mark.parametrize("bits", BITS)
def test_a_wrong_step_is_detected(bits: int, build: str) -> None:
    case = CASES[1]
    query, key, value = case.tensors()
    cached = [encode(x, bits) for x in (key, value)]
    expected, bound = bound_of(ConSmax(), [query, *(x.decoded(torch.float32) for x in cached)], case.attended())
    for place in range(2):
        steps = cached[place].steps.clone()
        steps[:, :, -1, 500] *= 3
        wrong = [*cached]
        wrong[place] = dataclasses.replace(cached[place], steps=steps)
        assert ((attend([query, *wrong], case, ConSmax()) - expected).abs() > bound).any()


@pytest.mark.parametrize("bits", BITS)
def test_keys_with_a_centre(bits: int, build: str) -> None:
    """The centre shifts all scores of a query alike, which matters to ConSmax but not to levels below the maximum."""
    case = CASES[2]
    query, key, value = case.tensors()
    centre = key.mean(2, keepdim=True)
    cached = [encode(key, bits, centre), encode(value, bits)]
    dequantised = [query, *(x.decoded(torch.float32) for x in cached)]
    uncentred = encode(key, bits).decoded(torch.float32)
    assert (dequantised[1] - key).square().mean() < (uncentred - key).square().mean()
    for spec in (ConSmax(), Exaq(), Softermax(), Sigmoid()):
        expected, bound = bound_of(spec, dequantised, case.attended())
        assert ((attend([query, *cached], case, spec) - expected).abs() <= bound + 1e-7).all()
    wrong = [dataclasses.replace(cached[0], centre=centre * 1.1), cached[1]]
    expected, bound = bound_of(ConSmax(), dequantised, case.attended())
    assert ((attend([query, *wrong], case, ConSmax()) - expected).abs() > bound).any()


def test_many_channels_fit_32_bits() -> None:
    """The largest possible sums of products: all codes are 127, with the same sign."""
    channels = 2**14
    tokens = torch.full((1, 1, 20, channels), 1e-3)
    query = torch.full((1, 1, 1, channels), 1e-1)
    cache = KeyValueCache(tokens, torch.ones(1, 1, 20, 3))
    result = cache.attention(query, ConSmax(), beta=1.0, gamma=1.0)
    assert torch.allclose(result, torch.full_like(result, 20 * math.exp(1e-4 * channels**0.5 - 1)), rtol=1e-4)


@pytest.mark.parametrize("dtype", launch.DTYPES)
def test_infinite_values_do_not_reach_a_query_that_attends_to_none(dtype: torch.dtype, build: str) -> None:
    case = Case(queries=2, keys=1300)
    query, key, value = (x.to(dtype) for x in case.tensors())
    value[:, :, 1100] = math.inf
    attended = torch.ones(1, 1, 2, 1300, dtype=torch.bool)
    attended[:, :, 0] = False
    for spec in (ConSmax(), Exaq(), Softermax(), Sigmoid()):
        result = attend([query, key, value], case, spec, attended)
        assert (result[:, :, 0] == 0).all()
        assert (result[:, :, 1] == math.inf).all()


def test_every_number_of_float16_is_read_and_written_as_it_is(build: str) -> None:
    """The result of a single key is its value."""
    numbers = torch.arange(2**16).to(torch.uint16).view(torch.float16)
    value = numbers[numbers.isfinite()].reshape(-1, 1, 1, 1)
    result = kernels.attend(value * 0, value * 0, value, AttentionCall.by_softmax(math.e))
    assert torch.equal(result, value)


KINDS = [*launch.DTYPES.values(), "8 bits", "4 bits"]


def operand(kind: str, tokens: Tensor, spoilt: Tensor) -> Any:
    """Return tokens in the form that a kernel reads, with NaN where `spoilt`, (batch, 1, 1, tokens), is True."""
    if "bits" in kind:
        codes = encode(tokens, int(kind[0]))
        return dataclasses.replace(codes, steps=codes.steps.masked_fill(spoilt, math.nan))
    return torch.where(spoilt[:, 0].mT[:, None], math.nan, tokens).to(getattr(torch, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["left", "right", "both", "middle", "all"])
def test_hidden_tokens_are_not_read(kind: str, where: str, build: str) -> None:
    """Hidden tokens are NaN, which would spread to every result that reads them, even with weights of 0."""
    case = Case(batch=2, heads=4, queries=2, keys=3100)
    query, key, value = case.tensors()
    hidden = torch.zeros(2, 1, 1, 3100, dtype=torch.bool)
    for row, (first, last) in enumerate(((5, 2000), (1030, 3099))):
        if where in ("left", "both", "all"):
            hidden[row, ..., :first] = True
        if where in ("right", "both", "all"):
            hidden[row, ..., last:] = True
    if where == "middle":  # whole chunks of 1,024
        hidden[..., 1024:2048] = True
    if where == "all":
        hidden[1] = True
    for spec in (ConSmax(), Exaq(), Softermax(), Sigmoid()):
        results = []
        for poison in (False, True):
            operands = [operand(kind, tokens, hidden & poison) for tokens in (key, value)]
            cast_query = query.to(operands[0].dtype) if isinstance(operands[0], Tensor) else query
            results.append(attend([cast_query, *operands], case, spec, ~hidden))
        assert results[0].isfinite().all()
        assert torch.equal(*results)
        assert (results[0][1] == 0).all() == (where == "all")


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_equal_a_mask_in_the_kernel(kind: str, build: str) -> None:
    case = Case(batch=4, heads=4, queries=2, keys=2100)
    query, key, value = case.tensors()
    lengths = torch.tensor([2100, 0, 1025, 7])
    hidden = torch.arange(2100) >= lengths[:, None, None, None]
    operands = [operand(kind, tokens, hidden) for tokens in (key, value)]
    cast_query = query.to(operands[0].dtype) if isinstance(operands[0], Tensor) else query
    some = torch.rand(4, 1, 2, 2100, generator=torch.Generator().manual_seed(1)) < 0.6
    for spec in (ConSmax(), Exaq(), Softermax(), Sigmoid()):
        call = call_of(spec)
        for mask in (None, some):
            result = kernels.attend(cast_query, *operands, call, mask, lengths=lengths)
            assert torch.equal(result, attend([cast_query, *operands], case, spec, ~hidden & (mask is None or mask)))
            assert result.isfinite().all()
            assert (result[1] == 0).all()
            assert (result[2] != 0).any()
        with pytest.raises(ValueError, match=r"lengths must be \(4,\), one for each sequence, got \(2,\)"):
            kernels.attend(cast_query, *operands, call, lengths=lengths[:2])
    many = torch.randn(1, 1, 20, 8)
    with pytest.raises(ValueError, match="lengths are accepted for up to 12 queries per key head"):
        kernels.attend(many, many, many, call_of(Exaq()), lengths=torch.tensor([3]))


@pytest.mark.parametrize("limit", [1e38, 1e300])
def test_weights_beyond_float32_are_infinite(limit: float, build: str) -> None:
    query, key, value = torch.full((1, 1, 1, 4), 10.0), torch.ones(1, 1, 5, 4), torch.ones(1, 1, 5, 4)
    for offset in (-65.0, -69.0, -80.0, -300.0):  # of scores of 20; exp(88.8) is beyond float32
        call = AttentionCall.by_exponential(torch.tensor(offset), limit)
        result = kernels.attend(query, key, value, call).double()
        truth = 5 * min(math.exp(20 - offset), limit)
        truth = truth if truth < torch.finfo(torch.float32).max else math.inf
        torch.testing.assert_close(result, torch.full_like(result, truth), rtol=1e-5, atol=0.0)


def test_invalid_calls_are_rejected() -> None:
    tokens = torch.randn(1, 1, 5, 8)
    with pytest.raises(ValueError, match="bits must be 8 or 4, got 3"):
        KeyValueCache(tokens, tokens, bits=3)
    with pytest.raises(ValueError, match=r"bits must be 8 or 4, got 8\.0"):
        KeyValueCache(tokens, tokens, bits=8.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got 8 channels of torch\.float32 on cpu, a cache of 8 bits on"):
        kernels.attend(tokens, encode(tokens, 8), encode(tokens, 4), call_of(ConSmax()))


def test_a_cache_without_a_kernel_is_dequantised(monkeypatch: pytest.MonkeyPatch) -> None:
    query, tokens = torch.randn(1, 2, 1, 8), torch.randn(1, 2, 30, 8)
    cache = KeyValueCache(tokens, tokens, bits=4)
    result = cache.attention(query, Exaq(), clip=CLIP)
    calls = []
    decoded = Cached.decoded
    monkeypatch.setattr(Cached, "decoded", lambda self, dtype: calls.append(1) or decoded(self, dtype))
    monkeypatch.setitem(attention.CACHED_BITS, "native", {0, 8})
    assert torch.allclose(cache.attention(query, Exaq(), clip=CLIP), result, atol=1e-3)
    assert calls
