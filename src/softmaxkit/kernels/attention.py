"""Attention by native kernels: EXAQ and ConSmax, never the whole matrix of scores.

Many queries: 8-bit products, the scores of a stripe of queries at a time. Queries and keys take 8 bits, a step for each
query and for all keys of a head, which are first moved by their mean; values take 8 bits, a step for each column. So a
query's result depends, within the error of 8 bits, on keys and values that it does not see. A score's distance from its
row's largest addresses a table of 8-bit weights. What no byte holds is rounded up with some keys and down with others,
so that on average it is what it should be.

A few queries, as in generation: float32 products, keys and values as they come, in float32, bfloat16 or an 8-bit cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softmaxkit.kernels import native
from softmaxkit.kernels.launch import DTYPES, broadcast_mask, loaded
from softmaxkit.kernels.rows import check_levels
from softmaxkit.kernels.weights import Weights, consmax_weights, exaq_weights

WIDEST = 2**14
"""Channels whose products of 8 bits are sure to fit 32."""
FEW = 12
"""Queries of one key head up to which keys and values are read as they come: to bring them to 8 bits takes longer."""


@dataclass(frozen=True)
class Cached:
    """Keys or values in 8 bits, a step for each token.

    Attributes:
        codes: int8, (batch, key heads, tokens, channels).
        steps: float32, (batch, key heads, tokens), token by token.
    """

    codes: Tensor
    steps: Tensor


def can_run(query: Tensor, key: Tensor | Cached, value: Tensor | Cached) -> bool:
    """Return whether kernels are built and take such queries, keys and values; if not, torch does the same."""
    if native() is None or query.dtype not in DTYPES or query.shape[-1] > WIDEST:
        return False
    if isinstance(key, Cached) and isinstance(value, Cached):
        return query.device.type == key.codes.device.type == value.codes.device.type == "cpu"
    return all(isinstance(x, Tensor) and x.device.type == "cpu" and x.dtype == query.dtype for x in (query, key, value))


def exaq(
    query: Tensor,
    key: Tensor | Cached,
    value: Tensor | Cached,
    clip: float,
    exponentials: Sequence[float],
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return attention whose scores less their row's maximum take one of some levels.

    Args:
        query: float32 or bfloat16 on the CPU, (batch, heads, queries, channels).
        key: the same dtype, (batch, key heads, keys, channels); each head serves as many consecutive heads of queries.
            Or an 8-bit cache.
        value: (batch, key heads, keys, value channels), or an 8-bit cache.
        clip: the lowest level, negative.
        exponentials: of the levels, which lie evenly from the clip to 0; 4, 8 or 16.
        mask: boolean, True where attended, broadcasts to (batch, heads, queries, keys).
        is_causal: a query attends to the keys up to its own index.
        scale: factor of the scores; 1/sqrt(channels) if None.

    Returns:
        (batch, heads, queries, value channels); zeros for a query that attends to nothing.

    Raises:
        RuntimeError: no kernels are built, see `can_run`.
        TypeError: tensors of another kind, or a mask that is not boolean.
        ValueError: shapes that do not fit, another number of levels, or a clip that is not negative and finite.
        FloatingPointError: a number is NaN or infinite.
    """
    check_levels(clip, exponentials)
    call = _Call(query, key, value, mask, is_causal, scale)
    if not call.few:
        return call.many(exaq_weights(clip, tuple(exponentials)))
    return call.decode(clip, list(exponentials))


