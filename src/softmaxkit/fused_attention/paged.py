"""Keys and values of many sequences in pages of a pool, in 8 or 4 bits, as servers hold them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from softmaxkit.fused_attention.over_codes import attention_over_codes, checked_lengths
from softmaxkit.kernels.codes import BITS, Cached, Paged, encode, frame
from softmaxkit.methods.base.spec import Spec

TOKENS_TOGETHER = 16
"""Of which a page has a multiple: so many keys have their scores computed together."""
INTEGERS = (torch.int32, torch.int64)


class PagedKeyValueCache:
    """A pool of pages for keys and values in 8 or 4 bits, on the CPU; names and shapes are vLLM's.

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
        sample_keys: keys such as will come, (tokens, num_kv_heads, head_size), in that dtype.

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
        with torch.inference_mode(False):
            self._keys, self._values = (
                _empty(num_blocks, block_size, num_kv_heads, channels, bits) for channels in sizes[2:]
            )
        self._is_framed = False
        if sample_keys is not None:
            self._check_tokens("sample_keys", sample_keys, self._keys)
            self._check_finite("sample_keys", sample_keys)
            if not sample_keys.shape[0]:
                raise ValueError("sample_keys are one token or more; leave them out for those of the first write")
            self._frame(sample_keys)

    @property
    def num_blocks(self) -> int:
        """Pages of the pool."""
        return self._keys.codes.shape[0]

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
        return self._keys.nbytes + self._values.nbytes

    def reshape_and_cache(self, key: Tensor, value: Tensor, slot_mapping: Tensor) -> None:
        """Write tokens into their slots.

        Args:
            key: in the pool's dtype, (tokens, num_kv_heads, head_size).
            value: likewise, (tokens, num_kv_heads, value_head_size).
            slot_mapping: int64, (tokens,); where it is -1, the token is left out, as padding is.

        Raises:
            ValueError: shapes that do not fit, slots outside the pool or twice the same, NaN or infinity.
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
        slots = self.num_blocks * self.block_size
        wrong = slot_mapping[(slot_mapping < -1) | (slot_mapping >= slots)]
        if wrong.numel():
            raise ValueError(f"slots are 0 to {slots - 1}, or -1 for a token to leave out, not {int(wrong[0])}")
        taken = slot_mapping >= 0
        if not bool(taken.all()):
            key, value, slot_mapping = key[taken], value[taken], slot_mapping[taken]
        once, times = slot_mapping.unique(return_counts=True)
        if once.numel() < slot_mapping.numel():
            raise ValueError(f"slot {int(once[times > 1][0])} is in slot_mapping more than once; a slot has one token")
        self._check_finite("key", key)
        self._check_finite("value", value)
        if not slot_mapping.numel():
            return
        if not self._is_framed:
            self._frame(key)
        blocks, places = slot_mapping // self.block_size, slot_mapping % self.block_size
        for tokens, pool in ((key, self._keys), (value, self._values)):
            written = encode(_by_head(tokens), pool.bits, pool.centre, pool.factor)
            pool.codes[blocks, :, places] = written.codes[0].transpose(0, 1)
            pool.steps[blocks, :, :, places] = written.steps[0].permute(2, 0, 1)

    def copy_blocks(self, block_mapping: Tensor) -> None:
        """Copy pages, as where a sequence goes on by itself from a page that it shared.

        Args:
            block_mapping: int32 or int64, (pairs, 2): from which page to which, all copied at once.

        Raises:
            ValueError: another shape, pages outside the pool, or two copies to the same page; nothing is copied.
            TypeError: another dtype or device.
        """
        self._check_integers("block_mapping", block_mapping, INTEGERS)
        if block_mapping.ndim != 2 or block_mapping.shape[1] != 2:
            raise ValueError(f"block_mapping is (pairs, 2), not {tuple(block_mapping.shape)}")
        self._check_blocks("block_mapping", block_mapping)
        sources, targets = block_mapping.long().unbind(1)
        if targets.unique().numel() < targets.numel():
            raise ValueError("a page is in block_mapping more than once as the one that is copied to")
        for pool in (self._keys, self._values):
            pool.codes[targets] = pool.codes[sources]
            pool.steps[targets] = pool.steps[sources]

    def gather(self, block_tables: Tensor, seq_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values that the codes of sequences stand for.

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
        hidden = torch.arange(pages[0].tokens) >= lengths[:, None]
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
            attn_mask: as in `softmaxkit.attention`, of the tokens of the longest sequence.
            scale: as in `softmaxkit.attention`.
            parameters: as in `softmaxkit.attention`.

        Returns:
            as the queries, with the channels of the values.

        Raises:
            ValueError, TypeError: as `softmaxkit.attention`; tables that point outside the pool, or have fewer pages
                than lengths need; another dtype or device.
        """
        if query.dtype != self.dtype or query.device.type != "cpu":
            raise TypeError(f"this pool takes queries in {self.dtype} on cpu, not {query.dtype} on {query.device}")
        if query.ndim == 3:
            one = self.attention(query[:, :, None], spec, block_tables, seq_lens, attn_mask, scale, **parameters)
            return one[:, :, 0]
        lengths, (keys, values) = self._look_up(block_tables, seq_lens)
        return attention_over_codes(query, keys, values, self.dtype, spec, attn_mask, scale, lengths, parameters)

    def _look_up(self, block_tables: Tensor, seq_lens: Tensor) -> tuple[Tensor, tuple[Paged, Paged]]:
        """Return lengths, int64, and the pages of sequences; tables as in `attention`, checked."""
        self._check_integers("block_tables", block_tables, INTEGERS)
        if block_tables.ndim != 2:
            raise ValueError(f"block_tables is (sequences, pages), not {tuple(block_tables.shape)}")
        sequences, pages = block_tables.shape
        self._check_integers("seq_lens", seq_lens, INTEGERS)
        most = f"the tokens of {pages} pages of {self.block_size}"
        lengths = checked_lengths(seq_lens, sequences, pages * self.block_size, most)
        tokens = int(lengths.max()) if sequences else 0
        needed = torch.arange(-(-tokens // self.block_size)) * self.block_size < lengths[:, None]
        table = block_tables[:, : needed.shape[1]].to(torch.int64).masked_fill(~needed, 0)
        self._check_blocks("block_tables", table)
        keys, values = (
            Paged(x.codes, x.steps, x.channels, x.centre, x.factor, table=table, tokens=tokens)
            for x in (self._keys, self._values)
        )
        return lengths, (keys, values)

    def _frame(self, keys: Tensor) -> None:
        """Set what the codes of keys are about, and their factors, once for all."""
        with torch.inference_mode(False):
            centre, factor = frame(_by_head(keys).clone(), self.bits)
            self._keys = replace(self._keys, centre=centre, factor=factor)
        self._is_framed = True

    def _check_tokens(self, name: str, tokens: Tensor, pool: Cached) -> None:
        if tokens.dtype != self.dtype or tokens.device.type != "cpu":
            hint = "" if tokens.device.type == "cpu" else "; on CUDA, KeyValueCache holds 8 bits"
            raise TypeError(
                f"this pool takes {self.dtype} on cpu, not {name} in {tokens.dtype} on {tokens.device}{hint}"
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

    @staticmethod
    def _check_integers(name: str, numbers: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
        if numbers.dtype not in dtypes or numbers.device.type != "cpu":
            kinds = " or ".join(map(str, dtypes))
            raise TypeError(f"{name} is {kinds} on cpu, not {numbers.dtype} on {numbers.device}")


def _empty(num_blocks: int, block_size: int, heads: int, channels: int, bits: int) -> Cached:
    """Return codes for a pool, which stand for zeros: what is beyond a sequence's end has to be finite."""
    like = encode(torch.empty(1, 1, 0, channels), bits)
    codes = like.codes.new_zeros(num_blocks, heads, block_size, like.codes.shape[3])
    steps = like.steps.new_zeros(num_blocks, heads, like.steps.shape[2], block_size)
    return Cached(codes, steps, channels)


def _by_head(tokens: Tensor) -> Tensor:
    """Return (tokens, heads, channels) as (1, heads, tokens, channels)."""
    return tokens.detach().transpose(0, 1)[None]
