"""Caches whose first keys are few or unlike the later ones: the frame is that of the first 64, or a warning says so."""

from __future__ import annotations

import copy
import io
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from softmaxkit import Exact, KeyValueCache, PagedKeyValueCache, QuantisedCache
from softmaxkit.fused_attention.watch import COST, LATEST, Watch
from softmaxkit.kernels.codes import BITS
from softmaxkit.kernels.encode import _by_torch, encode
from softmaxkit.kernels.frame import FIRST_KEYS, OUTGROWN, frame, is_outgrown

CHANNELS, TOKENS, PLACE = 64, 300, 3
CLOSE = 1.02
"""Times the error with a frame of all keys, with one of the first 64: the mean of n keys is off by 1/sqrt(n) of their
spread, which widens steps by a 2n-th of themselves; the size of a channel by 1/sqrt(2n), which moves no factor here."""


def sink_first(dtype: torch.dtype = torch.float32, sequences: int = 2) -> tuple[Tensor, Tensor]:
    """Return queries and keys that have an outlier channel and a mean, except for the first key, an attention sink."""
    random = torch.Generator().manual_seed(0)
    query, key = (torch.randn(sequences, 2, n, CHANNELS, generator=random) for n in (50, TOKENS))
    key[..., PLACE] *= 60
    query[..., PLACE] /= 60
    key += torch.randn(1, 2, 1, CHANNELS, generator=random)
    key[:, :, 0] *= 0.3
    key[:, :, 0, 7] = 30.0
    return query * 2, key.to(dtype)


def error(query: Tensor, key: Tensor, decoded: Tensor) -> float:
    """Return the error of scores, without what all scores of a query have in common, over their spread."""
    scores, difference = (query.double() @ x.double().mT for x in (key, decoded.double() - key))
    spreads = (x - x.mean(-1, keepdim=True) for x in (difference, scores))
    return math.sqrt(math.prod(x.square().mean().item() ** power for x, power in zip(spreads, (1, -1), strict=True)))


def pool_of(key: Tensor, bits: int, num_blocks: int = 24, **given: Any) -> PagedKeyValueCache:
    return PagedKeyValueCache(
        num_blocks, 16, key.shape[1], CHANNELS, bits=bits, dtype=key.dtype, device=key.device, **given
    )


def put(cache: KeyValueCache | PagedKeyValueCache, key: Tensor, first: int, last: int) -> None:
    """Append keys of the first sequence, as keys and values."""
    if isinstance(cache, KeyValueCache):
        cache.append(*[key[:1, :, first:last]] * 2)
    else:
        cache.reshape_and_cache(*[key[0, :, first:last].transpose(0, 1)] * 2, torch.arange(first, last))


