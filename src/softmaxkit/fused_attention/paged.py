"""Paged key-value cache in 8 or 4 bits: a pool of pages shared by many sequences, as in serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from softmaxkit.fused_attention.block_tables import checked_pages, unchecked_pages
from softmaxkit.fused_attention.over_codes import (
    are_read_by_kernel,
    attention_over_codes,
    by_codes,
    check_queries,
    on_device,
)
from softmaxkit.fused_attention.pool import check_encodable, empty, heads_first, slots_to_write
from softmaxkit.fused_attention.pool_checks import (
    INTEGERS,
    check_blocks,
    check_integers,
    check_samples,
    check_sizes,
    check_slots,
    check_written,
)
from softmaxkit.fused_attention.pool_keys import PoolKeys
from softmaxkit.kernels.attention import (
    check_mask_device,
    check_optional_tensors,
    check_shapes,
    check_tensors,
    check_whole_numbers,
)
from softmaxkit.kernels.codes import Cached, ordinary
from softmaxkit.kernels.encode import encode_into_slots
from softmaxkit.methods.base.spec import Spec, check_spec


class PagedKeyValueCache:
    """A pool of pages for keys and values in 8 or 4 bits, with vLLM's names and shapes.

    As with vLLM, the caller keeps track of free pages and of the pages of each sequence. The slot of a token is its
    page times `block_size` plus its position in the page. Sequences may share pages, e.g. those of a common prefix.
    Threads must take turns to write: the first keys of all decide how later ones are encoded.

    The centre of 4-bit keys and the factors of outlier channels, as in `KeyValueCache`, are per head and channel and
    fixed for the whole pool, because pages are shared and reused and their codes never change. They are computed from
    `sample_keys`, or else from the first 64 keys written, or more if more come at once; fewer are kept as they came,
    and encoded anew with every write. Any keys will do; representative ones give finer steps, and a warning says if
    later keys have other outlier channels (`softmaxkit.fused_attention.watch.Watch`).

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
        TypeError: a size is not an integer, or the dtype is not floating; sample keys as in `reshape_and_cache`.

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
        value_head_size = head_size if value_head_size is None else value_head_size
        sizes = {
            "num_blocks": num_blocks,
            "block_size": block_size,
            "num_kv_heads": num_kv_heads,
            "head_size": head_size,
            "value_head_size": value_head_size,
        }
        check_sizes(sizes, bits, dtype)
        self.dtype = dtype
        self._num_blocks = num_blocks
        with torch.inference_mode(False):
            # One extra page receives the tokens that a GPU skips.
            keys, self._values = (
                empty(num_blocks + 1, block_size, num_kv_heads, channels, bits, torch.device(device))
                for channels in (head_size, value_head_size)
            )
            self._is_sound = torch.ones((), dtype=torch.bool, device=device)
        if sample_keys is not None:
            check_samples(sample_keys, keys, dtype)
        self._pool_keys = PoolKeys(keys, sample_keys)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Restore a copy or an unpickled pool, as `Cached` does."""
        self.__dict__.update(state, _is_sound=ordinary(state["_is_sound"]))

    @property
    def _keys(self) -> Cached:
        return self._pool_keys.held

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

        On a GPU, writes wait for it until 64 keys have been written, unless there are `sample_keys`, and then one in 64
        does, to look at the latest keys; keys and values that are not finite give NaN to every query that attends to
        them.

        Args:
            key: in the pool's dtype, (tokens, num_kv_heads, head_size).
            value: in the pool's dtype, (tokens, num_kv_heads, value_head_size).
            slot_mapping: int64, (tokens,); a token with slot -1, such as padding, is skipped.

        Raises:
            ValueError: shapes do not fit; slots on the CPU are outside the pool or repeated; in a pool on the CPU, NaN
                or infinity. Nothing is written.
            TypeError: another dtype or device. Nothing is written.
        """
        check_written(key, value, slot_mapping, (self._keys, self._values), self.dtype)
        room = self.num_blocks * self.block_size
        is_checked = not are_read_by_kernel(slot_mapping)
        if is_checked:
            check_slots(slot_mapping, room)
        if is_checked or not self._pool_keys.is_framed:
            is_taken = slot_mapping >= 0
            if not bool(is_taken.all()):
                key, value, slot_mapping = key[is_taken], value[is_taken], slot_mapping[is_taken]
        if not slot_mapping.numel():
            return
        slots, are_sound = on_device(slot_mapping, self.device), None
        if not is_checked:
            slots, are_sound = slots_to_write(slots, room)
        values = heads_first(value)
        check_encodable("value", values, self._values)
        self._pool_keys.write(key, slots)
        encode_into_slots(self._values, slots, values)
        if are_sound is not None:
            self._is_sound.logical_and_(are_sound)
        self._pool_keys.look(slots.numel())

    def copy_blocks(self, block_mapping: Tensor) -> None:
        """Copy pages, e.g. when a sequence diverges from a page that it shared.

        Args:
            block_mapping: int32 or int64, (pairs, 2): source and target page, all copied at once. It is checked, which
                waits for a GPU that holds it.

        Raises:
            ValueError: another shape, pages outside the pool, or a repeated target; nothing is copied.
            TypeError: another dtype or device.
        """
        check_integers("block_mapping", block_mapping, INTEGERS, self.device)
        if block_mapping.ndim != 2 or block_mapping.shape[1] != 2:
            raise ValueError(f"block_mapping must be (pairs, 2), got {tuple(block_mapping.shape)}")
        check_blocks("block_mapping", block_mapping, self.num_blocks)
        sources, targets = block_mapping.to(self.device, torch.int64).unbind(1)
        if targets.unique().numel() < targets.numel():
            raise ValueError("block_mapping has the same target page more than once")
        for pool in (self._keys, self._values):
            pool.codes[targets] = pool.codes[sources]
            pool.steps[targets] = pool.steps[sources]
        self._pool_keys.copied(sources, targets)

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
        lengths, pages = checked_pages((self._keys, self._values), self._is_sound, block_tables, seq_lens)
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
        mode: str = "float",
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
            mode: as in `KeyValueCache.attention`.
            parameters: as in `softmaxkit.attention`.

        Returns:
            The shape of the queries, with the channels of the values.

        Raises:
            ValueError, TypeError: as in `softmaxkit.attention`; tables on the CPU that point outside the pool or have
                fewer pages than the lengths require; another dtype or device.
        """
        check_tensors(query=query, block_tables=block_tables, seq_lens=seq_lens)
        check_optional_tensors(attn_mask=attn_mask)
        check_queries(query, self.dtype, self.device, "pool")
        if max_seq_len is not None:
            check_whole_numbers(max_seq_len=max_seq_len)
        if query.ndim == 3:
            one = self.attention(
                query[:, :, None], spec, block_tables, seq_lens, attn_mask, scale, max_seq_len, mode, **parameters
            )
            return one[:, :, 0]
        check_spec(spec)
        spec.require(parameters, self.attention)
        pool = self._keys, self._values
        # Initial parameters of a method depend on the longest sequence, which the host does not know.
        if (
            are_read_by_kernel(block_tables)
            and are_read_by_kernel(seq_lens)
            and spec.start(1).keys() <= parameters.keys()
        ):
            lengths, (keys, values) = unchecked_pages(
                pool, self._is_sound, block_tables, seq_lens, attn_mask, max_seq_len
            )
            check_shapes(query, keys, values)
            check_mask_device("attn_mask", attn_mask, query.device)
            result = by_codes(query, keys, values, spec, attn_mask, scale, lengths, mode, parameters, only_on_gpu=True)
            if result is not None:
                return result
        lengths, (keys, values) = checked_pages(pool, self._is_sound, block_tables, seq_lens, max_seq_len)
        return attention_over_codes(query, keys, values, self.dtype, spec, attn_mask, scale, lengths, mode, parameters)
