"""Keys with a channel much larger than the others: what it costs a cache, and that ordinary keys pay nothing for it."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from softmaxkit import ConSmax, Exaq, KeyValueCache, PagedKeyValueCache, QuantisedCache
from softmaxkit.kernels import backends, builds
from softmaxkit.kernels import native_attention as kernels
from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.codes import BITS
from softmaxkit.kernels.encode import encode
from softmaxkit.kernels.frame import frame

CHANNELS, TOKENS, PLACE = 64, 400, 3
BOUND = {8: 1.9, 4: 3.5}
"""Times the error of ordinary keys, over the spread of the scores, that a channel of any size costs.

Of 8 bits a channel is below 4 times the middle one, once divided by its factor or because it has none; of 4 bits below
8. So a step, as large as the largest of 64 or of 32 channels makes it, grows at most as sqrt(m^2 + 4^2) over m or
sqrt(m^2 + 8^2) over m, root mean squares, where the largest of as many normal channels has m = 2.6 or 2.4. A query's
product with the channel's error is that of an ordinary channel, times the factor where queries are not smaller there;
and then the channel's scores spread by more than the factor, too.
"""


def normal(tokens: int = TOKENS, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    query, key = (torch.randn(2, 2, n, CHANNELS, generator=random) for n in (50, tokens))
    return query * 2, key


def held(key: Tensor, bits: int, paged: bool = False) -> Tensor:
    """Return keys as a cache holds them."""
    if not paged:
        return KeyValueCache(key, key, bits).keys
    one = key[:1]
    pool = PagedKeyValueCache(TOKENS // 16, 16, one.shape[1], CHANNELS, bits=bits)
    tokens = one[0].transpose(0, 1)
    pool.reshape_and_cache(tokens, tokens, torch.arange(TOKENS))
    return pool.gather(torch.arange(TOKENS // 16)[None], torch.tensor([TOKENS]))[0].expand(2, -1, -1, -1)


def error(query: Tensor, key: Tensor, decoded: Tensor) -> float:
    """Return the error of scores over their spread, root mean squares."""
    scores = query.double() @ key.double().mT
    return float((query.double() @ decoded.double().mT - scores).square().mean().sqrt() / scores.std())


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("ratio", [3.9, 7.9, 20.0, 50.0, 1e3, 1e6])
@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_an_outlier_channel_costs_a_bounded_error(
    bits: int, paged: bool, ratio: float, balanced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, key = normal()
    if paged:
        key = key[:1].expand(2, -1, -1, -1)
    ordinary = error(query, key, held(key, bits, paged))
    key = key.clone()
    key[..., PLACE] *= ratio
    if balanced:  # as in models: where keys are large, queries are small
        query[..., PLACE] /= ratio
    assert error(query, key, held(key, bits, paged)) <= BOUND[bits] * ordinary
    for module in ("stores", "pool_keys"):
        path = f"softmaxkit.fused_attention.{module}.frame"
        monkeypatch.setattr(path, lambda keys, bits: (frame(keys, bits)[0], None))
    if balanced and ratio > 10:
        assert error(query, key, held(key, bits, paged)) > 4 * ordinary


def test_ordinary_keys_have_no_factors() -> None:
    for tokens in (16, 100, TOKENS):
        for seed in range(20):
            assert frame(normal(tokens, seed)[1], 8)[1] is None
    assert frame(torch.zeros(1, 2, 5, 8), 8)[1] is None
    for bits in BITS:
        assert frame(torch.randn(1, 1, 50, 1), bits)[1] is None
        assert frame(torch.randn(1, 1, 50, 0), bits)[1] is None


@pytest.mark.parametrize("tokens", [1, 2, 4])
def test_a_few_first_tokens_cost_ordinary_keys_nothing(tokens: int) -> None:
    """Of so few a channel hardly ever seems 4 times as large as it is: of one token, one of 50,000 channels."""
    errors = []
    for seed in range(10):
        query, key = normal(seed=seed)
        factor = frame(key[:, :, :tokens], 8)[1]
        plain, framed = (encode(key, 8, None, given).decoded(torch.float32) for given in (None, factor))
        errors.append(error(query, key, framed) / error(query, key, plain))
    assert sum(errors) / len(errors) <= 1.02
    factor = frame(torch.randn(1000, 2, tokens, CHANNELS, generator=torch.Generator().manual_seed(0)), 8)[1]
    assert factor is None or (factor > 1).double().mean() <= 1 / 50_000


@pytest.mark.parametrize(("bits", "below", "above"), [(8, 3.6, 4.4), (4, 7.2, 8.8)])
def test_channels_are_outliers_from_a_multiple_of_the_median_on(bits: int, below: float, above: float) -> None:
    for ratio in (below, above):
        _, key = normal()
        key[..., PLACE] *= ratio / (key[..., PLACE].square().mean().sqrt())
        assert (frame(key, bits)[1] is None) == (ratio == below)


def test_factors_are_powers_of_two_of_the_first_tokens() -> None:
    _, key = normal()
    for bits in BITS:
        for place, ratio in enumerate((7.0, 9.0, 50.0, 1e30, 1e-30)):
            key[..., place] *= ratio
        factor = frame(key, bits)[1]
        assert factor is not None
        assert factor[0, 0, 0, :6].tolist() == [2.0 if bits == 8 else 1.0, 4.0, 16.0, 2.0**24, 1.0, 1.0]
        key[..., :5] = key[..., 5:10]
    cache = KeyValueCache(key, key)
    key[..., PLACE] *= 50
    with pytest.warns(UserWarning, match="outlier channels that its first keys did not have"):
        cache.append(key, key)
    assert cache.codes[0].factor is None
    cache.crop(0)
    cache.append(key, key)
    assert cache.codes[0].factor is not None


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("build", builds.NATIVE)
def test_kernels_see_queries_times_the_factors(bits: int, build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit: factors are powers of two."""
    if build not in builds.supported():
        pytest.skip(f"no {build} kernels here")
    monkeypatch.setenv(builds.VARIABLE, build)
    backends.reset()
    query, key = normal()
    query = query[:, :, :3].repeat(1, 2, 1, 1)
    key[..., PLACE] *= 50
    keys, values = KeyValueCache(key, key, bits).codes
    assert keys.factor is not None
    factor = keys.factor.repeat_interleave(2, 1)
    other = replace(keys, factor=None, centre=None if keys.centre is None else keys.centre / keys.factor)
    for call in (
        AttentionCall.by_exponential(torch.tensor(30.0), 1e6),
        AttentionCall.by_levels(-5.0, Exaq().exponentials(-5.0)),
    ):
        result = kernels.attend(query, keys, values, call)
        assert torch.equal(result, kernels.attend(query * factor, other, values, call))
        assert not torch.equal(result, kernels.attend(query, other, values, call))


