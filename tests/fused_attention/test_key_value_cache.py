"""The cache of keys and values: how far its rounding goes, and fewer tokens or other sequences than it had."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from softmaxkit import ConSmax, Exaq, KeyValueCache, PagedKeyValueCache, attention
from softmaxkit.kernels.backends import native
from softmaxkit.kernels.codes import BITS, Cached


@pytest.mark.parametrize("queries", [1, 5])
def test_how_far_rounding_takes_attention(queries: int) -> None:
    """A key or value is off by half a step, a 254th of its largest; scores by that times the sum of the query's."""
    random = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, heads, n, 32, generator=random) for heads, n in ((4, queries), (2, 90), (2, 90))
    )
    numbers = {"beta": 3.0, "gamma": 1.0}
    result = KeyValueCache(key, value).attention(query, ConSmax(), **numbers)
    wide, keys, values = (x.double() for x in (query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)))
    with torch.no_grad():
        weights = ConSmax().module(heads=4, **numbers)(wide @ keys.mT / 32**0.5)
    shift = wide.abs().sum(-1, keepdim=True) * keys.abs().amax(-1)[:, :, None] / 254 / 32**0.5
    bound = (weights * shift.expm1()) @ values.abs() + (weights * shift.exp()) @ values.abs().amax(-1, True) / 254
    error = (result - weights @ values).abs()
    assert (error <= bound * 1.01 + 1e-5).all()
    assert (error > bound / 100).any()


def test_a_floating_mask_of_0_and_minus_infinity_reads_the_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, n, 32, generator=random) for n in (1, 90, 90))
    attended = torch.rand(2, 1, 1, 90, generator=random) < 0.7
    cache = KeyValueCache(key, value)
    expected = cache.attention(query, Exaq(), attended, clip=-4.0)
    decoded: list[Cached] = []
    original = Cached.decoded
    monkeypatch.setattr(Cached, "decoded", lambda self, dtype: decoded.append(self) or original(self, dtype))
    for lowest in (-torch.inf, torch.finfo(torch.float32).min):
        mask = torch.zeros(attended.shape).masked_fill(~attended, lowest)
        assert torch.equal(cache.attention(query, Exaq(), mask, clip=-4.0), expected)
    assert bool(decoded) == (native() is None)
    decoded.clear()
    cache.attention(query, Exaq(), mask + 0.5, clip=-4.0)
    assert decoded


@pytest.mark.parametrize(("bits", "bytes_of_token"), [(8, 8 + 4 + 5 + 4), (4, 4 + 2 + 3 + 2)])
def test_fewer_tokens_and_other_sequences(bits: int, bytes_of_token: int) -> None:
    random = torch.Generator().manual_seed(0)
    key, value = (torch.randn(3, 2, 20, channels, generator=random) for channels in (8, 5))
    cache = KeyValueCache(key, value, bits)
    keys, values = cache.keys, cache.values
    assert cache.nbytes == 3 * 2 * 20 * bytes_of_token
    cache.crop(12)
    cache.select(torch.tensor([2, 0, 2, 2]))
    chosen = [2, 0, 2, 2]
    assert len(cache) == 12
    assert torch.equal(cache.keys, keys[chosen, :, :12])
    assert torch.equal(cache.values, values[chosen, :, :12])
    cache.append(key[chosen, :, 12:], value[chosen, :, 12:])
    assert torch.equal(cache.keys, keys[chosen])
    assert torch.equal(cache.values, values[chosen])
    with pytest.raises(ValueError, match="this cache has 20 tokens; length must be from 0 to that, got 21"):
        cache.crop(21)
    with pytest.raises(TypeError, match="integer"):
        cache.crop(12.5)  # type: ignore[arg-type]
    cache.crop(length := torch.tensor(20))  # type: ignore[arg-type]
    length -= 1
    assert len(cache) == 20
    assert cache.keys.shape == (4, 2, 20, 8)


