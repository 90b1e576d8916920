"""A few queries over a cache: within a derived bound of float64 over the same codes, and what is hidden is not read."""

from __future__ import annotations

import dataclasses
import math
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

import softmaxkit
from softmaxkit import ConSmax, Exaq, KeyValueCache
from softmaxkit.fused_attention import call as call_module
from softmaxkit.kernels import attention, backends, codes, launch
from softmaxkit.kernels import native_attention as kernels
from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.codes import BITS, Cached, encode

if backends.native() is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)

INTEGER = 127 * 256 + 127
"""Largest of the integers that queries, and weights times the steps of their values, become."""
FLOAT = 1e-6
"""What sums in float32 err by, of the sum of magnitudes."""
BLOCK = 128
"""Values whose weights have one largest."""
CLIP = -5.0
CONSMAX = {"beta": 2.0, "gamma": 1.0}


@pytest.fixture(params=backends.NATIVE)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param not in import_module("softmaxkit.kernels._plain").supported():
        pytest.skip(f"this processor has no {request.param}")
    module = import_module(f"softmaxkit.kernels._{request.param}")
    monkeypatch.setattr(launch, "native", lambda: module)
    return str(request.param)


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

    def seen(self) -> Tensor:
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


def weights_of(spec: Any, scores: Tensor, seen: Tensor, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights of scores, and the least and the largest of scores that err by up to so much."""
    if isinstance(spec, ConSmax):
        low, middle, high = ((scores + change - 7.0).exp() * seen for change in (-error, 0.0, error))
        return middle, low, high
    hidden = scores.masked_fill(~seen, -math.inf)
    distance = hidden - hidden.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    step = -CLIP / (2**spec.bits - 1)
    widest = error.amax(-1, keepdim=True) + error  # the largest errs, too
    low, middle, high = (
        ((distance + change).clamp(CLIP, 0) / step).round().mul(step).exp() * seen for change in (-widest, 0.0, widest)
    )
    return middle, low, high


def bound_of(spec: Any, given: list[Tensor], seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return attention in float64, and how far from it integers may be.

    A query's channel errs by half a part of its largest, a score by that times the magnitudes of the key; a weight
    times a value's largest by half a part of the largest such product in its block, wherever that begins.
    """
    groups = given[0].shape[1] // given[1].shape[1]
    query, key, value = (x.double() for x in (given[0], *(x.repeat_interleave(groups, 1) for x in given[1:])))
    scale = query.shape[-1] ** -0.5
    part = query.abs().amax(-1, keepdim=True) / INTEGER / 2
    error = scale * (part * key.abs().sum(-1)[:, :, None] + FLOAT * query.abs() @ key.abs().mT)
    middle, low, high = weights_of(spec, scale * query @ key.mT, seen, error)
    # Of 4 bits a code has a step of its own 32 channels: its largest magnitude is 8 steps, of 8 bits 127.
    sizes = value.abs().amax(-1)[:, :, None]
    largest = max_pool1d((high * sizes).flatten(0, 2), 2 * BLOCK - 1, 1, BLOCK - 1).view_as(high)
    rounding = largest.sum(-1, keepdim=True) / INTEGER / 2
    total, least = (x.sum(-1, keepdim=True) if isinstance(spec, Exaq) else torch.ones(1) for x in (middle, low))
    result = (middle @ value / total).nan_to_num(nan=0.0)
    change = (high - low) @ value.abs() + rounding * 1.001 + FLOAT * high @ value.abs()
    if isinstance(spec, Exaq):
        change = change + result.abs() * (high - low).sum(-1, keepdim=True)
    return result, (change / least).nan_to_num(nan=0.0)


def call_of(spec: Any) -> AttentionCall:
    if isinstance(spec, ConSmax):
        return AttentionCall.by_exponential(torch.tensor(7.0), 1e6)
    return AttentionCall.by_levels(CLIP, spec.exponentials(CLIP))


def attend(given: list[Any], case: Case, spec: Any, seen: Tensor | None = None) -> Tensor:
    mask = case.seen() if seen is None and case.mask else seen
    return kernels.attend(*given, call_of(spec), None if case.is_causal else mask, case.is_causal)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_codes_within_the_bound(case: Case, bits: int, build: str) -> None:
    query, key, value = case.tensors()
    cached = [encode(x, bits) for x in (key, value)]
    held = [query, *(x.decoded(torch.float32) for x in cached)]
    for spec in (ConSmax(), Exaq(bits=2), Exaq(bits=3), Exaq(bits=4)):
        expected, bound = bound_of(spec, held, case.seen())
        error = (attend([query, *cached], case, spec) - expected).abs()
        assert (error <= bound + 1e-7).all()
        # Roundings are apart, so they add up in squares: a query's are 2e-5 of its size, as its largest is 2.5 times
        # that; scores of spread 3 err by 6e-5, and so do weights. With levels, few are at a border at all.
        assert error.square().mean().sqrt() <= 3e-4 * expected.square().mean().sqrt()


@pytest.mark.parametrize("bits", BITS)
def test_one_wrong_step_is_seen(bits: int, build: str) -> None:
    case = CASES[1]
    query, key, value = case.tensors()
    cached = [encode(x, bits) for x in (key, value)]
    expected, bound = bound_of(ConSmax(), [query, *(x.decoded(torch.float32) for x in cached)], case.seen())
    for place in range(2):
        steps = cached[place].steps.clone()
        steps[:, :, -1, 500] *= 3
        wrong = [*cached]
        wrong[place] = dataclasses.replace(cached[place], steps=steps)
        assert ((attend([query, *wrong], case, ConSmax()) - expected).abs() > bound).any()


@pytest.mark.parametrize("bits", BITS)
def test_keys_about_a_centre(bits: int, build: str) -> None:
    """What the centre adds to all scores of a query counts for ConSmax; levels are from the largest score."""
    case = CASES[2]
    query, key, value = case.tensors()
    centre = key.mean(2, keepdim=True)
    cached = [encode(key, bits, centre), encode(value, bits)]
    held = [query, *(x.decoded(torch.float32) for x in cached)]
    assert ((held[1] - key).square().mean() < (encode(key, bits).decoded(torch.float32) - key).square().mean()).all()
    for spec in (ConSmax(), Exaq()):
        expected, bound = bound_of(spec, held, case.seen())
        assert ((attend([query, *cached], case, spec) - expected).abs() <= bound + 1e-7).all()
    other = [dataclasses.replace(cached[0], centre=centre * 1.1), cached[1]]
    assert ((attend([query, *other], case, ConSmax()) - bound_of(ConSmax(), held, case.seen())[0]).abs() > bound).any()


def test_many_channels_fit_32_bits() -> None:
    """The largest products there are: all codes 127, all of one sign."""
    channels = 2**14
    tokens = torch.full((1, 1, 20, channels), 1e-3)
    query = torch.full((1, 1, 1, channels), 1e-1)
    cache = KeyValueCache(tokens, torch.ones(1, 1, 20, 3))
    found = cache.attention(query, ConSmax(), beta=1.0, gamma=1.0)
    assert torch.allclose(found, torch.full_like(found, 20 * math.exp(1e-4 * channels**0.5 - 1)), rtol=1e-4)


KINDS = ["float32", "bfloat16", "8 bits", "4 bits"]


def operand(kind: str, tokens: Tensor, spoilt: Tensor) -> Any:
    """Return tokens as a kernel reads them, NaN where `spoilt`, (batch, 1, 1, tokens), says so."""
    if "bits" in kind:
        codes = encode(tokens, int(kind[0]))
        return dataclasses.replace(codes, steps=codes.steps.masked_fill(spoilt, math.nan))
    return torch.where(spoilt[:, 0].mT[:, None], math.nan, tokens).to(getattr(torch, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["left", "right", "both", "middle", "all"])
def test_what_is_hidden_is_not_read(kind: str, where: str, build: str) -> None:
    """Hidden tokens are NaN, which would spread to all that reads them, under weights of 0 too."""
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
    for spec in (ConSmax(), Exaq()):
        results = []
        for poison in (False, True):
            operands = [operand(kind, tokens, hidden & poison) for tokens in (key, value)]
            asked = query.to(operands[0].dtype) if isinstance(operands[0], Tensor) else query
            results.append(attend([asked, *operands], case, spec, ~hidden))
        assert results[0].isfinite().all()
        assert torch.equal(*results)
        assert (results[0][1] == 0).all() == (where == "all")


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_as_numbers_are_what_a_mask_says(kind: str, build: str) -> None:
    case = Case(batch=4, heads=4, queries=2, keys=2100)
    query, key, value = case.tensors()
    lengths = torch.tensor([2100, 0, 1025, 7])
    hidden = torch.arange(2100) >= lengths[:, None, None, None]
    operands = [operand(kind, tokens, hidden) for tokens in (key, value)]
    asked = query.to(operands[0].dtype) if isinstance(operands[0], Tensor) else query
    some = torch.rand(4, 1, 2, 2100, generator=torch.Generator().manual_seed(1)) < 0.6
    for spec in (ConSmax(), Exaq()):
        call = call_of(spec)
        for mask in (None, some):
            found = kernels.attend(asked, *operands, call, mask, lengths=lengths)
            assert torch.equal(found, attend([asked, *operands], case, spec, ~hidden & (mask is None or mask)))
            assert found.isfinite().all()
            assert (found[1] == 0).all()
            assert (found[2] != 0).any()
        with pytest.raises(ValueError, match=r"lengths must be \(4,\), one for each sequence, got \(2,\)"):
            kernels.attend(asked, *operands, call, lengths=lengths[:2])
    many = torch.randn(1, 1, 20, 8)
    with pytest.raises(ValueError, match="lengths are accepted for up to 12 queries per key head"):
        kernels.attend(many, many, many, call_of(Exaq()), lengths=torch.tensor([3]))


def test_lengths_build_no_mask_for_a_native_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randn(2, 2, 50, 8)
    cache, lengths, seen = KeyValueCache(tokens, tokens), torch.tensor([50, 7]), []
    inner = kernels.attend
    monkeypatch.setattr(call_module, "attend", lambda *given: seen.append(given[4]) or inner(*given))
    cache.attention(tokens[:, :, :1], Exaq(), lengths=lengths, clip=CLIP)
    assert seen == [None]


@pytest.mark.parametrize("bits", BITS)
def test_lengths_are_a_mask_of_first_tokens(bits: int) -> None:
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 2, n, 32, generator=random) for n in (1, 50, 50))
    cache = KeyValueCache(key, value, bits)
    lengths = torch.tensor([50, 7, 0])
    mask = torch.arange(50) < lengths[:, None, None, None]
    for spec, numbers in ((ConSmax(), CONSMAX), (Exaq(), {"clip": CLIP}), (softmaxkit.Exact(), {})):
        found = cache.attention(query, spec, lengths=lengths, **numbers)
        assert torch.equal(found, cache.attention(query, spec, mask, **numbers))
        alone = softmaxkit.attention(query[1:2], cache.keys[1:2, :, :7], cache.values[1:2, :, :7], spec, **numbers)
        assert torch.allclose(found[1], alone[0], atol=1e-3)
        assert (found[2] == 0).all()
        odd = torch.arange(50) % 2 == 1
        both = cache.attention(query, spec, odd & mask, **numbers)
        assert torch.equal(cache.attention(query, spec, odd, lengths=lengths, **numbers), both)
        added = cache.attention(query, spec, torch.where(odd, 0.0, -math.inf)[None], lengths=lengths, **numbers)
        assert torch.allclose(added, both, atol=1e-3)
    for wrong in (torch.tensor([51, 7, 0]), torch.tensor([-1, 7, 0])):
        with pytest.raises(ValueError, match="lengths are 0 to 50, the tokens held"):
            cache.attention(query, ConSmax(), lengths=wrong, **CONSMAX)
    for wrong in (torch.tensor([1, 2]), torch.ones(3), torch.ones(3, dtype=torch.bool)):
        with pytest.raises(ValueError, match="lengths are integers, one for each of 3 sequences"):
            cache.attention(query, ConSmax(), lengths=wrong, **CONSMAX)


