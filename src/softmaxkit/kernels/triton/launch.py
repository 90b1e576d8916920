"""How the kernels of attention are launched: block sizes, and tensors as the kernels read them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.cards import capability, is_interpreted
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


class Plan(NamedTuple):
    """The blocks of the three kernels.

    Attributes:
        forward: of the kernel forward, without levels.
        levels: of the same with levels, whose maxima and sums take registers.
        queries: of that backward for queries.
        keys: of that backward for keys and values.
    """

    forward: Table
    levels: Table
    queries: Table
    keys: Table


FORWARD: Table = {
    2: {64: Blocks(128, 64, 4, 3), 128: Blocks(128, 64, 8, 2), 256: Blocks(64, 32, 8, 2)},
    4: {64: Blocks(64, 32, 4, 2), 128: Blocks(32, 32, 4, 2), 256: Blocks(16, 32, 4, 2)},
}
WIDE_LEVELS = {64: Blocks(32, 32, 4, 2), 128: Blocks(32, 32, 4, 2), 256: Blocks(16, 16, 4, 2)}
ANY_CARD = Plan(
    forward=FORWARD,
    levels={2: FORWARD[2], 4: WIDE_LEVELS},
    queries={
        2: {64: Blocks(64, 64, 4, 2), 128: Blocks(64, 32, 8, 2), 256: Blocks(32, 32, 8, 1)},
        4: {64: Blocks(32, 32, 4, 1), 128: Blocks(16, 32, 4, 1), 256: Blocks(16, 16, 4, 1)},
    },
    keys={
        2: {64: Blocks(64, 64, 4, 2), 128: Blocks(32, 64, 8, 2), 256: Blocks(32, 32, 8, 1)},
        4: {64: Blocks(32, 32, 4, 1), 128: Blocks(16, 32, 4, 1), 256: Blocks(16, 16, 4, 1)},
    },
)
"""For any card from compute capability 8.0 on: what they take of registers and shared memory is in
tests/gpu/test_compiled_kernels.py."""
ROOMY_CARD = Plan(
    forward={
        2: {64: Blocks(64, 64, 4, 3), 128: Blocks(128, 64, 8, 3), 256: Blocks(64, 64, 8, 2)},
        4: FORWARD[4],
    },
    levels={
        2: {64: Blocks(64, 64, 4, 3), 128: Blocks(128, 128, 8, 3), 256: Blocks(64, 64, 8, 2)},
        4: WIDE_LEVELS,
    },
    queries={
        2: {64: Blocks(64, 32, 4, 3), 128: Blocks(128, 64, 8, 3), 256: Blocks(32, 32, 8, 1)},
        4: ANY_CARD.queries[4],
    },
    keys={
        2: {64: Blocks(32, 64, 4, 3), 128: Blocks(64, 64, 4, 2), 256: Blocks(32, 32, 8, 1)},
        4: ANY_CARD.keys[4],
    },
)
"""For cards with `ROOM`, as Hopper's, on an H200 the fastest of a dozen each."""
ROOM = 200 * 1024
"""Bytes of shared memory of a block from which on `ROOMY_CARD` holds."""


def plan_for(device: torch.device) -> Plan:
    """Return the blocks for a device."""
    return ROOMY_CARD if shared_memory(device) >= ROOM else ANY_CARD


def forward_table(device: torch.device, levels: int, is_plain: bool) -> Table:
    """Return the blocks of the kernel forward; with a mask or dropout, which is not plain, they are smaller."""
    plan = plan_for(device) if is_plain else ANY_CARD
    return plan.levels if levels else plan.forward


def blocks_for(table: Table, dtype: torch.dtype, channels: int) -> Blocks:
    """Return the blocks for numbers of a dtype and channels, the more of queries' and values'."""
    return next(blocks for most, blocks in table[dtype.itemsize].items() if channels <= most)


def shared_memory(device: torch.device) -> int:
    """Return the bytes of shared memory that a block may have; 0 for the interpreter, which has no limit."""
    if device.type != "cuda":
        return 0
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0))


