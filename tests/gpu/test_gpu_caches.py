"""Caches of codes on a GPU, contiguous and paged: kernels against float64 over the same codes, and invalid tables."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from attention_cases import WEIGHTS, Case, float64_attention
from torch import Tensor

import softmaxkit
from conftest import tiny_model
from softmaxkit import ConSmax, Exact, Exaq, KeyValueCache, PagedKeyValueCache, QuantisedCache, Softermax, Spec
from softmaxkit.kernels import backends, builds
from softmaxkit.kernels.codes import BITS, Cached, Paged, _by_torch, encode

pytest.importorskip("triton")

METHODS: list[tuple[Spec, dict[str, Any]]] = [*WEIGHTS[:3], (Exact(), {}), (Softermax(), {})]
KINDS = [METHODS[0], METHODS[1], METHODS[3]]
"""One method for each kind of weights: exponentials, levels, softmax."""
LENGTHS = [50, 0, 1, 16, 70, 33]
KEY_HEADS = 2
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Of products and sums in float32; in 16 bits weights and results are rounded to 8 or 11."""


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> list[str]:
    """Return the names of the kernels that were launched."""
    from softmaxkit.kernels.triton import decode

    monkeypatch.setattr(decode, "INTERPRETED_PROCESSORS", 1)  # parts that are few, and take the less time
    seen: list[str] = []

    class Watched:  # launched by kernel[grid](...)
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(decode, name)

        def __getitem__(self, grid: Any) -> Any:
            seen.append(self.name)
            return self.kernel[grid]

    for name in ("decode_single", "decode_split"):
        monkeypatch.setattr(decode, name, Watched(name))
    return seen


def expected(
    query: Tensor, codes: tuple[Cached, Cached], spec: Spec, numbers: dict[str, Any], mask: Tensor | None
) -> Tensor:
    keys, values = (x.decoded(torch.float64) for x in codes)
    return float64_attention([query.double(), keys, values], spec, numbers, mask, Case()).detach()


def assert_close(found: Tensor, exact: Tensor, dtype: torch.dtype, moves: bool = False) -> None:
    """Compare whole results, or where scores may cross a level (`moves`), the median row.

    The matrix unit reads keys of 4 bits in bfloat16, which rounds their 12 bits to 8: that moves scores by some 1e-3,
    and with levels one key in a thousand then takes the other of two, which shows in its whole row.
    """
    assert found.dtype == dtype
    difference = found.double() - exact
    rows = (-1, found.shape[-1]) if moves else (1, -1)
    sizes = exact.reshape(rows).norm(dim=-1)
    errors = difference.reshape(rows).norm(dim=-1) / sizes
    error = errors[sizes > 0].median()  # a fully masked row has no size
    assert error < TOLERANCE[dtype], error


def every_way_to_read() -> Iterator[Any]:
    """Yield them; the fast tests have each kernel with words and with bytes, by turns of 8 and of 4 bits."""
    sizes = {"words": (64, 32), "padded words": (24, 40), "bytes": (17, 33)}
    kernels = {"single": (2, 1), "grouped": (8, 1), "queries": (2, 3)}
    quick = {("words", "single", 8), ("words", "grouped", 4), ("words", "queries", 8)}
    quick |= {("bytes", "single", 4), ("bytes", "grouped", 8), ("bytes", "queries", 4)}
    for size, kernel, bits in itertools.product(sizes, kernels, BITS):
        marks = [] if (size, kernel, bits) in quick else pytest.mark.slow
        yield pytest.param(*sizes[size], *kernels[kernel], bits, id=f"{size}-{kernel}-{bits}", marks=marks)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        pytest.param(torch.bfloat16, marks=pytest.mark.slow),
        pytest.param(torch.float16, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("channels", "values", "heads", "queries", "bits"), every_way_to_read())