def held(cache: KeyValueCache | PagedKeyValueCache, tokens: int) -> Tensor:
    """Return the keys of the first sequence."""
    if isinstance(cache, KeyValueCache):
        return cache.keys
    return cache.gather(torch.arange(-(-tokens // 16))[None], torch.tensor([tokens]))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", BITS)
def test_tokens_one_by_one_give_what_all_at_once_give(bits: int, dtype: torch.dtype) -> None:
    query, key = sink_first(dtype)
    caches = KeyValueCache(*[key[:1, :, :0]] * 2, bits), pool_of(key, bits)
    for tokens in range(1, TOKENS + 1):
        for cache in caches:
            put(cache, key, tokens - 1, tokens)
        if tokens in (1, 2, 5, FIRST_KEYS - 1, FIRST_KEYS):
            for cache in caches:
                once = KeyValueCache(*[key[:1, :, :tokens].contiguous()] * 2, bits)
                assert torch.equal(held(cache, tokens), once.keys)
    assert torch.equal(held(caches[0], TOKENS), held(caches[1], TOKENS))
    query, key = query[:1], key[:1]
    once = KeyValueCache(key, key, bits)
    actual, expected = (error(query, key, held(key_value_cache, TOKENS)) for key_value_cache in (caches[0], once))
    assert actual <= CLOSE * expected
    of_one = encode(key, bits, *frame(key[:, :, :1], bits)).decoded(dtype)
    assert error(query, key, of_one) > 2 * expected


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("cuts", [(1, 300), (2, 40, 300), (5, 64, 65, 300), (63, 64, 300), (64, 300), (200, 300)])
def test_pages_and_one_piece_are_equal(cuts: tuple[int, ...], bits: int) -> None:
    _, key = sink_first()
    caches = KeyValueCache(*[key[:1, :, :0]] * 2, bits), pool_of(key, bits)
    first = 0
    for last in cuts:
        for cache in caches:
            put(cache, key, first, last)
        first = last
    assert torch.equal(held(caches[0], TOKENS), held(caches[1], TOKENS))
    one = KeyValueCache(key[:1, :, :200], key[:1, :, :200], bits)
    centre, factor = frame(key[:1, :, :200], bits)  # of all first keys that come together, and no later ones
    put(one, key, 200, 300)
    for actual, expected in ((one.codes[0].centre, centre), (one.codes[0].factor, factor)):
        assert (actual is None and expected is None) or torch.equal(actual, expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("inference", [False, True])
def test_few_keys_are_cropped_selected_copied_and_saved(bits: int, inference: bool) -> None:
    _, key = sink_first(sequences=3)
    with torch.inference_mode(inference):
        cache = KeyValueCache(key[:, :, :20] + 0.0, key[:, :, :20] + 0.0, bits)
    early, plain = cache.codes[0], cache.keys
    cache.append(*[key[:, :, 20:30]] * 2)
    assert torch.equal(early.decoded(torch.float32), plain)  # what was read before keeps its frame
    file = io.BytesIO()
    torch.save(cache, file)
    file.seek(0)
    chosen = torch.tensor([2, 0, 2, 2])
    for other in (copy.deepcopy(cache), torch.load(file, weights_only=False), cache):
        other.crop(7)
        other.select(chosen)
        other.append(*[key[chosen, :, 7:50]] * 2)
        assert torch.equal(other.keys, KeyValueCache(*[key[chosen, :, :50]] * 2, bits).keys)
        other.append(*[key[chosen, :, 50:]] * 2)
        assert torch.equal(other.keys, KeyValueCache(*[key[chosen]] * 2, bits).keys)
        other.crop(0)
        other.append(*[key[chosen, :, 100:110]] * 2)
        assert torch.equal(other.keys, KeyValueCache(*[key[chosen, :, 100:110].contiguous()] * 2, bits).keys)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("more", [3, 100])
def test_what_is_refused_changes_no_frame(bits: int, more: int) -> None:
    _, key = sink_first()
    wrong = key.clone()
    wrong[:, :, 12] = math.nan
    caches = KeyValueCache(*[key[:1, :, :10]] * 2, bits), pool_of(key, bits)
    put(caches[1], key, 0, 10)
    before = [held(cache, 10) for cache in caches]
    bad, good = (x[:1, :, 10 : 10 + more] for x in (wrong, key))
    slots = torch.arange(10, 10 + more)
    for keys, values in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match="must be finite"):
            caches[0].append(keys, values)
        with pytest.raises(ValueError, match="must be finite"):
            caches[1].reshape_and_cache(*(x[0].transpose(0, 1) for x in (keys, values)), slots)
        assert all(torch.equal(held(cache, 10), expected) for cache, expected in zip(caches, before, strict=True))
    for cache in caches:
        put(cache, key, 10, 40)
        assert torch.equal(held(cache, 40), KeyValueCache(*[key[:1, :, :40].contiguous()] * 2, bits).keys)


@pytest.mark.parametrize("bits", BITS)
def test_few_keys_in_pages_that_are_copied_and_written_again(bits: int) -> None:
    _, key = sink_first()
    tokens = key[0].transpose(0, 1)
    pool = pool_of(key, bits)
    pool.reshape_and_cache(tokens[:20], tokens[:20], torch.arange(20))  # pages 0 and 1
    pool.copy_blocks(torch.tensor([[1, 5], [0, 1]]))
    pool.reshape_and_cache(*[tokens[20:25]] * 2, torch.tensor([84, 85, 0, -1, -1]))  # after the copy, and over a key
    pool.reshape_and_cache(*[tokens[25:TOKENS]] * 2, torch.arange(96, 96 + TOKENS - 25))
    every = torch.cat([key[:1, :, :23], key[:1, :, 25:]], 2)  # skipped keys count for nothing
    plain = encode(every, bits, *frame(every, bits)).decoded(torch.float32)
    table = torch.tensor([[0, 1, 5]])
    gathered = pool.gather(table, torch.tensor([38]))[0]
    expected = plain[:, :, [22, *range(1, 16), *range(16), *range(16, 20), 20, 21]]
    assert torch.equal(gathered, expected)
    rest = pool.gather(torch.arange(6, 24)[None], torch.tensor([TOKENS - 25]))[0]
    assert torch.equal(rest, plain[:, :, 23:])


def with_late_outlier(bits: int, first: int) -> tuple[Tensor, Tensor]:
    """Return queries, smaller in that channel, and keys that have an outlier channel from a place on."""
    random = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, n, CHANNELS, generator=random) for n in (50, TOKENS))
    size = 1.5 * OUTGROWN[bits]  # sizes of 64 normal keys vary by a tenth
    key[:, :, first:, PLACE] *= size
    query[..., PLACE] /= size
    return query * 2, key


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("first", [FIRST_KEYS, 150])
@pytest.mark.parametrize("together", [1, 7, 150])
def test_outliers_that_come_later_are_warned_of_once(together: int, first: int, paged: bool, bits: int) -> None:
    query, key = with_late_outlier(bits, 150)
    cache = pool_of(key, bits) if paged else KeyValueCache(*[key[:, :, :0]] * 2, bits)
    put(cache, key, 0, first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for at in range(first, 150, together):
            put(cache, key, at, min(at + together, 150))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for at in range(150, TOKENS, together):
            put(cache, key, at, min(at + together, TOKENS))
        if paged:  # a pool is looked at after its first, third, seventh, ... write
            for _ in range(8):
                put(cache, key, TOKENS - 64, TOKENS)
    (text,) = [str(warning.message) for warning in caught if "times as large" in str(warning.message)]
    assert f"{OUTGROWN[bits]} times as large" in text
    assert f"with {bits} bits, scores err by about {COST[bits]} or more" in text
    off = error(query, key[:, :, 150:], held(cache, TOKENS)[:, :, 150:])
    assert off >= {8: 0.02, 4: 1 / 3}[bits]
    assert COST[bits].startswith({8: "2%", 4: "a third"}[bits])
    assert off > 2 * error(query, key[:, :, 150:], KeyValueCache(*[key[:, :, 150:]] * 2, bits).keys)


def test_samples_are_watched_too_and_prevent_the_warning() -> None:
    _, key = with_late_outlier(8, 150)
    tokens = key[0].transpose(0, 1)
    pool = pool_of(key, 8, sample_keys=tokens[:150])
    with pytest.warns(UserWarning, match="sample_keys="):
        put(pool, key, 150, TOKENS)
    noted = [*pool._pool_keys._latest]
    put(pool, key, 150, TOKENS)
    assert [*map(id, pool._pool_keys._latest)] == [*map(id, noted)]  # nothing will look at them
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        put(pool_of(key, 8, sample_keys=tokens[150:]), key, 150, TOKENS)


@pytest.mark.parametrize(
    ("most", "keys", "expected"), [(1, 1, [64, 128, 192]), (1, 50, [2, 4, 6]), (4, 64, [1, 3, 7, 11, 15])]
)
def test_a_watch_looks_at_64_new_keys_and_more_rarely_if_asked(most: int, keys: int, expected: list[int]) -> None:
    ordinary, watch = encode(torch.ones(1, 1, LATEST, 8), 8), Watch(most)
    looks: list[int] = []
    for write in range(1, expected[-1] + 2):
        watch.see(keys, torch.device("cpu"), lambda write=write: looks.append(write) or ordinary)
    assert looks == expected


def test_a_cache_that_begins_again_is_watched_again() -> None:
    _, key = with_late_outlier(8, 150)
    cache = KeyValueCache(*[key[:, :, :0]] * 2)
    for _ in range(2):
        put(cache, key, 0, 150)
        with pytest.warns(UserWarning, match="times as large"):
            put(cache, key, 150, TOKENS)
        cache.crop(0)


def test_the_memory_of_slots_may_be_used_again() -> None:
    """The last key, which alone the slots still name when the pool is looked at, is an ordinary one."""
    _, key = with_late_outlier(8, 150)
    tokens = key[0].transpose(0, 1)
    pool, slots = pool_of(key, 8, sample_keys=tokens[:150]), torch.empty(1, dtype=torch.int64)
    for place, token in enumerate(tokens[150 : 149 + LATEST]):
        pool.reshape_and_cache(*[token[None]] * 2, slots.fill_(place))
    with pytest.warns(UserWarning, match="times as large"):
        pool.reshape_and_cache(*[tokens[:1]] * 2, slots.fill_(LATEST - 1))


@pytest.mark.filterwarnings("error")
def test_skipped_keys_are_not_looked_at() -> None:
    """On a GPU they overwrite one another in a spare page."""
    _, key = with_late_outlier(8, 150)
    tokens = key[0].transpose(0, 1).clone()
    pool = pool_of(key, 8, sample_keys=tokens[:150])
    tokens[150:, :, PLACE] = 40.0
    pool._pool_keys.write(tokens[150:], torch.full((TOKENS - 150,), pool.num_blocks * pool.block_size))
    pool._pool_keys.look(TOKENS - 150)


@pytest.mark.parametrize("bits", BITS)
def test_the_cache_of_generate_warns_of_padding_that_set_its_frame(bits: int) -> None:
    config = LlamaConfig(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, hidden_size=2 * CHANNELS)
    _, key = with_late_outlier(bits, 0)
    cache = QuantisedCache(config, bits)
    cache.update(*[torch.full_like(key[:, :, :FIRST_KEYS], 0.5)] * 2, 0)
    for at in range(63):
        cache.update(*[key[:, :, at : at + 1]] * 2, 0)
    with pytest.warns(UserWarning, match="without padding"):
        cache.update(*[key[:, :, 63:64]] * 2, 0)
    cache.reset()
    with warnings.catch_warnings():  # and with a frame of its own the same sequence goes without
        warnings.simplefilter("error")
        for at in range(TOKENS):
            cache.update(*[key[:, :, at : at + 1]] * 2, 0)


@pytest.mark.parametrize("bits", BITS)
def test_keys_that_are_not_finite_are_no_part_of_the_frame(bits: int) -> None:
    """On a GPU they are not refused."""
    _, key = sink_first()
    wrong = torch.cat([key[:, :, :9], torch.full_like(key[:, :, :2], math.nan), key[:, :, 9:]], 2)
    wrong[:, 1, 10] = math.inf
    for actual, expected in zip(frame(wrong, bits), frame(key, bits), strict=True):
        if expected is not None:
            torch.testing.assert_close(actual, expected)
    _, late = with_late_outlier(bits, 0)
    for keys, has in ((key, False), (late, True)):
        codes = _by_torch(keys, bits, *(frame(key, bits) if not has else (None, None)))
        codes.steps[..., 5] = math.nan
        assert is_outgrown(codes) == has


@pytest.mark.parametrize("bits", BITS)
def test_a_frame_is_that_of_its_sequence_alone_and_of_channels_that_are_used(bits: int) -> None:
    keys = torch.randn(2, 3, 40, 12, generator=torch.Generator().manual_seed(0))
    keys[0, :, :, 3] *= 100
    keys[1, 1, :, 7] *= 30
    keys[0, 1, 5, 2], keys[1, 2, 9] = torch.nan, torch.inf
    together = frame(keys, bits)
    for sequence in range(2):
        alone = frame(keys[sequence : sequence + 1], bits)
        for both, own in zip(together, alone, strict=True):
            assert (both is None) == (own is None)
            assert both is None or torch.allclose(both[sequence], own[0])
    # More channels than that are always 0, as where heads are padded: no ordinary channel becomes an outlier.
    wide = torch.cat([keys, torch.zeros(2, 3, 40, 20)], dim=3)
    for padded, own in zip(frame(wide, bits), together, strict=True):
        assert (padded is None) == (own is None)
        assert padded is None or torch.allclose(padded[..., :12], own)


def test_a_pool_of_few_keys_computes_attention() -> None:
    _, key = sink_first()
    pool = pool_of(key, 4)
    for last in (1, 2, 30):
        put(pool, key, 0 if last == 1 else 1, last)
        result = pool.attention(key[:1, :, :1], Exact(), torch.tensor([[0, 1]]), torch.tensor([last]))
        keys, values = pool.gather(torch.tensor([[0, 1]]), torch.tensor([last]))
        exact = (key[:1, :, :1] @ keys.mT / 8).softmax(-1) @ values
        torch.testing.assert_close(result, exact)
