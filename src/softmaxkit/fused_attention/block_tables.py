"""Pages of sequences, looked up in block tables: checked by the host, or left to the GPU kernels to check."""

from __future__ import annotations

import torch
from torch import Tensor

from softmaxkit.fused_attention.over_codes import check_range, checked_lengths
from softmaxkit.fused_attention.pool_checks import INTEGERS, check_blocks, check_integers
from softmaxkit.kernels.codes import Cached, Paged

Pool = tuple[Cached, Cached]
"""Keys and values of a pool, with a spare page at the end, which no sequence may use."""


def checked_pages(
    pool: Pool, is_sound: Tensor, block_tables: Tensor, seq_lens: Tensor, max_seq_len: int | None = None
) -> tuple[Tensor, tuple[Paged, Paged]]:
    """Return checked lengths, int64, and pages; waits for a GPU.

    Args:
        pool: keys and values.
        is_sound: boolean scalar, False after a write to invalid slots.
        block_tables: as in `PagedKeyValueCache.attention`.
        seq_lens: as in `PagedKeyValueCache.attention`.
        max_seq_len: as in `PagedKeyValueCache.attention`.

    Raises:
        ValueError, TypeError: as in `PagedKeyValueCache.attention`; or the pool is not sound.
    """
    check_types(pool, block_tables, seq_lens)
    if not is_sound:
        raise ValueError(
            "reshape_and_cache wrote to slots that are outside the pool or repeated; create a new pool, and pass "
            "slot_mapping on the CPU to see which they are"
        )
    num_blocks, block_size, device = pool[0].codes.shape[0] - 1, pool[0].codes.shape[2], pool[0].device
    pages = block_tables.shape[1]
    most = pages * block_size if max_seq_len is None else min(max_seq_len, pages * block_size)
    what = f"the tokens of {pages} pages of {block_size}"
    shortest, tokens = check_range(seq_lens, most, what if max_seq_len is None else f"{what}, and max_seq_len")
    lengths = seq_lens.to(device, torch.int64)
    used = -(-tokens // block_size)
    table = block_tables[:, :used].to(device, torch.int64)
    if shortest <= (used - 1) * block_size:  # else all sequences need as many pages
        is_needed = torch.arange(used, device=device) * block_size < lengths[:, None]
        table = table.masked_fill(~is_needed, 0)
    check_blocks("block_tables", table, num_blocks)
    return lengths, _pages(pool, table, tokens)


def unchecked_pages(
    pool: Pool,
    is_sound: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    mask: Tensor | None,
    max_seq_len: int | None,
) -> tuple[Tensor, tuple[Paged, Paged]]:
    """Return lengths and pages for GPU kernels, which check them; lengths of -1 after a write to invalid slots.

    Args:
        pool: keys and values.
        is_sound: as in `checked_pages`.
        block_tables: as in `PagedKeyValueCache.attention`.
        seq_lens: as in `PagedKeyValueCache.attention`.
        mask: `attn_mask` of `PagedKeyValueCache.attention`.
        max_seq_len: as in `PagedKeyValueCache.attention`.

    Raises:
        ValueError, TypeError: shapes or dtypes do not fit.
    """
    check_types(pool, block_tables, seq_lens)
    room = block_tables.shape[1] * pool[0].codes.shape[2]
    tokens = room if max_seq_len is None else min(max_seq_len, room)
    if mask is not None and mask.ndim and mask.shape[-1] > 1:
        tokens = min(tokens, mask.shape[-1]) if max_seq_len is None else tokens
    return torch.where(is_sound, seq_lens, -1), _pages(pool, block_tables, tokens)


def check_types(pool: Pool, block_tables: Tensor, seq_lens: Tensor) -> None:
    """Check dtypes, devices and shapes of tables and lengths.

    Raises:
        ValueError, TypeError: as in `PagedKeyValueCache.attention`.
    """
    check_integers("block_tables", block_tables, INTEGERS, pool[0].device)
    if block_tables.ndim != 2:
        raise ValueError(f"block_tables must be (sequences, pages), got {tuple(block_tables.shape)}")
    check_integers("seq_lens", seq_lens, INTEGERS, pool[0].device)
    checked_lengths(seq_lens, block_tables.shape[0])


def _pages(pool: Pool, table: Tensor, tokens: int) -> tuple[Paged, Paged]:
    keys, values = (
        Paged(x.codes[:-1], x.steps[:-1], x.channels, x.centre, x.factor, table=table, tokens=tokens) for x in pool
    )
    return keys, values