def test_codes_are_read(
    channels: int, values: int, heads: int, queries: int, bits: int, dtype: torch.dtype, device: torch.device,
    kernels: list[str],
) -> None:  # fmt: skip
    case = Case(batch=1, heads=heads, queries=queries, keys=100, channels=channels, values=values)
    query, key, value = (x.detach() for x in case.tensors(device, dtype))
    key = key + torch.randn(1, KEY_HEADS, 1, channels, generator=torch.Generator().manual_seed(5)).to(key)
    key[..., 3] *= 40.0  # a channel with a factor
    query[..., 3] /= 40.0
    cache = KeyValueCache(key[:, :, :70], value[:, :, :70], bits)
    cache.append(key[:, :, 70:], value[:, :, 70:])
    assert cache.codes[0].factor is not None
    mask = torch.rand(1, 1, queries, 100, generator=torch.Generator().manual_seed(3)).to(device) < 0.7
    for spec, numbers in METHODS:
        for seen in (None, mask) if dtype == torch.float32 and (spec, numbers) in KINDS else (mask,):
            kernels.clear()
            found = cache.attention(query, spec, seen, **numbers)
            assert kernels == ["decode_single" if heads * queries == KEY_HEADS else "decode_split"]
            moves = isinstance(spec, Exaq) and kernels == ["decode_split"] and (bits, dtype) == (4, torch.bfloat16)
            assert_close(found, expected(query, cache.codes, spec, numbers, seen), dtype, moves)


@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_lengths_and_wrong_ones(bits: int, device: torch.device) -> None:
    case = Case(batch=4, queries=1, keys=70, channels=32, values=32)
    query, key, value = (x.detach() for x in case.tensors(device))
    cache = KeyValueCache(key, value, bits)
    lengths = torch.tensor([70, 0, 37, 1], device=device)
    mask = (torch.arange(70, device=device) < lengths[:, None])[:, None, None]
    for spec, numbers in KINDS:
        exact = expected(query, cache.codes, spec, numbers, mask)
        assert_close(cache.attention(query, spec, lengths=lengths, **numbers), exact, torch.float32)
        wrong = cache.attention(query, spec, lengths=torch.tensor([70, -1, 37, 71], device=device), **numbers)
        assert wrong[[1, 3]].isnan().all()
        torch.testing.assert_close(wrong[[0, 2]].double(), exact[[0, 2]], rtol=1e-5, atol=1e-6)


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
    found = served.pool.attention(query[:, :, 0], spec, served.table.long(), served.lengths, **numbers)
    assert_close(found[:, :, None], expected(query, exact_codes, spec, numbers, served.seen()), dtype)
    assert (found[1] == 0).all()
    for spec, numbers in KINDS:
        moves = isinstance(spec, Exaq) and (heads, bits, dtype) == (8, 4, torch.bfloat16)
        found = served.pool.attention(
            query, spec, served.table, served.lengths, mask, max_seq_len=max(LENGTHS), **numbers
        )
        assert_close(found, expected(query, exact_codes, spec, numbers, served.seen() & mask), dtype, moves)
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
        found = served.pool.attention(query, spec, table, served.lengths, **numbers)
        assert found[[0, 4, 5]].isnan().all()
        assert torch.equal(found[1:4], exact[1:4])
        found = served.pool.attention(query, spec, served.table, lengths, **numbers)
        assert found[[2, 5]].isnan().all()
        assert torch.equal(found[[0, 1, 3, 4]], exact[[0, 1, 3, 4]])
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
    bias = torch.zeros(1, max(LENGTHS), device=device)
    many = torch.ones(len(LENGTHS), 2, 20, 64, device=device)
    spec, numbers = WEIGHTS[0]
    for pool, query, mask in (
        (served, many, None),
        (served, many[:, :, :1], bias),
        (wide, torch.ones(len(LENGTHS), 2, 1, 300, device=device), None),
    ):
        found = pool.pool.attention(query, spec, pool.table, pool.lengths, mask, **numbers)
        exact = expected(query, pool.codes(), spec, numbers, pool.seen())
        # Interpreted, a native kernel reads wide codes, with 16 bits of a query.
        torch.testing.assert_close(found.double(), exact, rtol=1e-2, atol=1e-3)
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


@pytest.mark.parametrize("bits", BITS)
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
            found = pool.attention(query, spec, table, length, seen[None, None, None], **numbers)
            assert_close(found, exact, torch.float32)
        assert len(kernels) == 2 * (1 + (last == 90))
    assert cache.codes[0].factor is not None
    assert float(cache.codes[0].factor[..., 7].max()) == 1.0


