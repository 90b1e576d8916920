"""Paged key-value cache in 8 or 4 bits: a pool of pages shared by many sequences, as in serving."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from softmaxkit.fused_attention.over_codes import (
    are_read_by_kernel,
    attention_over_codes,
    by_codes,
    check_range,
    checked_lengths,
)
from softmaxkit.fused_attention.pool import by_head, check_slots, empty, encoded, slots_to_write
from softmaxkit.kernels.attention import check_shapes
from softmaxkit.kernels.codes import BITS, Cached, Paged, frame
from softmaxkit.methods.base.spec import Spec, check_spec

TOKENS_TOGETHER = 16
"""A page holds a multiple of this many tokens, whose scores a kernel computes together."""
INTEGERS = (torch.int32, torch.int64)


class PagedKeyValueCache:
    """A pool of pages for keys and values in 8 or 4 bits, with vLLM's names and shapes.

    As with vLLM, the caller keeps track of free pages and of the pages of each sequence. The slot of a token is its
    page times `block_size` plus its position in the page. Sequences may share pages, e.g. those of a common prefix.

    The centre of 4-bit keys and the factors of outlier channels, as in `KeyValueCache`, are per head and channel and
    fixed for the whole pool, because pages are shared and reused and their codes never change. They are computed from
    `sample_keys`, or else from the keys of the first write. Any keys will do; representative ones give finer steps.

    Slots, tables and lengths may be on the pool's device or on the CPU. On the CPU they are checked at once, and
    invalid ones raise an error. Checking them on a GPU would wait for all earlier work, so the host does not: a
    sequence whose table or length is invalid gets NaN, and after a write to slots that are outside the pool or
    repeated, every result is NaN. Nothing outside the pool is read or written. Pass them on the CPU to get the error.

    Args:
        num_blocks: number of pages.
        block_size: tokens per page, a multiple of 16.
        num_kv_heads: heads of keys and values.
        head_size: channels of keys.
        value_head_size: channels of values; as many as keys if None.
        bits: 8 or 4, as in `KeyValueCache`.
        dtype: floating dtype of keys, values and queries.
        sample_keys: representative keys, (tokens, num_kv_heads, head_size), in that dtype, on the device.
        device: device of the pool: "cpu", or "cuda", where the GPU kernels read it.

    Raises:
        ValueError: a size below 1, another number of bits; sample keys as in `reshape_and_cache`.
        TypeError: the dtype is not floating; sample keys as in `reshape_and_cache`.

    Example:
        >>> cache = softmaxkit.PagedKeyValueCache(num_blocks=1024, block_size=16, num_kv_heads=8, head_size=128)
        >>> cache.reshape_and_cache(key, value, slot_mapping)
        >>> cache.attention(query, softmaxkit.Exaq(bits=2), block_tables, seq_lens, clip=-5.0)

    Source: PagedAttention, arXiv 2309.06180, section 4.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_size: int,
        value_head_size: int | None = None,
        bits: int = 8,
        dtype: torch.dtype = torch.float32,
        sample_keys: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        sizes = (num_blocks, num_kv_heads, head_size, head_size if value_head_size is None else value_head_size)
        if min(sizes) < 1:
            raise ValueError(f"numbers of blocks, heads and channels must be 1 or more, got {sizes}")
        if block_size < 1 or block_size % TOKENS_TOGETHER:
            raise ValueError(f"block_size must be a multiple of {TOKENS_TOGETHER}, got {block_size}")
        if bits not in BITS:
            raise ValueError(f"bits must be {' or '.join(map(str, BITS))}, got {bits}")
        if not dtype.is_floating_point:
            raise TypeError(f"dtype must be floating, got {dtype}")
        self.dtype = dtype
        self._num_blocks = num_blocks
        with torch.inference_mode(False):
            # One extra page receives the tokens that a GPU skips.
            self._keys, self._values = (
                empty(num_blocks + 1, block_size, num_kv_heads, channels, bits, torch.device(device))
                for channels in sizes[2:]
            )
            self._is_sound = torch.ones((), dtype=torch.bool, device=device)
        self._is_framed = False
        if sample_keys is not None:
            self._check_tokens("sample_keys", sample_keys, self._keys)
            self._check_finite("sample_keys", sample_keys)
            if not sample_keys.shape[0]:
                raise ValueError(
                    "sample_keys must have at least one token; omit them to use the keys of the first write"
                )
            self._keys, self._is_framed = self._framed(sample_keys), True

    @property
    def num_blocks(self) -> int:
        """Number of pages."""
        return self._num_blocks

    @property
    def device(self) -> torch.device:
        """Device of the pool."""
        return self._keys.device

    @property
    def block_size(self) -> int:
        """Tokens per page."""
        return self._keys.codes.shape[2]

    @property
    def bits(self) -> int:
        """Bits per code."""
        return self._keys.bits

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and steps of all pages."""
        every = self._keys.nbytes + self._values.nbytes
        return every // (self._num_blocks + 1) * self._num_blocks

    def reshape_and_cache(self, key: Tensor, value: Tensor, slot_mapping: Tensor) -> None:
        """Quantise tokens and write them into their slots.

        On a GPU only the first write waits for it, and only without `sample_keys`; keys and values that are not finite
        give NaN to every query that attends to them.

        Args:
            key: in the pool's dtype, (tokens, num_kv_heads, head_size).
            value: in the pool's dtype, (tokens, num_kv_heads, value_head_size).
            slot_mapping: int64, (tokens,); a token with slot -1, such as padding, is skipped.

        Raises:
            ValueError: shapes do not fit; slots on the CPU are outside the pool or repeated; in a pool on the CPU, NaN
                or infinity. Nothing is written.
            TypeError: another dtype or device. Nothing is written.
        """
        self._check_tokens("key", key, self._keys)
        self._check_tokens("value", value, self._values)
        self._check_integers("slot_mapping", slot_mapping, (torch.int64,))
        if slot_mapping.shape != key.shape[:1] or key.shape[:1] != value.shape[:1]:
            raise ValueError(
                f"key, value and slot_mapping must have as many tokens, got {tuple(key.shape[:1])}, "
                f"{tuple(value.shape[:1])} and {tuple(slot_mapping.shape)}"
            )
        is_checked = not are_read_by_kernel(slot_mapping)
        if is_checked:
            check_slots(slot_mapping, self.num_blocks * self.block_size)
        if is_checked or not self._is_framed:
            is_taken = slot_mapping >= 0
            if not bool(is_taken.all()):
                key, value, slot_mapping = key[is_taken], value[is_taken], slot_mapping[is_taken]
        if not slot_mapping.numel():
            return
        keys = self._keys if self._is_framed else self._framed(key)
        written = encoded("key", key, keys), encoded("value", value, self._values)
        self._keys, self._is_framed = keys, True
        slots = slot_mapping.to(self.device, non_blocking=True)
        if not is_checked:
            slots, are_sound = slots_to_write(slots, self.num_blocks * self.block_size)
            self._is_sound.logical_and_(are_sound)
        blocks, places = slots // self.block_size, slots % self.block_size
        for codes, pool in zip(written, (self._keys, self._values), strict=True):
            pool.codes[blocks, :, places] = codes.codes[0].transpose(0, 1)
            pool.steps[blocks, :, :, places] = codes.steps[0].permute(2, 0, 1)

    def copy_blocks(self, block_mapping: Tensor) -> None:
        """Copy pages, e.g. when a sequence diverges from a page that it shared.

        Args:
            block_mapping: int32 or int64, (pairs, 2): source and target page, all copied at once. It is checked, which
                waits for a GPU that holds it.

        Raises:
            ValueError: another shape, pages outside the pool, or a repeated target; nothing is copied.
            TypeError: another dtype or device.
        """
        self._check_integers("block_mapping", block_mapping, INTEGERS)
        if block_mapping.ndim != 2 or block_mapping.shape[1] != 2:
            raise ValueError(f"block_mapping must be (pairs, 2), got {tuple(block_mapping.shape)}")
        self._check_blocks("block_mapping", block_mapping)
        sources, targets = block_mapping.to(self.device, torch.int64).unbind(1)
        if targets.unique().numel() < targets.numel():
            raise ValueError("block_mapping has the same target page more than once")
        for pool in (self._keys, self._values):
            pool.codes[targets] = pool.codes[sources]
            pool.steps[targets] = pool.steps[sources]

    def gather(self, block_tables: Tensor, seq_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the dequantised keys and values of sequences; waits for a GPU.

        Args:
            block_tables: as in `attention`.
            seq_lens: as in `attention`.

        Returns:
            (sequences, num_kv_heads, tokens of the longest, channels) each, in the pool's dtype; 0 beyond the length of
            a sequence.

        Raises:
            ValueError, TypeError: as in `attention`.
        """
        lengths, pages = self._look_up(block_tables, seq_lens)
        held = [x.decoded(self.dtype) for x in pages]
        hidden = torch.arange(pages[0].tokens, device=self.device) >= lengths[:, None]
        keys, values = (x.masked_fill(hidden[:, None, :, None], 0.0) for x in held)
        return keys, values

    def attention(
        self,
        query: Tensor,
        spec: Spec,
        block_tables: Tensor,
        seq_lens: Tensor,
        attn_mask: Tensor | None = None,
        scale: float | None = None,
        max_seq_len: int | None = None,
        **parameters: Any,
    ) -> Tensor:
        """Compute attention of each sequence's queries to its tokens, as `KeyValueCache.attention` does.

        Args:
            query: in the pool's dtype, (sequences, heads, head_size) with one query per sequence, or (sequences, heads,
                queries, head_size), which attend to all tokens that the mask does not hide.
            spec: as in `softmaxkit.attention`.
            block_tables: int32 or int64, (sequences, pages): the pages of each sequence, in order; entries beyond those
                that its length requires are ignored.
            seq_lens: integers, (sequences,): tokens of each sequence; 0 gives zeros.
            attn_mask: as in `softmaxkit.attention`, for the tokens of the longest sequence; for `max_seq_len` tokens if
                that is passed and the lengths are on a GPU.
            scale: as in `softmaxkit.attention`.
            max_seq_len: upper bound of the lengths. With lengths on a GPU it limits the memory that is reserved; None
                reserves for as many tokens as the tables have room for.
            parameters: as in `softmaxkit.attention`.

        Returns:
            The shape of the queries, with the channels of the values.

        Raises:
            ValueError, TypeError: as in `softmaxkit.attention`; tables on the CPU that point outside the pool or have
                fewer pages than the lengths require; another dtype or device.
        """
        if query.dtype != self.dtype or query.device != self.device:
            raise TypeError(
                f"this pool requires queries in {self.dtype} on {self.device}, got {query.dtype} on {query.device}"
            )
        if query.ndim == 3:
            one = self.attention(
                query[:, :, None], spec, block_tables, seq_lens, attn_mask, scale, max_seq_len, **parameters
            )
            return one[:, :, 0]
        check_spec(spec)
        spec.require(parameters)
        # Initial parameters of a method depend on the longest sequence, which the host does not know.
        if (
            are_read_by_kernel(block_tables)
            and are_read_by_kernel(seq_lens)
            and spec.start(1).keys() <= parameters.keys()
        ):
            lengths, (keys, values) = self._unchecked(block_tables, seq_lens, attn_mask, max_seq_len)
            check_shapes(query, keys, values)
            result = by_codes(query, keys, values, spec, attn_mask, scale, lengths, parameters, only_on_gpu=True)
            if result is not None:
                return result
        lengths, (keys, values) = self._look_up(block_tables, seq_lens, max_seq_len)
        return attention_over_codes(query, keys, values, self.dtype, spec, attn_mask, scale, lengths, parameters)

    def _unchecked(
        self, block_tables: Tensor, seq_lens: Tensor, mask: Tensor | None, max_seq_len: int | None
    ) -> tuple[Tensor, tuple[Paged, Paged]]:
        """Return lengths and pages for GPU kernels, which check them; lengths of -1 after a write to invalid slots."""
        self._check_types(block_tables, seq_lens)
        room = block_tables.shape[1] * self.block_size
        tokens = room if max_seq_len is None else min(max_seq_len, room)
        if mask is not None and mask.ndim and mask.shape[-1] > 1:
            tokens = min(tokens, mask.shape[-1]) if max_seq_len is None else tokens
        return torch.where(self._is_sound, seq_lens, -1), self._pages(block_tables, tokens)

    def _pages(self, table: Tensor, tokens: int) -> tuple[Paged, Paged]:
        keys, values = (
            Paged(
                x.codes[: self.num_blocks], x.steps[: self.num_blocks], x.channels, x.centre, x.factor,
                table=table, tokens=tokens,
            )
            for x in (self._keys, self._values)
        )  # fmt: skip
        return keys, values

    def _check_types(self, block_tables: Tensor, seq_lens: Tensor) -> None:
        self._check_integers("block_tables", block_tables, INTEGERS)
        if block_tables.ndim != 2:
            raise ValueError(f"block_tables must be (sequences, pages), got {tuple(block_tables.shape)}")
        self._check_integers("seq_lens", seq_lens, INTEGERS)
        checked_lengths(seq_lens, block_tables.shape[0])

    def _look_up(
        self, block_tables: Tensor, seq_lens: Tensor, max_seq_len: int | None = None
    ) -> tuple[Tensor, tuple[Paged, Paged]]:
        """Return checked lengths, int64, and pages; arguments as in `attention`."""
        self._check_types(block_tables, seq_lens)
        if not self._is_sound:
            raise ValueError(
                "reshape_and_cache wrote to slots that are outside the pool or repeated; create a new pool, and pass "
                "slot_mapping on the CPU to see which they are"
            )
        sequences, pages = block_tables.shape
        most = pages * self.block_size if max_seq_len is None else min(max_seq_len, pages * self.block_size)
        what = f"the tokens of {pages} pages of {self.block_size}"
        check_range(seq_lens, most, what if max_seq_len is None else f"{what}, and max_seq_len")
        lengths = seq_lens.to(self.device, torch.int64)
        tokens = int(seq_lens.max()) if sequences else 0
        used = -(-tokens // self.block_size)
        table = block_tables[:, :used].to(self.device, torch.int64)
        is_needed = torch.arange(used, device=self.device) * self.block_size < lengths[:, None]
        table = table.masked_fill(~is_needed, 0)
        self._check_blocks("block_tables", table)
        return lengths, self._pages(table, tokens)

    def _framed(self, keys: Tensor) -> Cached:
        """Return the pool of keys with centre and channel factors computed from these keys."""
        with torch.inference_mode(False):
            centre, factor = frame(by_head(keys).clone(), self.bits)
        return replace(self._keys, centre=centre, factor=factor)

    def _check_tokens(self, name: str, tokens: Tensor, pool: Cached) -> None:
        if tokens.dtype != self.dtype or tokens.device != self.device:
            raise TypeError(
                f"this pool requires {name} in {self.dtype} on {self.device}, got {tokens.dtype} on {tokens.device}"
            )
        heads = pool.codes.shape[1]
        if tokens.ndim != 3 or tokens.shape[1:] != (heads, pool.channels):
            raise ValueError(f"{name} must be (tokens, {heads}, {pool.channels}), got {tuple(tokens.shape)}")

    @staticmethod
    def _check_finite(name: str, tokens: Tensor) -> None:
        if not tokens.float().isfinite().all():
            raise ValueError(f"{name} must be finite in float32: codes represent neither NaN nor infinity")

    def _check_blocks(self, name: str, blocks: Tensor) -> None:
        wrong = blocks[(blocks < 0) | (blocks >= self.num_blocks)]
        if wrong.numel():
            raise ValueError(f"pages in {name} must be 0 to {self.num_blocks - 1}, got {int(wrong[0])}")

    def _check_integers(self, name: str, numbers: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
        if numbers.dtype not in dtypes or numbers.device not in (self.device, torch.device("cpu")):
            kinds = " or ".join(map(str, dtypes))
            where = dict.fromkeys((str(self.device), "cpu"))
            raise TypeError(f"{name} must be {kinds} on {' or '.join(where)}, got {numbers.dtype} on {numbers.device}")
