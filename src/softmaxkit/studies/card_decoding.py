"""What the bench compares on a GPU in decoding: torch, the methods, and caches of 8 and 4 bits, in pages too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from softmaxkit.fused_attention.cache import KeyValueCache
from softmaxkit.fused_attention.call import attention
from softmaxkit.fused_attention.paged import PagedKeyValueCache
from softmaxkit.kernels.codes import BITS
from softmaxkit.methods import BASELINE
from softmaxkit.methods.base.spec import Spec
from softmaxkit.record import make_result
from softmaxkit.studies.card_contenders import (
    LIBRARY,
    CardContender,
    attention_in_float64,
    by_library,
    dtype_name,
    operands,
)
from softmaxkit.studies.contenders import SPREAD, sample_module

PAGE = 16
"""Tokens of a page, as in vLLM."""


def decode_contenders(
    specs: Sequence[Spec], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int
) -> Iterator[CardContender]:
    """Yield attention of one query: torch's on its back ends, and every spec's, over caches of 8 and 4 bits too.

    Caches are in one piece, and in pages of `PAGE` tokens that lie in random order.

    Args:
        specs: the methods.
        shape: (heads, 1, keys, channels), followed by the number of key heads if these are fewer than the heads.
        dtype: dtype of queries, keys and values.
        device: the card.
        seed: seed of the tensors.
    """
    query, key, value = operands(shape, dtype, device, seed)
    keys, is_grouped = shape[2], len(shape) > 4
    moved = key.nbytes + value.nbytes
    about = {"kind": "decode", "dtype": dtype_name(dtype)}

    def contender(figures: dict[str, Any], run: Callable[[], Tensor], spec: Spec, size: int) -> CardContender:
        truth = partial(attention_in_float64, spec, (query, key, value), False)
        return CardContender({**about, **figures}, run, 0.0, size, truth)

    library = partial(scaled_dot_product_attention, query, key, value, enable_gqa=is_grouped)
    figures = {"method": "torch", "backend": "scaled_dot_product_attention"}
    yield contender(figures, library, BASELINE, moved)
    for name, backend in LIBRARY.items():
        run = partial(by_library, backend, False, query, key, value, is_grouped)
        yield contender({**figures, "backend": f"{figures['backend']}, {name}"}, run, BASELINE, moved)
    caches = {bits: KeyValueCache(key, value, bits) for bits in BITS}
    pools = {bits: _in_pages(key, value, bits, seed) for bits in BITS}
    for spec in specs:
        numbers = spec.sample_parameters(keys, SPREAD)
        module = sample_module(spec, keys, "float")
        result = {**make_result(spec, "float"), "backend": "triton"}
        call = module.attention_call()
        if call is not None and call.support("triton") is None:
            continue
        if call is not None:
            run = partial(attention, query, key, value, spec, enable_gqa=is_grouped, **numbers)
            yield contender(result, run, spec, moved)
        elif module.softmax_base is None:
            continue
        for bits, cache in caches.items():
            run = partial(cache.attention, query, spec, **numbers)
            yield contender({**result, "storage": f"{bits}-bit cache"}, run, spec, cache.nbytes)
            pool, table, lengths = pools[bits]
            run = partial(pool.attention, query, spec, table, lengths, max_seq_len=keys, **numbers)
            size = cache.nbytes + table.nbytes  # without the tokens by which the last page exceeds the sequence
            yield contender({**result, "storage": f"{bits}-bit pages of {PAGE}"}, run, spec, size)


def _in_pages(key: Tensor, value: Tensor, bits: int, seed: int) -> tuple[PagedKeyValueCache, Tensor, Tensor]:
    """Return a pool that holds the keys and values in pages in random order, the block table, and the length."""
    _, key_heads, keys, channels = key.shape
    pages = -(-keys // PAGE)
    pool = PagedKeyValueCache(pages, PAGE, key_heads, channels, bits=bits, dtype=key.dtype, device=key.device)
    table = torch.randperm(pages, generator=torch.Generator().manual_seed(seed)).to(torch.int32)[None]
    places = torch.arange(keys)
    slots = table[0].long()[places // PAGE] * PAGE + places % PAGE
    pool.reshape_and_cache(key[0].transpose(0, 1), value[0].transpose(0, 1), slots)
    return pool, table.to(key.device), torch.tensor([keys], dtype=torch.int32, device=key.device)
