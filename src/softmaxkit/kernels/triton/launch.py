"""How the kernels of attention are launched: block sizes, and tensors as the kernels read them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

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


FORWARD = {
    2: {64: Blocks(128, 64, 4, 3), 128: Blocks(128, 64, 8, 2), 256: Blocks(64, 32, 8, 2)},
    4: {64: Blocks(64, 32, 4, 2), 128: Blocks(32, 32, 4, 2), 256: Blocks(16, 32, 4, 2)},
}
"""Blocks by bytes of a number and channels, up to so many, for any card from compute capability 8.0 on."""
BACKWARD = {
    2: {64: Blocks(64, 64, 4, 2), 128: Blocks(32, 64, 4, 2), 256: Blocks(32, 32, 8, 1)},
    4: {64: Blocks(32, 32, 4, 1), 128: Blocks(16, 32, 4, 1), 256: Blocks(16, 16, 4, 1)},
}
"""The same of the backward kernels."""


def blocks_for(table: dict[int, dict[int, Blocks]], dtype: torch.dtype, channels: int) -> Blocks:
    """Return the blocks for numbers of a dtype and channels, the more of queries' and values'."""
    return next(blocks for most, blocks in table[dtype.itemsize].items() if channels <= most)


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
