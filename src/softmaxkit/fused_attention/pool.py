"""Storage of a paged cache, and the slots that tokens are written to."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from softmaxkit.kernels.codes import Cached
from softmaxkit.kernels.encode import check_finite, encode, pages_of
from softmaxkit.kernels.launch import in_huge_pages


def slots_to_write(slots: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """Return the slots to write on a GPU, without waiting for it, and whether all are valid.

    Valid ones are those that `pool_checks.check_slots` accepts. Skipped tokens, and those with slots outside the pool,
    are redirected to slot `room`, which no sequence uses.
    """
    in_order = slots.sort().values
    is_twice = (in_order[1:] == in_order[:-1]) & (in_order[1:] >= 0)
    is_wrong = (slots < -1) | (slots >= room)
    return torch.where((slots < 0) | is_wrong, room, slots), ~(is_wrong.any() | is_twice.any())


def empty(num_blocks: int, block_size: int, heads: int, channels: int, bits: int, device: torch.device) -> Cached:
    """Return codes of zeros for a pool: positions beyond the end of a sequence must be finite."""
    like = encode(torch.empty(1, 1, 0, channels, device=device), bits)
    codes = like.codes.new_zeros(num_blocks, heads, block_size, like.codes.shape[3])
    steps = like.steps.new_zeros(num_blocks, heads, like.steps.shape[2], block_size)
    return Cached(in_huge_pages(codes), in_huge_pages(steps), channels)


def check_encodable(name: str, tokens: Tensor, pool: Cached) -> None:
    """Check, on the CPU, that a pool can hold tokens, (1, heads, tokens, channels).

    Raises:
        ValueError: as in `softmaxkit.kernels.encode.encode`.
    """
    try:
        check_finite(tokens, pool)
    except ValueError as error:
        raise ValueError(f"{name} cannot be written: {error}") from None


def read(pool: Cached, slots: Tensor) -> Cached:
    """Return the codes in slots of a pool, (1, heads, tokens, channels)."""
    blocks, places = pages_of(slots, pool)
    codes, steps = pool.codes[blocks, :, places].transpose(0, 1), pool.steps[blocks, :, :, places].permute(1, 2, 0)
    return replace(pool, codes=codes[None], steps=steps[None])


def heads_first(tokens: Tensor) -> Tensor:
    """Transpose (tokens, heads, channels) to (1, heads, tokens, channels)."""
    return tokens.detach().transpose(0, 1)[None]
