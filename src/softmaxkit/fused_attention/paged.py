"""Keys and values of many sequences in pages of a pool, in 8 or 4 bits, as servers hold them."""

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
"""Of which a page has a multiple: so many keys have their scores computed together."""
INTEGERS = (torch.int32, torch.int64)


class PagedKeyValueCache:
    """A pool of pages for keys and values in 8 or 4 bits; names and shapes are vLLM's.

    Which pages are free, and which a sequence has, the caller knows, as with vLLM. A token's slot is its page times
    `block_size` plus its place there. Sequences may share pages, as those with a common prefix do.

    What keys of 4 bits are set about, and the factors of large channels, as in `KeyValueCache`, are fixed for the whole
    pool, for each head and channel: its pages pass from one sequence to another and are shared, so no sequence can have
    its own, and codes do not change once they are written. They are those of `sample_keys`, or without such of the keys
    of the first write. Any will do; those of keys such as will come lets these take smaller steps.

    Args:
        num_blocks: pages.
        block_size: tokens of a page, a multiple of 16.
        num_kv_heads: heads of keys and values.
        head_size: channels of keys.
        value_head_size: channels of values; those of keys if None.
        bits: 8 or 4, as in `KeyValueCache`.
        dtype: of keys and values as they come, and of queries; floating.
        sample_keys: keys such as will come, (tokens, num_kv_heads, head_size), in that dtype, on the device.
        device: where the pool is: "cpu", or "cuda", where the kernels of GPUs read it.

    Slots, tables and lengths may be on the pool's device or on the CPU. On the CPU they are checked at once, and wrong
    ones raise an error. On a card a check would wait for all work before it, so the host makes none: a sequence whose
    table or length is wrong gets NaN, and after a write to slots outside the pool, or twice to the same, every result
    is NaN. Nothing outside the pool is read or written. To see the error, pass them on the CPU.

    Raises:
        ValueError: sizes that are none, or another number of bits; sample keys as in `reshape_and_cache`.
        TypeError: a dtype that is not floating; sample keys as in `reshape_and_cache`.

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
            raise ValueError(f"a pool has 1 block, head and channel or more, not {sizes}")
        if block_size < 1 or block_size % TOKENS_TOGETHER:
            raise ValueError(f"a block has a multiple of {TOKENS_TOGETHER} tokens, not {block_size}")
        if bits not in BITS:
            raise ValueError(f"a cache has {' or '.join(map(str, BITS))} bits, not {bits}")
        if not dtype.is_floating_point:
            raise TypeError(f"keys and values are floating, not {dtype}")
        self.dtype = dtype
        self._num_blocks = num_blocks
        with torch.inference_mode(False):
            # One page more than there are, for tokens that a card leaves out.
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
                raise ValueError("sample_keys are one token or more; leave them out for those of the first write")
            self._keys, self._is_framed = self._framed(sample_keys), True

    @property
    def num_blocks(self) -> int:
        """Pages of the pool."""
        return self._num_blocks

    @property
    def device(self) -> torch.device:
        """Where the pool is."""
        return self._keys.device

    @property
    def block_size(self) -> int:
        """Tokens of a page."""
        return self._keys.codes.shape[2]

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self._keys.bits

    @property
    def nbytes(self) -> int:
        """Bytes of the pool: codes and steps of all its pages."""
        every = self._keys.nbytes + self._values.nbytes
        return every // (self._num_blocks + 1) * self._num_blocks

    def reshape_and_cache(self, key: Tensor, value: Tensor, slot_mapping: Tensor) -> None:
        """Write tokens into their slots.

        Args:
            key: in the pool's dtype, (tokens, num_kv_heads, head_size).
            value: likewise, (tokens, num_kv_heads, value_head_size).
            slot_mapping: int64, (tokens,); where it is -1, the token is left out, as padding is.

        On a card the first write waits for it, unless there were sample keys, and others if the slots are on the CPU do
        not either; numbers that are not finite give NaN to who attends to them.

        Raises:
            ValueError: shapes that do not fit; where they are looked at, slots outside the pool or twice the same; on
                the CPU, NaN or infinity.
            TypeError: another dtype or device.
            In either case nothing is written.
        """
        self._check_tokens("key", key, self._keys)
        self._check_tokens("value", value, self._values)
        self._check_integers("slot_mapping", slot_mapping, (torch.int64,))
        if slot_mapping.shape != key.shape[:1] or key.shape[:1] != value.shape[:1]:
            raise ValueError(
                f"each token has a key, a value and a slot, not {tuple(key.shape[:1])}, {tuple(value.shape[:1])} and "
                f"{tuple(slot_mapping.shape)}"
            )
        is_looked_at = not are_read_by_kernel(slot_mapping)
        if is_looked_at:
            check_slots(slot_mapping, self.num_blocks * self.block_size)
        if is_looked_at or not self._is_framed:
            is_taken = slot_mapping >= 0
            if not bool(is_taken.all()):
                key, value, slot_mapping = key[is_taken], value[is_taken], slot_mapping[is_taken]
        if not slot_mapping.numel():
            return
        keys = self._keys if self._is_framed else self._framed(key)
        written = encoded("key", key, keys), encoded("value", value, self._values)
        self._keys, self._is_framed = keys, True
        slots = slot_mapping.to(self.device, non_blocking=True)
        if not is_looked_at:
            slots, are_sound = slots_to_write(slots, self.num_blocks * self.block_size)
            self._is_sound.logical_and_(are_sound)
        blocks, places = slots // self.block_size, slots % self.block_size
        for codes, pool in zip(written, (self._keys, self._values), strict=True):
            pool.codes[blocks, :, places] = codes.codes[0].transpose(0, 1)
            pool.steps[blocks, :, :, places] = codes.steps[0].permute(2, 0, 1)

    def copy_blocks(self, block_mapping: Tensor) -> None:
        """Copy pages, as where a sequence goes on by itself from a page that it shared.

        Args:
            block_mapping: int32 or int64, (pairs, 2): from which page to which, all copied at once. It is looked at,
                which waits for a card that has it.

        Raises:
            ValueError: another shape, pages outside the pool, or two copies to the same page; nothing is copied.
            TypeError: another dtype or device.
        """
        self._check_integers("block_mapping", block_mapping, INTEGERS)
        if block_mapping.ndim != 2 or block_mapping.shape[1] != 2:
            raise ValueError(f"block_mapping is (pairs, 2), not {tuple(block_mapping.shape)}")
        self._check_blocks("block_mapping", block_mapping)
        sources, targets = block_mapping.to(self.device, torch.int64).unbind(1)
        if targets.unique().numel() < targets.numel():
            raise ValueError("a page is in block_mapping more than once as the one that is copied to")
        for pool in (self._keys, self._values):
            pool.codes[targets] = pool.codes[sources]
            pool.steps[targets] = pool.steps[sources]

    def gather(self, block_tables: Tensor, seq_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values that the codes of sequences stand for; waits for a card.

        Args:
            block_tables: as in `attention`.
            seq_lens: as in `attention`.

        Returns:
            (sequences, num_kv_heads, tokens of the longest, channels) each, in the pool's dtype; 0 beyond a sequence's
            length.

        Raises:
            ValueError, TypeError: as `attention`.
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
        """Compute attention of the queries of sequences to the tokens of theirs; as `KeyValueCache.attention`.

        Args:
            query: in the pool's dtype, (sequences, heads, head_size), one a sequence; or (sequences, heads, queries,
                head_size), which see all tokens that a mask does not hide.
            spec: as in `softmaxkit.attention`.
            block_tables: int32 or int64, (sequences, pages): which pages a sequence has, in order; beyond those that
                its length needs, anything.
            seq_lens: integers, (sequences,), how many tokens each has; 0 gives zeros.
            attn_mask: as in `softmaxkit.attention`, of the tokens of the longest sequence; on a card of `max_seq_len`,
                where that is given.
            scale: as in `softmaxkit.attention`.
            max_seq_len: no sequence is longer. A card that has the lengths needs it to set aside no more memory than
                they take, and no more keys than tables have room for if it is None.
            parameters: as in `softmaxkit.attention`.

        Returns:
            as the queries, with the channels of the values.

        Raises:
            ValueError, TypeError: as `softmaxkit.attention`; tables that point outside the pool, or have fewer pages
                than lengths need; another dtype or device.
        """
        if query.dtype != self.dtype or query.device != self.device:
            raise TypeError(
                f"this pool takes queries in {self.dtype} on {self.device}, not {query.dtype} on {query.device}"
            )
        if query.ndim == 3:
            one = self.attention(
                query[:, :, None], spec, block_tables, seq_lens, attn_mask, scale, max_seq_len, **parameters
            )
            return one[:, :, 0]
        check_spec(spec)
        spec.require(parameters)
        # What a method starts with depends on the longest sequence.
        if (
            are_read_by_kernel(block_tables)
            and are_read_by_kernel(seq_lens)
            and spec.start(1).keys() <= parameters.keys()
        ):
            lengths, (keys, values) = self._not_looked_at(block_tables, seq_lens, attn_mask, max_seq_len)
            check_shapes(query, keys, values)
            result = by_codes(query, keys, values, spec, attn_mask, scale, lengths, parameters, only_on_gpu=True)
            if result is not None:
                return result
        lengths, (keys, values) = self._look_up(block_tables, seq_lens, max_seq_len)
        return attention_over_codes(query, keys, values, self.dtype, spec, attn_mask, scale, lengths, parameters)

    def _not_looked_at(
        self, block_tables: Tensor, seq_lens: Tensor, mask: Tensor | None, max_seq_len: int | None
    ) -> tuple[Tensor, tuple[Paged, Paged]]:
        """Return lengths and pages of sequences as kernels of GPUs read them; -1 for all where slots were wrong."""
        self._check_kinds(block_tables, seq_lens)
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

    def _check_kinds(self, block_tables: Tensor, seq_lens: Tensor) -> None:
        self._check_integers("block_tables", block_tables, INTEGERS)
        if block_tables.ndim != 2:
            raise ValueError(f"block_tables is (sequences, pages), not {tuple(block_tables.shape)}")
        self._check_integers("seq_lens", seq_lens, INTEGERS)
        checked_lengths(seq_lens, block_tables.shape[0])

    def _look_up(
        self, block_tables: Tensor, seq_lens: Tensor, max_seq_len: int | None = None
    ) -> tuple[Tensor, tuple[Paged, Paged]]:
        """Return lengths, int64, and the pages of sequences; tables as in `attention`, checked."""
        self._check_kinds(block_tables, seq_lens)
        if not self._is_sound:
            raise ValueError(
                "slots outside the pool, or twice the same, were given to reshape_and_cache; make the pool anew, and "
                "pass slot_mapping on the CPU to see which they are"
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
        """Return the pool of keys with what their codes are about, and their factors, from the first of them."""
        with torch.inference_mode(False):
            centre, factor = frame(by_head(keys).clone(), self.bits)
        return replace(self._keys, centre=centre, factor=factor)

    def _check_tokens(self, name: str, tokens: Tensor, pool: Cached) -> None:
        if tokens.dtype != self.dtype or tokens.device != self.device:
            raise TypeError(
                f"this pool takes {self.dtype} on {self.device}, not {name} in {tokens.dtype} on {tokens.device}"
            )
        heads = pool.codes.shape[1]
        if tokens.ndim != 3 or tokens.shape[1:] != (heads, pool.channels):
            raise ValueError(f"this pool takes {name} as (tokens, {heads}, {pool.channels}), not {tuple(tokens.shape)}")

    @staticmethod
    def _check_finite(name: str, tokens: Tensor) -> None:
        if not tokens.float().isfinite().all():
            raise ValueError(f"{name} is finite in float32; codes stand for neither NaN nor infinity")

    def _check_blocks(self, name: str, blocks: Tensor) -> None:
        wrong = blocks[(blocks < 0) | (blocks >= self.num_blocks)]
        if wrong.numel():
            raise ValueError(f"{name} has pages 0 to {self.num_blocks - 1}, those of the pool, not {int(wrong[0])}")

    def _check_integers(self, name: str, numbers: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
        if numbers.dtype not in dtypes or numbers.device not in (self.device, torch.device("cpu")):
            kinds = " or ".join(map(str, dtypes))
            where = dict.fromkeys((str(self.device), "cpu"))
            raise TypeError(f"{name} is {kinds} on {' or '.join(where)}, not {numbers.dtype} on {numbers.device}")