class Tiles(NamedTuple):
    """A tensor (batch, heads, tokens, channels) as a matrix whose tiles Hopper's copy engine brings.

    Attributes:
        descriptor: of the matrix, whose rows have the distance of tokens.
        rows_of_batch: from one sequence to the next.
        rows_of_head: from one head to the next, where heads do not lie within a row.
        columns_of_head: from one head to the next, where they do.
    """

    descriptor: TensorDescriptor | None
    rows_of_batch: int
    rows_of_head: int
    columns_of_head: int


NO_TILES = Tiles(None, 0, 0, 0)
ALIGNMENT = 16
"""Bytes of which the engine takes multiples."""


def tiles_of(tensors: Sequence[Tensor], rows: int) -> tuple[bool, list[TensorDescriptor | None], list[int]]:
    """Return whether the copy engine takes tensors in tiles of some rows, their descriptors, and their distances.

    Args:
        tensors: (batch, heads, tokens, channels), channels side by side.
        rows: tokens of a tile.
    """
    tiles = [_tiles(x, rows) if has_copy_engine(x.device) else None for x in tensors]
    described = all(x is not None for x in tiles)
    chosen = [x if x is not None and described else NO_TILES for x in tiles]
    return described, [x.descriptor for x in chosen], [number for x in chosen for number in x[1:]]


def has_copy_engine(device: torch.device) -> bool:
    """Does a device bring tiles by itself, as Hopper does? The interpreter plays it."""
    return device.type != "cuda" or capability(device.index) >= (9, 0)


def _tiles(tensor: Tensor, rows: int) -> Tiles | None:
    """Return a tensor as a matrix, or None where it is none that the copy engine takes."""
    batch, heads, tokens, channels = tensor.shape
    of_batch, of_head, of_token, _ = tensor.stride()
    of_batch, of_head = of_batch if batch > 1 else 0, of_head if heads > 1 else 0
    lies_in_rows = 0 < of_head < of_token
    columns = channels + (heads - 1) * of_head * lies_in_rows
    of_rows = (of_batch, 0 if lies_in_rows else of_head)
    is_matrix = columns <= of_token and all(stride % of_token == 0 for stride in of_rows)
    is_aligned = tensor.data_ptr() % ALIGNMENT == 0 and of_token * tensor.element_size() % ALIGNMENT == 0
    if not (is_matrix and is_aligned and tensor.element_size() == 2 and channels == width(channels)):
        return None
    of_batch, of_rows_head = (stride // of_token for stride in of_rows)
    count = (batch - 1) * of_batch + (heads - 1) * of_rows_head + tokens
    descriptor = TensorDescriptor(tensor, [count, columns], [of_token, 1], [rows, channels])
    return Tiles(descriptor, of_batch, of_rows_head, of_head if lies_in_rows else 0)


def width(channels: int) -> int:
    """Return channels with their padding: a power of two, 16 or more, as matrix units take."""
    return max(16, 1 << (channels - 1).bit_length())


def precision() -> str:
    """Return how float32 numbers are multiplied, as torch's own are."""
    if is_interpreted():
        return "wide"
    asked = getattr(torch.backends.cuda.matmul, "fp32_precision", None)  # from torch 2.9 on
    if asked is None:
        return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    return "tf32" if asked == "tf32" else "ieee"


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
    if call.exponentials:
        level_step(call.clip, call.exponentials)


def level_step(clip: float, exponentials: Sequence[float]) -> float:
    """Return the binary logarithm of the ratio of two neighbours among the exponentials of even levels.

    Raises:
        ValueError: they are not.
    """
    step = clip / (1 - len(exponentials))
    ratios = (higher / lower for lower, higher in pairwise(exponentials))
    if not all(math.isclose(ratio, math.exp(step), rel_tol=1e-5) for ratio in ratios):
        raise ValueError(f"weights are the exponentials of even levels from {clip:g} on, not {exponentials}")
    return step * LOG2_E
