"""Checks of what a paged cache is given."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from softmaxkit.kernels.attention import check_tensors, check_whole_numbers
from softmaxkit.kernels.codes import Cached, check_bits

TOKENS_TOGETHER = 16
"""A page holds a multiple of this many tokens, whose scores a kernel computes together."""
INTEGERS = (torch.int32, torch.int64)


def check_sizes(sizes: Mapping[str, int], bits: int, dtype: torch.dtype) -> None:
    """Check a new pool: sizes 1 or more, pages that kernels read, bits of a code, floating dtype.

    Raises:
        ValueError: a size, the page or the bits are wrong.
        TypeError: a size is not an integer, or the dtype is not floating.
    """
    check_whole_numbers(**sizes)
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be 1 or more, got {size}")
    if sizes["block_size"] % TOKENS_TOGETHER:
        raise ValueError(f"block_size must be a multiple of {TOKENS_TOGETHER}, got {sizes['block_size']}")
    check_bits(bits)
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype must be a floating torch dtype, got {dtype!r}")


def check_samples(sample_keys: Tensor, keys: Cached, dtype: torch.dtype) -> None:
    """Check sample keys for a pool with these keys, in this dtype.

    Raises:
        ValueError: another shape, no token, NaN or infinity.
        TypeError: not a tensor, or another dtype or device.
    """
    check_tokens("sample_keys", sample_keys, keys, dtype)
    if not sample_keys.float().isfinite().all():
        raise ValueError("sample_keys must be finite in float32: codes represent neither NaN nor infinity")
    if not sample_keys.shape[0]:
        raise ValueError("sample_keys must have at least one token; omit them to use the first keys that are written")


def check_written(
    key: Tensor, value: Tensor, slot_mapping: Tensor, pool: tuple[Cached, Cached], dtype: torch.dtype
) -> None:
    """Check keys, values and slots that are to be written to a pool, but not whether the slots are in it.

    Raises:
        ValueError: shapes do not fit.
        TypeError: not a tensor, or another dtype or device.
    """
    check_tokens("key", key, pool[0], dtype)
    check_tokens("value", value, pool[1], dtype)
    check_integers("slot_mapping", slot_mapping, (torch.int64,), pool[0].device)
    if slot_mapping.shape != key.shape[:1] or key.shape[:1] != value.shape[:1]:
        raise ValueError(
            f"key, value and slot_mapping must have as many tokens, got {tuple(key.shape[:1])}, "
            f"{tuple(value.shape[:1])} and {tuple(slot_mapping.shape)}"
        )


def check_tokens(name: str, tokens: Tensor, pool: Cached, dtype: torch.dtype) -> None:
    """Check keys or values for a pool.

    Raises:
        ValueError: another shape.
        TypeError: not a tensor, or another dtype or device.
    """
    check_tensors(**{name: tokens})
    if tokens.dtype != dtype or tokens.device != pool.device:
        raise TypeError(f"this pool requires {name} in {dtype} on {pool.device}, got {tokens.dtype} on {tokens.device}")
    heads = pool.codes.shape[1]
    if tokens.ndim != 3 or tokens.shape[1:] != (heads, pool.channels):
        raise ValueError(f"{name} must be (tokens, {heads}, {pool.channels}), got {tuple(tokens.shape)}")


def check_slots(slots: Tensor, room: int) -> None:
    """Check that slots are in the pool and not repeated; -1, which skips a token, may be.

    Args:
        slots: int64, (tokens,).
        room: number of slots of the pool.

    Raises:
        ValueError: a slot is outside the pool or repeated.
    """
    in_order = np.sort(slots.cpu().numpy())  # far faster than torch for the few slots of a generated token
    if in_order.size and not -1 <= in_order[0] <= in_order[-1] < room:
        wrong = slots[(slots < -1) | (slots >= room)]
        raise ValueError(f"slots must be 0 to {room - 1}, or -1 to skip a token, got {int(wrong[0])}")
    is_twice = (in_order[1:] == in_order[:-1]) & (in_order[1:] >= 0)
    if is_twice.any():
        twice = int(in_order[1:][is_twice][0])
        raise ValueError(f"slot {twice} is in slot_mapping more than once; a slot holds one token")


def check_blocks(name: str, blocks: Tensor, num_blocks: int) -> None:
    """Check that pages are in the pool; waits for a GPU that holds their numbers.

    Raises:
        ValueError: a page is outside.
    """
    if blocks.numel() and not 0 <= int(blocks.min()) <= int(blocks.max()) < num_blocks:
        wrong = blocks[(blocks < 0) | (blocks >= num_blocks)]
        raise ValueError(f"pages in {name} must be 0 to {num_blocks - 1}, got {int(wrong[0])}")


def check_integers(name: str, numbers: Tensor, dtypes: tuple[torch.dtype, ...], device: torch.device) -> None:
    """Check slots, tables or lengths, which may be on the pool's device or on the CPU.

    Raises:
        TypeError: not a tensor, or another dtype or device.
    """
    check_tensors(**{name: numbers})
    if numbers.dtype not in dtypes or numbers.device not in (device, torch.device("cpu")):
        kinds = " or ".join(map(str, dtypes))
        where = dict.fromkeys((str(device), "cpu"))
        raise TypeError(f"{name} must be {kinds} on {' or '.join(where)}, got {numbers.dtype} on {numbers.device}")