@pytest.mark.parametrize("channels", [1, 7, 32, 64, 80, 129])
def test_rounding_to_codes(channels: int) -> None:
    random = torch.Generator().manual_seed(channels)
    tokens = torch.randn(2, 3, 40, channels, generator=random) * torch.logspace(-20, 20, 40)[:, None]
    tokens[0, 0, 3] = 0.0
    tokens[0, 0, 4] = 3e38
    eight, four = (encode(tokens, bits) for bits in BITS)
    largest = tokens.abs().amax(-1, keepdim=True)
    assert (eight.shape, four.shape) == (tokens.shape, tokens.shape)
    assert ((eight.decoded(torch.float32) - tokens).abs() <= largest * (0.5001 / 127)).all()
    error = (four.decoded(torch.float32) - tokens).abs()
    for first in range(0, channels, codes.CHANNELS_OF_STEP):
        some = slice(first, first + codes.CHANNELS_OF_STEP)
        most = tokens[..., some].abs().amax(-1, keepdim=True)
        # Half a step of 1/8, which bfloat16 rounds up by 2^-7 at most; a whole one for what is as large with the other
        # sign.
        opposite = tokens[..., some].abs() > 0.93 * most
        assert (error[..., some] <= most / 8 * (1 + 2**-7) * torch.where(opposite, 1.0, 0.5) + 1e-30).all()