def test_factors_beyond_float16_do_not_overflow_its_queries() -> None:
    key = normal()[1]
    key[..., PLACE] *= 1e6
    keys, _ = KeyValueCache(key, key).codes
    assert keys.factor is not None
    assert keys.factor.max() > torch.finfo(torch.float16).max
    query = torch.full((2, 2, 1, CHANNELS), 0.5)
    assert torch.equal(keys.times_factors(query.half()), keys.times_factors(query))


def test_queries_whose_factors_overflow_are_computed_by_torch() -> None:
    key, value = (normal(seed=seed)[1][:1, :1] for seed in (0, 1))
    query = torch.full((1, 1, 1, CHANNELS), 1e-3)
    key[..., PLACE] *= 1e4
    query[..., PLACE] = 1e37
    cache = KeyValueCache(key, value)
    result = cache.attention(query, Exaq(), clip=-5.0, scale=1e-41)
    scores = query.double() @ cache.keys.double().mT * 1e-41
    exact = Exaq().module(heads=1, clip=-5.0)(scores) @ cache.values.double()
    assert torch.allclose(result.double(), exact, atol=1e-3)


@pytest.mark.parametrize("bits", BITS)
def test_factors_go_where_the_cache_goes(bits: int) -> None:
    query, key = normal()
    query, scaled = query[:, :, :2], key.clone()
    scaled[1, :, :, PLACE] *= 50  # of the second sequence alone
    cache = KeyValueCache(scaled, key, bits)
    numbers: dict[str, Any] = {"beta": 30.0, "gamma": 1.0}
    exact = cache.attention(query, ConSmax(), **numbers)
    file = io.BytesIO()
    torch.save(cache, file)
    file.seek(0)
    for other in (copy.deepcopy(cache), torch.load(file, weights_only=False)):
        assert torch.equal(other.attention(query, ConSmax(), **numbers), exact)
        other.select(torch.tensor([1, 1, 0]))
        assert torch.equal(other.keys, cache.keys[[1, 1, 0]])
        result = other.attention(query[[1, 1, 0]], ConSmax(), **numbers)
        assert torch.equal(result, exact[[1, 1, 0]])
        other.append(scaled[[1, 1, 0]], key[[1, 1, 0]])
        assert torch.equal(other.keys[:, :, TOKENS:], other.keys[:, :, :TOKENS])


def test_the_cache_of_generate_has_them() -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, hidden_size=2 * CHANNELS)
    _, key = normal()
    key[..., PLACE] *= 50
    for bits in BITS:
        cache = QuantisedCache(config, bits)
        with torch.no_grad():
            cache.update(key, key, 0)
            keys, _ = cache.update(key[:, :, :1], key[:, :, :1], 0)
        assert keys.codes.factor is not None
        assert error(normal()[0], key, (keys + 0.0)[:, :, :TOKENS]) < (0.01 if bits == 8 else 0.12)


def test_queries_whose_strides_overlap() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(1, 2, 70, 32, generator=generator) for _ in range(2))
    keys[..., 3] *= 100
    cache = KeyValueCache(keys, values)
    query = torch.randn(34, generator=generator).unfold(0, 32, 1)[:2].expand(1, 2, 2, 32)
    apart, together = (cache.attention(x, ConSmax(), beta=0.0, gamma=5.0) for x in (query.contiguous(), query))
    assert torch.equal(together, apart)
