"""Sequences of different lengths over a cache: `lengths` equals a mask of the first tokens, and needs no mask."""

from __future__ import annotations

import math

import pytest
import torch

import softmaxkit
from softmaxkit import ConSmax, Exaq, KeyValueCache
from softmaxkit.fused_attention import native as native_path
from softmaxkit.kernels import backends
from softmaxkit.kernels import native_attention as kernels
from softmaxkit.kernels.codes import BITS

CLIP = -5.0
CONSMAX = {"beta": 2.0, "gamma": 1.0}


@pytest.mark.skipif(backends.native() is None, reason="the native kernels are not built")
def test_lengths_build_no_mask_for_a_native_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randn(2, 2, 50, 8)
    cache, lengths, masks = KeyValueCache(tokens, tokens), torch.tensor([50, 7]), []
    inner = kernels.attend
    monkeypatch.setattr(
        native_path, "_attend_untraced", lambda *arguments: masks.append(arguments[4]) or inner(*arguments)
    )
    cache.attention(tokens[:, :, :1], Exaq(), lengths=lengths, clip=CLIP)
    assert masks == [None]


@pytest.mark.parametrize("bits", BITS)
def test_lengths_equal_a_mask_over_a_cache(bits: int) -> None:
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 2, n, 32, generator=random) for n in (1, 50, 50))
    cache = KeyValueCache(key, value, bits)
    lengths = torch.tensor([50, 7, 0])
    mask = torch.arange(50) < lengths[:, None, None, None]
    for spec, parameters in ((ConSmax(), CONSMAX), (Exaq(), {"clip": CLIP}), (softmaxkit.Exact(), {})):
        result = cache.attention(query, spec, lengths=lengths, **parameters)
        assert torch.equal(result, cache.attention(query, spec, mask, **parameters))
        alone = softmaxkit.attention(query[1:2], cache.keys[1:2, :, :7], cache.values[1:2, :, :7], spec, **parameters)
        assert torch.allclose(result[1], alone[0], atol=1e-3)
        assert (result[2] == 0).all()
        odd = torch.arange(50) % 2 == 1
        both = cache.attention(query, spec, odd & mask, **parameters)
        assert torch.equal(cache.attention(query, spec, odd, lengths=lengths, **parameters), both)
        added = cache.attention(query, spec, torch.where(odd, 0.0, -math.inf)[None], lengths=lengths, **parameters)
        assert torch.allclose(added, both, atol=1e-3)
    for wrong in (torch.tensor([51, 7, 0]), torch.tensor([-1, 7, 0])):
        with pytest.raises(ValueError, match="lengths must be 0 to 50, the tokens of the cache"):
            cache.attention(query, ConSmax(), lengths=wrong, **CONSMAX)
    for wrong in (torch.tensor([1, 2]), torch.ones(3), torch.ones(3, dtype=torch.bool)):
        with pytest.raises(ValueError, match="lengths must be integers, one for each of 3 sequences"):
            cache.attention(query, ConSmax(), lengths=wrong, **CONSMAX)