def test_what_4_bits_take_beside_8() -> None:
    """Normal numbers err by 15 times as much; no code of 4 bits would take them below 1/16 of their size.

    That is the rate-distortion function of normal numbers, sigma * 2^-bits, and 10 times what 8 bits take here.
    """
    tokens = torch.randn(1, 8, 500, 64, generator=torch.Generator().manual_seed(0))
    eight, four = ((encode(tokens, bits).decoded(torch.float32) - tokens).square().mean().sqrt() for bits in BITS)
    assert 2**-4 / eight >= 10
    assert 2**-4 <= four <= 15 * eight


def test_calls_that_do_not_fit() -> None:
    tokens = torch.randn(1, 1, 5, 8)
    with pytest.raises(ValueError, match="a cache has 8 or 4 bits, not 3"):
        KeyValueCache(tokens, tokens, bits=3)
    with pytest.raises(TypeError, match=r"got 8 channels of torch\.float32 on cpu, a cache of 8 bits on"):
        kernels.attend(tokens, encode(tokens, 8), encode(tokens, 4), call_of(ConSmax()))


def test_a_cache_that_no_kernel_reads_is_read_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    query, tokens = torch.randn(1, 2, 1, 8), torch.randn(1, 2, 30, 8)
    cache = KeyValueCache(tokens, tokens, bits=4)
    found = cache.attention(query, Exaq(), clip=CLIP)
    read = []
    decoded = Cached.decoded
    monkeypatch.setattr(Cached, "decoded", lambda self, dtype: read.append(1) or decoded(self, dtype))
    monkeypatch.setitem(attention.CACHED_BITS, "native", {0, 8})
    assert torch.allclose(cache.attention(query, Exaq(), clip=CLIP), found, atol=1e-3)
    assert read
