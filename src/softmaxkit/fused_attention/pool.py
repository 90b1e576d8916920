"""What a pool of pages holds, and the slots that tokens are written into."""

from __future__ import annotations

import torch
from torch import Tensor

from softmaxkit.kernels.codes import Cached, encode


def check_slots(slots: Tensor, room: int) -> None:
    """Refuse slots outside a pool, or twice the same; -1 leaves a token out.

    Args:
        slots: int64, (tokens,).
        room: slots of the pool.

    Raises:
        ValueError: there are such.
    """
    wrong = slots[(slots < -1) | (slots >= room)]
    if wrong.numel():
        raise ValueError(f"slots are 0 to {room - 1}, or -1 for a token to leave out, not {int(wrong[0])}")
    once, times = slots[slots >= 0].unique(return_counts=True)
    if (times > 1).any():
        raise ValueError(f"slot {int(once[times > 1][0])} is in slot_mapping more than once; a slot has one token")


def slots_to_write(slots: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """Return where a card writes tokens, without a wait for it, and whether their slots are those `check_slots` takes.

    Tokens that are left out, and those whose slots are outside the pool, go to slot `room`, which is nobody's.
    """
    in_order = slots.sort().values
    is_twice = (in_order[1:] == in_order[:-1]) & (in_order[1:] >= 0)
    is_wrong = (slots < -1) | (slots >= room)
    return torch.where((slots < 0) | is_wrong, room, slots), ~(is_wrong.any() | is_twice.any())


def empty(num_blocks: int, block_size: int, heads: int, channels: int, bits: int, device: torch.device) -> Cached:
    """Return codes for a pool, which stand for zeros: what is beyond a sequence's end has to be finite."""
    like = encode(torch.empty(1, 1, 0, channels, device=device), bits)
    codes = like.codes.new_zeros(num_blocks, heads, block_size, like.codes.shape[3])
    steps = like.steps.new_zeros(num_blocks, heads, like.steps.shape[2], block_size)
    return Cached(codes, steps, channels)


def encoded(name: str, tokens: Tensor, pool: Cached) -> Cached:
    """Return the codes of tokens, (tokens, heads, channels), for a pool.

    Raises:
        ValueError: as `softmaxkit.kernels.codes.encode`.
    """
    try:
        return encode(by_head(tokens), pool.bits, pool.centre, pool.factor)
    except ValueError as error:
        raise ValueError(f"{name} cannot be written: {error}") from None


def by_head(tokens: Tensor) -> Tensor:
    """Return (tokens, heads, channels) as (1, heads, tokens, channels)."""
    return tokens.detach().transpose(0, 1)[None]