@pytest.mark.parametrize("heads", [2, 4])
def test_small_weights_in_float16_are_kept(heads: int, device: torch.device) -> None:
    case = Case(batch=1, heads=heads, queries=1, keys=200, channels=32, values=32)
    query, key, value = (x.detach() for x in case.tensors(device, torch.float16))
    for bits in BITS:
        cache = KeyValueCache(key, value, bits)
        spec, numbers = ConSmax(), {"beta": 12.0, "gamma": 1.0}  # weights of 1e-5, times steps of 1e-2
        found = cache.attention(query, spec, **numbers)
        assert_close(found, expected(query, cache.codes, spec, numbers, None), torch.float16)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_has_a_step_of_nan(bits: int, dtype: torch.dtype) -> None:
    tokens = torch.randn(1, 2, 6, 40).to(dtype)
    plain = _by_torch(tokens, bits, None, None)
    tokens[0, 0, 1, 3], tokens[0, 1, 2, 35], tokens[0, 0, 4] = math.nan, math.inf, -math.inf
    marked = _by_torch(tokens, bits, None, None)
    wrong = torch.zeros(1, 2, 6, dtype=torch.bool)
    wrong[0, 0, 1] = wrong[0, 1, 2] = wrong[0, 0, 4] = True
    assert torch.equal(marked.steps.isnan().any(2), wrong)
    assert torch.equal(marked.codes[~wrong], plain.codes[~wrong])
    assert torch.equal(marked.decoded(torch.float32).isnan().any(-1), wrong)


def every_model_with_every_method() -> Iterator[Any]:
    """Yield them; the fast tests have each method in one kind of model, and both widths of codes."""
    quick = {("llama", "exact", 8), ("llama", "exaq", 4), ("llama", "consmax", 8)}
    for kind, spec, bits in itertools.product(("gpt2", "llama"), (Exact(), Exaq(bits=3), ConSmax()), BITS):
        name = (kind, spec.method, bits)
        yield pytest.param(
            kind, spec, bits, id="-".join(map(str, name)), marks=[] if name in quick else pytest.mark.slow
        )


@pytest.mark.parametrize(("kind", "spec", "bits"), every_model_with_every_method())
def test_models_generate_over_the_codes(
    spec: Spec, kind: str, bits: int, device: torch.device, kernels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"clip": -6.0} if isinstance(spec, Exaq) else {}
    model = softmaxkit.apply(tiny_model(kind).to(device), spec, **numbers)
    tokens = (torch.arange(24).reshape(2, 12) * 7 % 100).to(device)
    padding = torch.ones(2, 12, dtype=torch.long, device=device)
    padding[0, :3] = 0
    logits = []
    for way in ("kernels", "torch"):
        if way == "torch":
            monkeypatch.setenv(builds.VARIABLE, "none")
            backends.reset()
        cache = QuantisedCache(model.config, bits)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model(tokens[:, :10], attention_mask=padding[:, :10], past_key_values=cache)
            kernels.clear()  # the prompt itself is read as it comes
            cache.batch_select_indices(torch.tensor([1, 0]))  # on the CPU, as callers have it
            steps = [
                model(
                    tokens.flip(0)[:, at : at + 1], attention_mask=padding.flip(0)[:, : at + 1], past_key_values=cache
                ).logits
                for at in (10, 11)
            ]
        single = "decode_single" if kind == "gpt2" else "decode_split"
        assert kernels == ([single] * 4 if way == "kernels" else [])
        logits.append(torch.cat(steps))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-3 * logits[1].abs().max().item())


def test_dropout_and_gradients_go_past_kernels_over_codes(device: torch.device) -> None:
    from softmaxkit.fused_attention.choice import choose

    query, key, _ = (x.detach() for x in Case(queries=1, keys=20).tensors(device))
    module = Exaq().module(clip=-4.0)
    codes = KeyValueCache(key, key).codes
    assert choose(module, query, *codes)[1].backend == "triton"
    for case, reason in ((query, "dropout"), (query.clone().requires_grad_(), "has no gradient")):
        choice = choose(module, case, *codes, dropout_p=0.0 if case.requires_grad else 0.1)[1]
        assert any(reason in text for text in choice.refusals["triton"])
