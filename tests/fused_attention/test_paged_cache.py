"""Pages of a pool: results equal those of a cache in one piece, and bad tables and slots write nothing."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from softmaxkit import ConSmax, Exact, Exaq, Index, KeyValueCache, PagedKeyValueCache, Sigmoid, Softermax, Spec
from softmaxkit.kernels import backends, builds
from softmaxkit.kernels.codes import BITS
from softmaxkit.kernels.encode import encode

METHODS: list[tuple[Spec, dict[str, Any]]] = [
    (Exaq(), {"clip": -5.0}),
    (Exaq(bits=4), {"clip": -6.0}),
    (ConSmax(), {"beta": 2.0, "gamma": 1.0}),
    (Exact(), {}),
    (Softermax(), {}),
    (Index(), {}),
    (Exaq(share="head"), {"clip": [-5.0, -4.0, -9.0, -3.0, -6.0, -2.0]}),
    (Sigmoid(), {"bias": -2.0}),
]
LENGTHS = [50, 0, 1, 16, 1100, 33]
"""Ends within a page and at its end, none, and more than one chunk of 1,024."""
HEADS, KEY_HEADS, CHANNELS, VALUES = 6, 2, 80, 48


@pytest.fixture(params=[*builds.NATIVE, "none"])
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "none" and request.param not in builds.supported():
        pytest.skip(f"no {request.param} kernels here")
    monkeypatch.setenv(builds.VARIABLE, request.param)
    backends.reset()
    return request.param


class Served:
    """Sequences of different lengths in a pool, pages in any order, and the same tokens in one piece."""

    def __init__(self, bits: int, block_size: int = 16, lengths: list[int] | None = None, shared: int = 0) -> None:
        random = torch.Generator().manual_seed(bits + block_size)
        self.lengths = torch.tensor(LENGTHS if lengths is None else lengths)
        sequences, longest = len(self.lengths), int(self.lengths.max())
        pages = -(-self.lengths // block_size)
        free = torch.randperm(int(pages.sum()) + 5, generator=random)
        self.tables = torch.full((sequences, int(pages.max()) + 2), -7, dtype=torch.int32)  # what is beyond is not read
        self.keys, self.values = (
            torch.randn(sequences, KEY_HEADS, longest, n, generator=random) for n in (CHANNELS, VALUES)
        )
        self.keys += torch.randn(1, KEY_HEADS, 1, CHANNELS, generator=random)
        self.keys[:, 1, :, 5] *= 50.0
        self.pool = PagedKeyValueCache(len(free), block_size, KEY_HEADS, CHANNELS, VALUES, bits)
        for row, length in enumerate(self.lengths.tolist()):
            used, free = free[: pages[row]], free[pages[row] :]
            first = 0
            if row and shared and length >= shared:  # pages of the first sequence
                first = shared
                used[: shared // block_size] = self.tables[0, : shared // block_size]
                for tokens in (self.keys, self.values):
                    tokens[row, :, :shared] = tokens[0, :, :shared]
            self.tables[row, : len(used)] = used
            self.write(row, first, length - (length - first) // 3)
        for row, length in enumerate(self.lengths.tolist()):  # and the rest a second time round
            first = shared if row and shared and length >= shared else 0
            self.write(row, length - (length - first) // 3, length)

    def slots(self, row: int, first: int, last: int) -> Tensor:
        places = torch.arange(first, last)
        return self.tables[row].long()[places // self.pool.block_size] * self.pool.block_size + (
            places % self.pool.block_size
        )

    def write(self, row: int, first: int, last: int) -> None:
        key, value = (x[row, :, first:last].transpose(0, 1) for x in (self.keys, self.values))
        self.pool.reshape_and_cache(key, value, self.slots(row, first, last))

    def in_one_piece(self) -> KeyValueCache:
        cache = KeyValueCache(self.keys, self.values, self.pool.bits)
        given = self.pool._keys
        frame = [None if x is None else x.expand(len(self.keys), -1, -1, -1) for x in (given.centre, given.factor)]
        cache._stores[0].held = encode(self.keys, given.bits, *frame)
        return cache

    def query(self, queries: int = 1) -> Tensor:
        random = torch.Generator().manual_seed(queries)
        query = torch.randn(len(self.lengths), HEADS, queries, CHANNELS, generator=random)
        query[..., 5] /= 50.0
        return query


PAGES = [(bits, *sizes) for bits in BITS for sizes in ((16, 0), (48, 0), (16, 32))]
QUICK = [(8, 16, 32), (4, 48, 0)]
"""Both widths and both sizes of pages, of one sequence and of several."""


@pytest.mark.parametrize(
    ("bits", "block_size", "shared"),
    [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in PAGES],
)
def test_pages_give_what_one_piece_gives(bits: int, block_size: int, shared: int, build: str) -> None:
    served = Served(bits, block_size, shared=shared)
    cache = served.in_one_piece()
    for queries in (1, 3, 20):
        query = served.query(queries)
        mask = torch.rand(len(LENGTHS), 1, queries, max(LENGTHS), generator=torch.Generator().manual_seed(1)) < 0.6
        mask[0, ..., :7] = mask[4, ..., :1030] = False  # chunks begin within a page, too
        for spec, numbers in METHODS:
            for given in (None, mask):
                result = served.pool.attention(query, spec, served.tables, served.lengths, given, **numbers)
                assert torch.equal(result, cache.attention(query, spec, given, lengths=served.lengths, **numbers))
                assert result.isfinite().all()
                assert (result[1] == 0).all()
                assert (result[2:] != 0).any()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("bits", BITS)
def test_threads_change_nothing(threads: int, bits: int) -> None:
    served = Served(bits)
    expected = [
        served.in_one_piece().attention(served.query(), *METHODS[k][:1], lengths=served.lengths, **METHODS[k][1])
        for k in (0, 2)
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for (spec, numbers), exact in zip((METHODS[0], METHODS[2]), expected, strict=True):
            result = served.pool.attention(served.query(), spec, served.tables, served.lengths, **numbers)
            assert torch.equal(result, exact)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bits", BITS)
def test_kernels_read_the_codes_in_their_pages(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if backends.native() is None:
        pytest.skip("the native kernels are not built")
    served = Served(bits)

    def forbidden(*given: Any) -> Tensor:
        raise AssertionError("decoded")

    monkeypatch.setattr("softmaxkit.kernels.codes.Paged.decoded", forbidden)
    for spec, numbers in METHODS[:3]:
        served.pool.attention(served.query(), spec, served.tables, served.lengths, **numbers)


def test_one_query_a_sequence_as_vllm_has_it() -> None:
    served = Served(8)
    spec, numbers = METHODS[0]
    result = served.pool.attention(served.query()[:, :, 0], spec, served.tables, served.lengths, **numbers)
    assert torch.equal(
        result, served.pool.attention(served.query(), spec, served.tables, served.lengths, **numbers)[:, :, 0]
    )
    few = served.pool.attention(served.query()[:0], spec, served.tables[:0], served.lengths[:0], **numbers)
    assert few.shape == (0, HEADS, 1, VALUES)
    none = torch.zeros(len(LENGTHS), dtype=torch.int64)
    for spec, numbers in METHODS:
        result = served.pool.attention(served.query(), spec, served.tables, none, **numbers)
        assert result.shape == (len(LENGTHS), HEADS, 1, VALUES)
        assert (result == 0).all()


@pytest.mark.parametrize("bits", BITS)
def test_gather_copies_and_padding(bits: int) -> None:
    served = Served(bits)
    keys, values = served.pool.gather(served.tables, served.lengths)
    cache = served.in_one_piece()
    for row, length in enumerate(LENGTHS):
        assert torch.equal(keys[row, :, :length], cache.keys[row, :, :length])
        assert torch.equal(values[row, :, :length], cache.values[row, :, :length])
        assert not keys[row, :, length:].any()
    spare = next(page for page in range(served.pool.num_blocks) if page not in served.tables)
    own = served.tables.clone()
    own[0, 3] = spare  # the page that token 49 is in
    served.pool.copy_blocks(torch.tensor([[int(served.tables[0, 3]), spare]]))
    assert torch.equal(served.pool.gather(own, served.lengths)[0], keys)
    key, value = torch.full((3, KEY_HEADS, CHANNELS), math.nan), torch.ones(3, KEY_HEADS, VALUES)
    key[1] = 0.5
    served.pool.reshape_and_cache(key, value, torch.tensor([-1, spare * 16 + 1, -1]))
    longer = served.pool.gather(own, served.lengths)
    assert not torch.equal(longer[0][0, :, 49], keys[0, :, 49])
    longer[0][0, :, 49] = keys[0, :, 49]
    assert torch.equal(longer[0], keys)
    assert torch.equal(served.pool.gather(served.tables, served.lengths)[0], keys)


def test_the_centre_of_a_pool_is_set_once() -> None:
    random = torch.Generator().manual_seed(0)
    sample, key = (torch.randn(64, 2, 8, generator=random) + 3 for _ in range(2))
    value = torch.zeros(64, 2, 8)
    slots = torch.arange(64)
    given = PagedKeyValueCache(4, 16, 2, 8, bits=4, sample_keys=sample)
    first = PagedKeyValueCache(4, 16, 2, 8, bits=4)
    first.reshape_and_cache(key[:0], value[:0], slots[:0])  # no tokens have no mean
    for pool, frame in ((given, sample), (first, key)):
        for tokens in (key, sample * 2):
            pool.reshape_and_cache(tokens, value, slots)
            centre = frame.mean(0)[None, :, None]
            expected = encode(tokens.transpose(0, 1)[None], 4, centre).decoded(torch.float32)
            keys, _ = pool.gather(torch.tensor([[0, 1, 2, 3]]), torch.tensor([64]))
            assert torch.allclose(keys, expected, atol=1e-5)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("inference", [False, True])
def test_a_pool_is_copied_and_saved(bits: int, inference: bool) -> None:
    served = Served(bits)
    exact = served.pool.gather(served.tables, served.lengths)
    file = io.BytesIO()
    torch.save(served.pool, file)
    file.seek(0)
    with torch.inference_mode(inference):
        copies = copy.deepcopy(served.pool), torch.load(file, weights_only=False)
    served.pool._keys.codes.zero_()
    for other in copies:
        assert torch.equal(other.gather(served.tables, served.lengths)[0], exact[0])
        other.copy_blocks(torch.tensor([[1, 0]]))
        key, value = (torch.ones(1, KEY_HEADS, n) for n in (CHANNELS, VALUES))
        other.reshape_and_cache(key, value, torch.tensor([0]))
        gathered = other.gather(torch.tensor([[0], [1]]), torch.tensor([16, 16]))
        assert torch.equal(gathered[0][0, :, 1:], gathered[0][1, :, 1:])


def test_bfloat16_and_inference_mode() -> None:
    tokens = torch.randn(20, 2, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.inference_mode():
        pool = PagedKeyValueCache(3, 16, 2, 8, bits=4, dtype=torch.bfloat16)
        pool.reshape_and_cache(tokens[:10], tokens[:10], torch.arange(10))
    pool.reshape_and_cache(tokens[10:], tokens[10:], torch.arange(10, 20))
    result = pool.attention(tokens[:1], Exact(), torch.tensor([[0, 1]]), torch.tensor([20]))
    assert result.dtype == torch.bfloat16
    assert pool.nbytes == 3 * 16 * 2 * 2 * (4 + 2)


TABLES = torch.tensor([[2, 1], [0, -1]])
SEQ_LENS = torch.tensor([20, 3])
QUERY = torch.ones(2, 2, 8)
TOKENS = torch.ones(4, 2, 8)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"slot_mapping": torch.tensor([0, 1, 2, 48])}, ValueError, "slots must be 0 to 47, or -1 .* got 48"),
        ({"slot_mapping": torch.tensor([0, 1, 2, -2])}, ValueError, "slots must be 0 to 47, or -1 .* got -2"),
        ({"slot_mapping": torch.tensor([0, 5, 2, 5])}, ValueError, "slot 5 is in slot_mapping more than once"),
        (
            {"slot_mapping": torch.tensor([0, 1, 2])},
            ValueError,
            "key, value and slot_mapping must have as many tokens, got",
        ),
        ({"slot_mapping": torch.arange(4, dtype=torch.int32)}, TypeError, r"slot_mapping must be torch.int64 on cpu"),
        ({"key": TOKENS.double()}, TypeError, "requires key in torch.float32 on cpu, got torch.float64"),
        ({"value": TOKENS.to("meta")}, TypeError, "requires value in torch.float32 on cpu, got torch.float32 on meta"),
        ({"key": TOKENS[:, :1]}, ValueError, r"key must be \(tokens, 2, 8\), got \(4, 1, 8\)"),
        ({"value": TOKENS[:, :, None]}, ValueError, r"value must be \(tokens, 2, 8\), got \(4, 2, 1, 8\)"),
        ({"key": [0]}, TypeError, "key must be a torch tensor, got list"),
        ({"slot_mapping": [0, 1, 2, 3]}, TypeError, "slot_mapping must be a torch tensor, got list"),
        ({"value": TOKENS / 0}, ValueError, "value cannot be written: keys and values must be finite"),
    ],
)
@pytest.mark.parametrize("bits", BITS)
def test_what_cannot_be_written_is_not(change: dict[str, Any], error: type[Exception], message: str, bits: int) -> None:
    pool = PagedKeyValueCache(3, 16, 2, 8, bits=bits)
    before = copy.deepcopy(pool)
    with pytest.raises(error, match=message):
        pool.reshape_and_cache(**{"key": TOKENS, "value": TOKENS, "slot_mapping": torch.arange(4), **change})
    for one, other in ((pool._keys, before._keys), (pool._values, before._values)):
        assert torch.equal(one.codes, other.codes)
        assert torch.equal(one.steps, other.steps)
        assert one.centre is None
        assert not pool._pool_keys.is_framed
    pool.reshape_and_cache(TOKENS, TOKENS, torch.arange(4))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"block_tables": torch.tensor([[2, 3], [0, 0]])}, ValueError, "pages in block_tables must be 0 to 2, got 3"),
        ({"block_tables": torch.tensor([[2, -1], [0, 0]])}, ValueError, "pages in block_tables must be 0 to 2, got -1"),
        ({"block_tables": TABLES.float()}, TypeError, r"block_tables must be torch.int32 or torch.int64 on cpu"),
        ({"block_tables": TABLES[0]}, ValueError, r"block_tables must be \(sequences, pages\), got \(2,\)"),
        ({"block_tables": TABLES[:1]}, ValueError, "lengths must be integers, one for each of 1 sequences"),
        (
            {"seq_lens": torch.tensor([33, 3])},
            ValueError,
            "lengths must be 0 to 32, the tokens of 2 pages of 16, got 3 to 33",
        ),
        (
            {"seq_lens": torch.tensor([20, -1])},
            ValueError,
            "lengths must be 0 to 32, the tokens of 2 pages of 16, got -1",
        ),
        ({"seq_lens": SEQ_LENS.float()}, TypeError, "seq_lens must be torch.int32 or torch.int64 on cpu"),
        ({"query": QUERY.to("meta")}, TypeError, "requires queries in torch.float32 on cpu, got torch.float32 on meta"),
        ({"query": QUERY.bfloat16()}, TypeError, "requires queries in torch.float32 on cpu, got torch.bfloat16"),
        ({"query": QUERY[:1]}, ValueError, "keys must have the batch and channels of the queries"),
        ({"query": torch.ones(2, 3, 8)}, ValueError, "query heads must be a multiple of key heads"),
        ({"query": [0]}, TypeError, "query must be a torch tensor, got list"),
        ({"block_tables": [[2]]}, TypeError, "block_tables must be a torch tensor, got list"),
        ({"seq_lens": [3, 3]}, TypeError, "seq_lens must be a torch tensor, got list"),
    ],
)
def test_tables_that_do_not_fit(change: dict[str, Any], error: type[Exception], message: str) -> None:
    pool = PagedKeyValueCache(3, 16, 2, 8)
    given = {"query": QUERY, "block_tables": TABLES, "seq_lens": SEQ_LENS, **change}
    with pytest.raises(error, match=message):
        pool.attention(spec=Exaq(), clip=-5.0, **given)


def test_pools_and_copies_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="block_size must be a multiple of 16, got 24"):
        PagedKeyValueCache(3, 24, 2, 8)
    with pytest.raises(ValueError, match="bits must be 8 or 4, got 3"):
        PagedKeyValueCache(3, 16, 2, 8, bits=3)
    with pytest.raises(ValueError, match="num_blocks must be 1 or more, got 0"):
        PagedKeyValueCache(0, 16, 2, 8)
    for place, name in enumerate(("num_blocks", "block_size", "num_kv_heads", "head_size", "value_head_size")):
        sizes: list[Any] = [3, 16, 2, 8, 8]
        sizes[place] = float(sizes[place])
        with pytest.raises(TypeError, match=f"{name} must be an integer, got {sizes[place]}"):
            PagedKeyValueCache(*sizes)
    with pytest.raises(ValueError, match=r"bits must be 8 or 4, got 8\.0"):
        PagedKeyValueCache(3, 16, 2, 8, bits=8.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="dtype must be a floating torch dtype, got"):
        PagedKeyValueCache(3, 16, 2, 8, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"sample_keys must be \(tokens, 2, 8\)"):
        PagedKeyValueCache(3, 16, 2, 8, sample_keys=torch.ones(2, 8))
    with pytest.raises(ValueError, match="sample_keys must have at least one token"):
        PagedKeyValueCache(3, 16, 2, 8, sample_keys=torch.ones(0, 2, 8))
    pool = PagedKeyValueCache(3, 16, 2, 8)
    for wrong, message in (
        ([[0, 3]], "pages in block_mapping must be 0 to 2"),
        ([[0, 1], [2, 1]], "the same target page more than once"),
        ([0, 1], r"block_mapping must be \(pairs, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            pool.copy_blocks(torch.tensor(wrong))


def test_a_wrong_page_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(8)
    wrong = served.tables.clone()
    wrong[4, [65, 66]] = served.tables[4, [66, 65]]
    results = [
        served.pool.attention(served.query(), Exaq(), tables, served.lengths, clip=-5.0)
        for tables in (served.tables, wrong)
    ]
    assert torch.equal(results[0][:4], results[1][:4])
    mask = torch.arange(max(LENGTHS)) < 65 * 16 + 3  # pages that change places change nothing but under a mask
    masked = [
        served.pool.attention(served.query(), Exaq(), tables, served.lengths, mask[None, None, None], clip=-5.0)
        for tables in (served.tables, wrong)
    ]
    assert not torch.equal(masked[0][4], masked[1][4])
