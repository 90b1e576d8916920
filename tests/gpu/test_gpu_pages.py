"""Paged caches of codes on a GPU: kernels against float64 over the same codes, and invalid tables and slots."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from attention_cases import WEIGHTS, Case
from cache_cases import KEY_HEADS, KINDS, METHODS, assert_close, expected, watched_kernels
from torch import Tensor

from softmaxkit import Exact, Exaq, KeyValueCache, PagedKeyValueCache
from softmaxkit.kernels.codes import BITS, Cached, Paged
from softmaxkit.kernels.encode import encode

pytest.importorskip("triton")

LENGTHS = [50, 0, 1, 16, 70, 33]


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> list[str]:
    return watched_kernels(monkeypatch)


class Served:
    """Sequences of different lengths in a pool, whose pages lie in any order, and what was written for each."""

    def __init__(
        self, bits: int, block_size: int, device: torch.device, dtype: torch.dtype = torch.float32, channels: int = 64
    ) -> None:
        random = torch.Generator().manual_seed(bits + block_size)
        longest = max(LENGTHS)
        self.lengths = torch.tensor(LENGTHS, dtype=torch.int32).to(device)
        used = [-(-length // block_size) for length in LENGTHS]
        free = torch.randperm(sum(used) + 3, generator=random).tolist()
        self.table = torch.full((len(LENGTHS), max(used) + 1), -7, dtype=torch.int32)
        keys, values = (
            torch.randn(len(LENGTHS), KEY_HEADS, longest, n, generator=random).to(device, dtype) for n in (channels, 48)
        )
        self.pool = PagedKeyValueCache(
            len(free), block_size, KEY_HEADS, channels, 48, bits, dtype, keys[0].transpose(0, 1) + 1, device
        )
        self.slots, self.tokens = [], (keys, values)
        for row, length in enumerate(LENGTHS):
            own, free = free[: used[row]], free[used[row] :]
            if length == 70 and block_size == 16:
                own[:2] = self.table[0, :2].tolist()  # pages of the first sequence, which it shares
                for x in (keys, values):
                    x[row, :, :32] = x[0, :, :32]
            self.table[row, : len(own)] = torch.tensor(own, dtype=torch.int32)
            places = torch.arange(length)
            slots = self.table[row].long()[places // block_size] * block_size + places % block_size
            self.slots.append(slots.to(device))
            key, value = (torch.cat((x[row, :, :length], x[row, :, :2]), 1).transpose(0, 1) for x in (keys, values))
            self.pool.reshape_and_cache(key, value, torch.cat((slots, torch.tensor([-1, -1]))).to(device))
        self.table = self.table.to(device)

    def codes(self) -> tuple[Cached, Cached]:
        """Return the codes of all sequences in one piece."""
        keys = encode(self.tokens[0], self.pool.bits, self.pool._keys.centre, self.pool._keys.factor)
        return keys, encode(self.tokens[1], self.pool.bits)

    def seen(self) -> Tensor:
        places = torch.arange(max(LENGTHS), device=self.table.device)
        return (places < self.lengths[:, None])[:, None, None]


@pytest.mark.parametrize(
    ("block_size", "heads", "dtype", "bits"),
    [
        (16, 2, torch.float32, 4),
        (48, 8, torch.bfloat16, 8),
        pytest.param(16, 2, torch.float32, 8, marks=pytest.mark.slow),
        pytest.param(48, 8, torch.bfloat16, 4, marks=pytest.mark.slow),
        *(pytest.param(64, 2, torch.float16, bits, marks=pytest.mark.slow) for bits in BITS),
        *(pytest.param(16, 6, torch.float32, bits, marks=pytest.mark.slow) for bits in BITS),
    ],
)
def test_pages_are_read_by_the_table(
    block_size: int, heads: int, dtype: torch.dtype, bits: int, device: torch.device, kernels: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    served = Served(bits, block_size, device, dtype)
    for pool, whole in zip((served.pool._keys, served.pool._values), served.codes(), strict=True):
        for row, slots in enumerate(served.slots):
            blocks, places = slots // block_size, slots % block_size
            assert torch.equal(pool.codes[blocks, :, places], whole.codes[row, :, : len(slots)].transpose(0, 1))
            assert torch.equal(pool.steps[blocks, :, :, places], whole.steps[row, ..., : len(slots)].permute(2, 0, 1))
    exact_codes = served.codes()
    monkeypatch.setattr(Paged, "decoded", lambda *given: pytest.fail("decoded"))
    random = torch.Generator().manual_seed(heads)
    query = torch.randn(len(LENGTHS), heads, 1, 64, generator=random).to(device, dtype)
    mask = torch.rand(len(LENGTHS), 1, 1, max(LENGTHS), generator=random).to(device) < 0.7
    spec, numbers = KINDS[0]
    result = served.pool.attention(query[:, :, 0], spec, served.table.long(), served.lengths, **numbers)
    assert_close(result[:, :, None], expected(query, exact_codes, spec, numbers, served.seen()), dtype)
    assert (result[1] == 0).all()
    for spec, numbers in KINDS:
        moves = isinstance(spec, Exaq) and (heads, bits, dtype) == (8, 4, torch.bfloat16)
        result = served.pool.attention(
            query, spec, served.table, served.lengths, mask, max_seq_len=max(LENGTHS), **numbers
        )
        assert_close(result, expected(query, exact_codes, spec, numbers, served.seen() & mask), dtype, moves)
    floating = torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill(~mask, -math.inf)
    hidden = served.pool.attention(
        query, spec, served.table, served.lengths, floating, max_seq_len=max(LENGTHS), **numbers
    )
    assert torch.equal(hidden, result)  # a floating mask that only hides is a boolean one
    assert set(kernels) == {"decode_single" if heads == KEY_HEADS else "decode_split"}


@pytest.mark.parametrize("heads", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_wrong_tables_and_lengths_give_nan(heads: int, device: torch.device) -> None:
    served = Served(8, 16, device)
    query = torch.ones(len(LENGTHS), heads, 64, device=device)
    table, lengths = served.table.clone(), served.lengths.clone()
    table[0, 2], table[4, 3], table[5, 0] = -1, served.pool.num_blocks, 1 << 30  # the spare page is none of the pool
    table[3, 1] = -1  # of which the sequence has no token
    lengths[2], lengths[5] = -1, served.table.shape[1] * 16 + 1
    for spec, numbers in KINDS:
        exact = served.pool.attention(query, spec, served.table, served.lengths, **numbers)
        result = served.pool.attention(query, spec, table, served.lengths, **numbers)
        assert result[[0, 4, 5]].isnan().all()
        assert torch.equal(result[1:4], exact[1:4])
        result = served.pool.attention(query, spec, served.table, lengths, **numbers)
        assert result[[2, 5]].isnan().all()
        assert torch.equal(result[[0, 1, 3, 4]], exact[[0, 1, 3, 4]])
    short = served.pool.attention(query, Exact(), served.table, served.lengths, max_seq_len=60)
    assert short[4].isnan().all()
    assert not short[:4].isnan().any()


def test_wrong_slots_make_a_pool_unsound(device: torch.device) -> None:
    served = Served(8, 16, device)
    query, short = torch.ones(2, 2, 64, device=device), (served.table[2:4], served.lengths[2:4])
    tokens = [torch.ones(2, KEY_HEADS, n, device=device) for n in (64, 48)]
    served.pool.reshape_and_cache(*tokens, torch.tensor([-1, -1], device=device))
    assert not served.pool.attention(query, Exact(), *short).isnan().any()
    for wrong in ([served.pool.num_blocks * 16, 0], [3, 3], [-2, 0]):
        pool = copy.deepcopy(served.pool)
        pool.reshape_and_cache(*tokens, torch.tensor(wrong, device=device))
        assert pool.attention(query, Exact(), *short).isnan().all()
        with pytest.raises(ValueError, match="slots that are outside the pool or repeated"):
            pool.gather(served.table.clamp(min=0), served.lengths)


def test_what_kernels_do_not_take_is_gathered_and_checked(device: torch.device) -> None:
    served = Served(4, 16, device)
    wide = Served(8, 16, device, channels=300)
    bias = torch.full((1, max(LENGTHS)), 1e-6, device=device)  # of 0 everywhere, a kernel would take it
    many = torch.ones(len(LENGTHS), 2, 20, 64, device=device)
    spec, numbers = WEIGHTS[0]
    for pool, query, mask in (
        (served, many, None),
        (served, many[:, :, :1], bias),
        (wide, torch.ones(len(LENGTHS), 2, 1, 300, device=device), None),
    ):
        result = pool.pool.attention(query, spec, pool.table, pool.lengths, mask, **numbers)
        exact = expected(query, pool.codes(), spec, numbers, pool.seen())
        # Interpreted, a native kernel reads wide codes, with 16 bits of a query.
        torch.testing.assert_close(result.double(), exact, rtol=1e-2, atol=1e-3)
        with pytest.raises(ValueError, match="pages in block_tables must be 0 to"):
            pool.pool.attention(query, spec, pool.table - 9, pool.lengths, mask, **numbers)


def test_tables_and_slots_on_the_cpu_are_looked_at(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(8, 16, device)
    query = torch.ones(len(LENGTHS), 2, 64, device=device)
    spec, numbers = WEIGHTS[1]
    exact = served.pool.attention(query, spec, served.table, served.lengths, **numbers)
    for module in ("over_codes", "paged"):  # in the interpreter what is on the CPU counts as on a card
        monkeypatch.setattr(f"softmaxkit.fused_attention.{module}.are_read_by_kernel", lambda numbers: False)
    table, lengths = served.table.cpu(), served.lengths.cpu()
    assert torch.equal(served.pool.attention(query, spec, table, lengths, **numbers), exact)
    with pytest.raises(ValueError, match="pages in block_tables must be 0 to"):
        served.pool.attention(query, spec, table - 9, lengths, **numbers)
    with pytest.raises(ValueError, match=r"lengths must be 0 to 60, .* and max_seq_len"):
        served.pool.attention(query, spec, table, lengths, max_seq_len=60, **numbers)
    with pytest.raises(ValueError, match="slot 3 is in slot_mapping more than once"):
        served.pool.reshape_and_cache(
            *(torch.ones(2, KEY_HEADS, n, device=device) for n in (64, 48)), torch.tensor([3, 3])
        )


@pytest.mark.parametrize("bits", [pytest.param(4, marks=pytest.mark.slow), 8])
def test_few_first_keys_set_the_frame_together(bits: int, device: torch.device, kernels: list[str]) -> None:
    """One key, an attention sink, and then more."""
    query, key, value = (x.detach() for x in Case(batch=1, heads=2, queries=1, keys=90, channels=64).tensors(device))
    key[..., 3] *= 40.0
    query[..., 3] /= 40.0
    key[:, :, 0] = 0.3
    key[:, :, 0, 7] = 30.0
    cache = KeyValueCache(key[:, :, :1], value[:, :, :1], bits)
    pool = PagedKeyValueCache(7, 16, KEY_HEADS, 64, value.shape[3], bits, device=device)
    slots = torch.randperm(96, generator=torch.Generator().manual_seed(0))[:90].to(device)
    table, length = torch.arange(6, device=device)[None], torch.tensor([96], dtype=torch.int32, device=device)
    for first, last in ((0, 1), (1, 2), (2, 63), (63, 80), (80, 90)):
        if first:
            cache.append(key[:, :, first:last], value[:, :, first:last])
        pool.reshape_and_cache(*(x[0, :, first:last].transpose(0, 1) for x in (key, value)), slots[first:last])
        kernels.clear()
        for spec, numbers in METHODS[: 1 + (last == 90)]:
            exact = expected(query, cache.codes, spec, numbers, None)
            assert_close(cache.attention(query, spec, **numbers), exact, torch.float32)
            seen = torch.zeros(96, dtype=torch.bool, device=device).index_fill_(0, slots[:last], True)
            result = pool.attention(query, spec, table, length, seen[None, None, None], **numbers)
            assert_close(result, exact, torch.float32)
        assert len(kernels) == 2 * (1 + (last == 90))
    assert cache.codes[0].factor is not None
    assert float(cache.codes[0].factor[..., 7].max()) == 1.0