def consmax(
    query: Tensor,
    key: Tensor | Cached,
    value: Tensor | Cached,
    offset: Tensor,
    ceiling: float,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return attention with `exp(score - offset)`, at most `ceiling`.

    Args:
        query: as `exaq`.
        key: as `exaq`.
        value: as `exaq`.
        offset: beta + log(gamma), () or (heads,).
        ceiling: the largest probability.
        mask: as `exaq`.
        is_causal: as `exaq`.
        scale: as `exaq`.

    Raises:
        RuntimeError, TypeError, ValueError, FloatingPointError: as `exaq`; or offsets that do not fit.
    """
    call = _Call(query, key, value, mask, is_causal, scale)
    heads = query.shape[1]
    if offset.shape not in ((), (heads,)):
        raise ValueError(f"offsets are ({heads},) or one number, not {tuple(offset.shape)}")
    offsets = offset.detach().to(torch.float32).expand(heads).contiguous()
    if not call.few:
        return call.many(consmax_weights(), offsets, math.log(ceiling))
    return call.decode(-1.0, [], offsets, math.log(ceiling))


class _Call:
    """What is given, checked, and as the kernels take it."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor | Cached,
        value: Tensor | Cached,
        mask: Tensor | None,
        is_causal: bool,
        scale: float | None,
    ) -> None:
        self.kernels: Any = loaded()
        if not can_run(query, key, value):
            raise TypeError(
                f"kernels take query, key and value all in float32 or all in bfloat16 on the CPU, up to {WIDEST} "
                f"channels, not {', '.join(_kind(x) for x in (query, key, value))}"
            )
        keys, values = (x.codes if isinstance(x, Cached) else x for x in (key, value))
        check_shapes(query, keys, values)
        self.cached = isinstance(key, Cached)
        self.few = self.cached or query.shape[1] // keys.shape[1] * query.shape[2] <= FEW
        self.query = query.float() if self.few else query
        self.query, self.key, self.value = (
            x if x.stride(-1) == 1 else x.contiguous() for x in (self.query, keys, values)
        )
        self.steps = [x.steps if isinstance(x, Cached) else None for x in (key, value)]
        self.mask = None if mask is None else _mask(mask, query, keys)
        self.dtype = query.dtype
        self.is_causal = is_causal
        self.scale = query.shape[-1] ** -0.5 if scale is None else scale

    def many(self, weights: Weights, offsets: Tensor | None = None, limit: float = 0.0) -> Tensor:
        """Run the kernel of many queries."""
        resolutions, planes = weights.tables.shape[:2]
        how = self.kernels.AttentionWeights(
            weights.step,
            resolutions,
            planes,
            weights.tables.ctypes.data,
            weights.normalised,
            _pointer(offsets),
            limit,
            weights.one,
        )
        return self._run(getattr(self.kernels, f"attend_{DTYPES[self.dtype]}"), how, [])

    def decode(
        self, clip: float, exponentials: list[float], offsets: Tensor | None = None, limit: float = 0.0
    ) -> Tensor:
        """Run the kernel of a few queries."""
        how = self.kernels.Normalisation(clip, exponentials, _pointer(offsets), limit)
        kind = "int8" if self.cached else DTYPES[self.dtype]
        return self._run(getattr(self.kernels, f"decode_{kind}"), how, [_pointer(x) for x in self.steps])

    def _run(self, run: Any, how: Any, steps: list[int]) -> Tensor:
        query, key, value, mask = self.query, self.key, self.value, self.mask
        result = query.new_empty((*query.shape[:-1], value.shape[-1]))
        if result.numel() == 0 or key.shape[2] == 0:
            return result.zero_().to(self.dtype)
        shape = self.kernels.AttentionShape(
            [*query.shape[:2], key.shape[1], query.shape[2], key.shape[2], key.shape[3], value.shape[3]],
            *(list(x.stride()[:3]) for x in (query, key, value, result)),
            [0] * 4 if mask is None else list(mask.stride()),
            0 if self.steps[0] is None else self.steps[0].stride(1),
            mask is not None,
            self.is_causal,
        )
        pointers = [x.data_ptr() for x in (query, key, value)]
        if not run(
            shape, how, self.scale, *pointers, *steps, _pointer(mask), result.data_ptr(), torch.get_num_threads()
        ):
            raise FloatingPointError("query, key or value holds NaN or infinity")
        return result.to(self.dtype)


def _pointer(values: Tensor | None) -> int:
    return 0 if values is None else values.data_ptr()


def _kind(given: Tensor | Cached) -> str:
    return "an 8-bit cache" if isinstance(given, Cached) else f"{given.shape[-1]} of {given.dtype} on {given.device}"


def check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Refuse queries, keys and values that do not go together.

    Raises:
        ValueError: they do not.
    """
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if not query.ndim == key.ndim == value.ndim == 4:
        raise ValueError(f"query, key and value are (batch, heads, tokens, channels), not {shapes}")
    if key.shape[:3] != value.shape[:3] or query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"keys have the batch and channels of the queries, values the tokens of the keys; got {shapes}"
        )
    if key.shape[1] == 0 or query.shape[1] % key.shape[1]:
        raise ValueError(f"the heads of the queries are a multiple of those of the keys; got {shapes}")


def _mask(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask is boolean, True where attended, not {mask.dtype}")
    wide = broadcast_mask(mask, (*query.shape[:3], key.shape[2]))
    return wide if wide.stride(-1) in (0, 1) else wide.contiguous()
