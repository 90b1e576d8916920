"""How the kernels of attention are launched: block sizes, and tensors as the kernels read them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.cards import is_interpreted
from softmaxkit.masks import expand_mask

LOG2_E = math.log2(math.e)


class Blocks(NamedTuple):
    """How much a program works on at a time.

    Attributes:
        rows: queries.
        columns: keys.
        warps: of 32 threads.
        stages: blocks of keys on their way at once.
    """

    rows: int
    columns: int
    warps: int
    stages: int


Table = dict[int, dict[int, Blocks]]
"""Blocks by bytes of a number and channels, up to so many."""
FORWARD: Table = {
    2: {64: Blocks(128, 64, 4, 3), 128: Blocks(128, 64, 8, 2), 256: Blocks(64, 32, 8, 2)},
    4: {64: Blocks(64, 32, 4, 2), 128: Blocks(32, 32, 4, 2), 256: Blocks(16, 32, 4, 2)},
}
"""Blocks of the forward kernel, for any card from compute capability 8.0 on: what they take of registers and shared
memory is in tests/gpu/test_compiled_kernels.py."""
FORWARD_WITH_ROOM: Table = {
    2: {64: Blocks(128, 128, 8, 3), 128: Blocks(128, 128, 8, 2), 256: Blocks(64, 64, 8, 2)},
    4: FORWARD[4],
}
"""The same for cards with `ROOM`, as Hopper's, without levels, whose sums and maxima take registers."""
ROOM = 200 * 1024
"""Bytes of shared memory of a block from which on `FORWARD_WITH_ROOM` holds."""
QUERIES_BACKWARD: Table = {
    2: {64: Blocks(64, 64, 4, 2), 128: Blocks(64, 32, 8, 2), 256: Blocks(32, 32, 8, 1)},
    4: {64: Blocks(32, 32, 4, 1), 128: Blocks(16, 32, 4, 1), 256: Blocks(16, 16, 4, 1)},
}
"""Blocks of the backward kernel of queries, for any card."""
KEYS_BACKWARD: Table = {
    2: {64: Blocks(64, 64, 4, 2), 128: Blocks(32, 64, 8, 2), 256: Blocks(32, 32, 8, 1)},
    4: {64: Blocks(32, 32, 4, 1), 128: Blocks(16, 32, 4, 1), 256: Blocks(16, 16, 4, 1)},
}
"""The same of that of keys and values."""


def blocks_for(table: Table, dtype: torch.dtype, channels: int) -> Blocks:
    """Return the blocks for numbers of a dtype and channels, the more of queries' and values'."""
    return next(blocks for most, blocks in table[dtype.itemsize].items() if channels <= most)


def forward_blocks(device: torch.device, dtype: torch.dtype, channels: int, levels: int) -> Blocks:
    """Return the blocks of the forward kernel on a device."""
    table = FORWARD_WITH_ROOM if not levels and shared_memory(device) >= ROOM else FORWARD
    return blocks_for(table, dtype, channels)


def shared_memory(device: torch.device) -> int:
    """Return the bytes of shared memory that a block may have; 0 for the interpreter, which has no limit."""
    if device.type != "cuda":
        return 0
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0))


def width(channels: int) -> int:
    """Return channels with their padding: a power of two, 16 or more, as matrix units take."""
    return max(16, 1 << (channels - 1).bit_length())


def precision() -> str:
    """Return how float32 numbers are multiplied, as `torch.set_float32_matmul_precision` has it."""
    if is_interpreted():
        return "wide"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@contextmanager
def on_device_of(tensor: Tensor) -> Iterator[None]:
    """Launch on a tensor's device.

    Raises:
        TypeError: it is on none that kernels run on.
    """
    if tensor.is_cuda:
        with torch.cuda.device(tensor.device):
            yield
    elif is_interpreted():
        yield
    else:
        raise TypeError(f"these kernels run on CUDA, and the tensors are on {tensor.device}")


def side_by_side(tensor: Tensor) -> Tensor:
    """Return a tensor whose last axis lies side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def mask_bytes(mask: Tensor | None, shape: Sequence[int], like: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return a boolean mask as bytes, and its strides in a shape; of None, anything and zeros.

    Raises:
        TypeError: it is not boolean.
        ValueError: it does not broadcast to the shape.
    """
    if mask is None:
        return like, (0,) * len(shape)
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask is boolean, True where attended, not {mask.dtype}")
    wide = expand_mask(mask, tuple(shape))
    return wide.view(torch.uint8), wide.stride()


def offsets_of(offset: Tensor | None, query: Tensor) -> Tensor:
    """Return the offsets of heads in binary logarithms, float32, (heads,) or (1,).

    Raises:
        ValueError: they are for another number of heads.
    """
    if offset is None:
        return query.new_zeros(1, dtype=torch.float32)
    if offset.shape not in ((), (query.shape[1],)):
        raise ValueError(f"offsets are ({query.shape[1]},) or one number, not {tuple(offset.shape)}")
    return offset.detach().to(query.device, torch.float32).reshape(-1).contiguous() * LOG2_E


def level_numbers(clip: float, levels: int, log_limit: float, scale: float) -> tuple[float, float, float]:
    """Return the factor of products, the limit of distances and the step of levels, as `tiles.weigh` takes them."""
    if not levels:
        return scale * LOG2_E, log_limit * LOG2_E, 0.0
    top = levels - 1
    return scale * top / -clip, float(top), -clip / top * LOG2_E


def weigh_numbers(clip: float, levels: int, log_limit: float, base: float, scale: float) -> tuple[float, float, float]:
    """Return the same; for softmax itself, to a base that is not 0, the factor alone counts."""
    return (scale * math.log2(base), 0.0, 0.0) if base else level_numbers(clip, levels, log_limit, scale)


def check_levels(call: AttentionCall) -> None:
    """Refuse weights of levels that are not their exponentials, which the kernels compute.

    Raises:
        ValueError: they are not.
    """
    if not call.exponentials:
        return
    step = call.clip / (1 - len(call.exponentials))
    ratios = (higher / lower for lower, higher in pairwise(call.exponentials))
    if not all(math.isclose(ratio, math.exp(step), rel_tol=1e-5) for ratio in ratios):
        raise ValueError(f"weights are the exponentials of even levels from {call.clip:g} on, not {call.exponentials}")