WRONG_SEQUENCES = [
    (torch.tensor([0, 4]), IndexError, "sequences must be 0 to 3, got 4"),
    (torch.tensor([-1]), IndexError, "sequences must be 0 to 3, got -1"),
    (torch.tensor([[0]]), ValueError, r"sequences must be \(new batch,\), got \(1, 1\)"),
    (torch.tensor([0.0]), TypeError, r"sequences must be int32 or int64, got torch\.float32"),
    (torch.tensor([True]), TypeError, r"sequences must be int32 or int64, got torch\.bool"),
    ([0], TypeError, "sequences must be a torch tensor, got list"),
]


@pytest.mark.parametrize(("sequences", "error", "message"), WRONG_SEQUENCES)
def test_sequences_that_cannot_be_selected(sequences: Any, error: type[Exception], message: str) -> None:
    cache = KeyValueCache(torch.randn(4, 2, 20, 8), torch.randn(4, 2, 20, 8))
    with pytest.raises(error, match=message):
        cache.select(sequences)
    assert cache.keys.shape == (4, 2, 20, 8)


def test_lists_are_not_taken_for_tensors() -> None:
    tokens = torch.randn(1, 2, 20, 8)
    cache = KeyValueCache(tokens, tokens)
    query = tokens[:, :, :1]
    with pytest.raises(TypeError, match="values must be a torch tensor, got list"):
        KeyValueCache(tokens, [0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="keys must be a torch tensor, got list"):
        cache.append([0], tokens)  # type: ignore[arg-type]
    for name, given in {"query": [0], "attn_mask": [True], "lengths": [20]}.items():
        with pytest.raises(TypeError, match=f"{name} must be a torch tensor, got list"):
            cache.attention(**{"query": query, name: given}, spec=Exaq(), clip=-5.0)


@pytest.mark.parametrize("bits", BITS)
def test_a_copy_made_in_inference_mode_grows(bits: int) -> None:
    random = torch.Generator().manual_seed(0)
    key, value = (torch.randn(1, 2, 70, channels, generator=random) for channels in (8, 5))
    cache = KeyValueCache(key, value, bits)
    with torch.inference_mode():
        copies = copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))
    cache.append(key, value)
    for other in copies:
        other.append(key, value)
        assert torch.equal(other.keys, cache.keys)
        assert torch.equal(other.values, cache.values)


@pytest.mark.parametrize("bits", BITS)
def test_the_largest_float16_stays_finite(bits: int) -> None:
    largest = torch.finfo(torch.float16).max
    tokens = torch.full((1, 1, 70, 3), largest, dtype=torch.float16)
    tokens[..., 1::2, :] *= -1
    cache = KeyValueCache(tokens, tokens, bits)
    for decoded in (cache.keys, cache.values):
        assert (decoded.float() - tokens).abs().max() <= largest / 100


@pytest.mark.parametrize("queries", [1, 20])
def test_integers_over_a_cache(queries: int) -> None:
    random = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 2, 20, 8, generator=random)
    query, options = tokens[:, :, :queries], {"mode": "integer", "clip": -4.0}
    cache = KeyValueCache(tokens, tokens)
    expected = attention(query, cache.keys, cache.values, Exaq(), **options)
    assert torch.equal(cache.attention(query, Exaq(), **options), expected)
    pool = PagedKeyValueCache(2, 16, 2, 8)
    pool.reshape_and_cache(*[tokens[0].transpose(0, 1)] * 2, torch.arange(20))
    result = pool.attention(query, Exaq(), torch.tensor([[0, 1]]), torch.tensor([20]), **options)
    assert torch.equal(result, expected)


@pytest.mark.parametrize("queries", [1, 40])
def test_queries_in_another_dtype_or_on_another_device_are_refused(queries: int) -> None:
    tokens = torch.randn(1, 2, 50, 16)
    cache, query = KeyValueCache(tokens, tokens), torch.randn(1, 2, queries, 16)
    with pytest.raises(TypeError, match=r"in torch.float32 on cpu, got torch.bfloat16 on cpu; convert them with query"):
        cache.attention(query.bfloat16(), Exaq(), clip=-5.0)
    with pytest.raises(TypeError, match=r"requires queries in torch.float32 on cpu, got torch.float32 on meta"):
        cache.attention(query.to("meta"), Exaq(), clip=-5.0)
