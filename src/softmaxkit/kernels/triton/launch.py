"""Launching the attention kernels: block sizes, and tensors as the kernels read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from softmaxkit.kernels.attention import AttentionCall
from softmaxkit.kernels.backends import is_in_graph
from softmaxkit.kernels.cards import capability, is_interpreted
from softmaxkit.kernels.launch import check_boolean
from softmaxkit.kernels.rows import check_offset
from softmaxkit.masks import expand_mask

LOG2_E = math.log2(math.e)
FUSED: Mapping[str, bool] = MappingProxyType({"enable_fp_fusion": True})
"""Option of every launch: a product and a sum may be one instruction. Up to 3.9 that is what Triton does unless asked
not to, and 3.9 warns that 3.10 does not; all that was measured was measured so."""


class Tiles(NamedTuple):
    """A tensor (batch, heads, tokens, channels) as a matrix whose tiles Hopper's copy engine loads.

    Attributes:
        descriptor: of the matrix, whose row stride is the token stride.
        rows_of_batch: rows from one sequence to the next.
        rows_of_head: rows from one head to the next, where a row does not contain all heads.
        columns_of_head: columns from one head to the next, where it does.
    """

    descriptor: TensorDescriptor | None
    rows_of_batch: int
    rows_of_head: int
    columns_of_head: int


NO_TILES = Tiles(None, 0, 0, 0)
ALIGNMENT = 16
"""Bytes of which the engine's addresses and strides are multiples."""
LARGEST_PLACE = 2**31 - 1
"""Most rows or columns of its matrices, whose places have 32 bits."""


def tiles_of(tensors: Sequence[Tensor], rows: int) -> tuple[bool, list[TensorDescriptor | None], list[int]]:
    """Return whether the copy engine can load all tensors, their descriptors, and their offsets, as in `Tiles`.

    Args:
        tensors: (batch, heads, tokens, channels), with a channel stride of 1.
        rows: tokens per tile.
    """
    tiles = [_tiles(x, rows) if has_copy_engine(x.device) else None for x in tensors]
    described = all(x is not None for x in tiles)
    chosen = [x if x is not None and described else NO_TILES for x in tiles]
    return described, [x.descriptor for x in chosen], [number for x in chosen for number in x[1:]]


def has_copy_engine(device: torch.device) -> bool:
    """Return whether a device has a copy engine for tiles, as Hopper does; the interpreter emulates one."""
    return device.type != "cuda" or capability(device.index) >= (9, 0)


def _tiles(tensor: Tensor, rows: int) -> Tiles | None:
    """Return a tensor as a matrix, or None where the copy engine cannot load it."""
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
    if max(count, columns) > LARGEST_PLACE:
        return None
    descriptor = TensorDescriptor(tensor, [count, columns], [of_token, 1], [rows, channels])
    return Tiles(descriptor, of_batch, of_rows_head, of_head if lies_in_rows else 0)


def width(channels: int) -> int:
    """Return channels padded to a power of two of at least 16, as tensor cores require."""
    return max(16, 1 << (channels - 1).bit_length())


def precision() -> str:
    """Return the precision of float32 products, as torch is configured."""
    if is_interpreted():
        return "wide"
    asked = getattr(torch.backends.cuda.matmul, "fp32_precision", None)  # torch 2.9 or later
    if asked is None:
        return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    return "tf32" if asked == "tf32" else "ieee"


@contextmanager
def on_device_of(tensor: Tensor) -> Iterator[None]:
    """Launch on a tensor's device.

    Raises:
        TypeError: the kernels do not run on that device.
    """
    if tensor.is_cuda:
        with torch.cuda.device(tensor.device):
            yield
    elif is_interpreted():
        yield
    else:
        raise TypeError(f"Triton kernels require tensors on CUDA, got {tensor.device}")


def mask_bytes(mask: Tensor | None, shape: Sequence[int], like: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return a boolean mask as bytes, and its strides expanded to a shape; for None, `like` and zeros.

    Raises:
        TypeError: it is not boolean, or on another device than `like`.
        ValueError: it does not broadcast to the shape.
    """
    if mask is None:
        return like, (0,) * len(shape)
    check_boolean(mask, like.device)
    wide = expand_mask(mask, tuple(shape))
    return wide.view(torch.uint8), wide.stride()


def numbers_of_heads(call: AttentionCall, query: Tensor) -> Tensor | None:
    """Return the number that every head has, () or (heads,): the offset, or the step between levels, in nats.

    Raises:
        ValueError: the weights of levels are not their exponentials, which the kernels compute.
    """
    if call.form != "levels":
        return call.offset
    if not call.are_exponentials:
        raise ValueError(f"entries must be the exponentials of evenly spaced levels, got {call.entries}")
    steps = [clip / (1 - len(entries)) for clip, entries in zip(call.clips, call.entries, strict=True)]
    if len(steps) == 1:
        return query.new_full((), steps[0], dtype=torch.float32)
    if is_in_graph():
        return query.new_tensor(steps, dtype=torch.float32)
    return tables_of(call, query.device, lambda: (query.new_tensor(steps, dtype=torch.float32),))[0]


_of_calls: WeakKeyDictionary[object, dict[torch.device, tuple[Tensor, ...]]] = WeakKeyDictionary()


def tables_of(call: object, device: torch.device, make: Callable[[], Iterable[Tensor]]) -> tuple[Tensor, ...]:
    """Return the tables of a call on a device, made once, and kept as long as it: CUDA graphs read them."""
    of_devices = _of_calls.setdefault(call, {})
    if device not in of_devices:
        with torch.inference_mode(False):  # later calls may have gradients
            of_devices[device] = tuple(make())
    return of_devices[device]


def in_binary_logarithms(numbers: Tensor | None, query: Tensor) -> Tensor:
    """Return the numbers of heads, in nats, in binary logarithms, float32, (heads,) or (1,); 0 for None.

    Raises:
        ValueError: they do not match the number of heads.
    """
    if numbers is None:
        return query.new_zeros(1, dtype=torch.float32)
    check_offset(numbers, query.shape[1])
    return numbers.detach().to(query.device, torch.float32).reshape(-1).contiguous() * LOG2_E


def levels_of(call: AttentionCall) -> tuple[int, bool]:
    """Return the number of levels, and whether the weight of the lowest is 0; 0 and False without levels."""
    return (len(call.entries[0]), call.entries[0][0] == 0) if call.entries else (0, False)


def limit_of(levels: int, log_limit: float) -> float:
    """Return the limit of distances that `tiles.weigh` takes, given the numbers of an `AttentionCall`."""
    return float(levels - 1) if levels else log_limit * LOG2_E
