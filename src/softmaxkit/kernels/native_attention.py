"""Attention by native kernels, without the whole matrix of scores.

Many queries: 8-bit products, the scores of a stripe of queries at a time. Keys have 8 bits, a step for each channel,
which the queries take up before they have one of their own; values have 8 bits, a step for each column. So a query's
result depends, within the error of 8 bits, on keys and values that other queries see; those that none sees count for
nothing. A score's distance from its row's largest addresses a table of 8-bit weights; rounding is dithered across key
panels, so errors average out. Where 8 bits would err by too much, `too_coarse` says so before anything is multiplied,
and float32 runs instead.

A few queries, as in generation, read keys and values as they come: float32 and bfloat16 in float32 products, those of a
cache in its codes. There, with AVX-512, queries have 15 bits of their largest, and weights times the steps of their
values 15 bits of the largest of 128 keys, so that all products are integers.

Softmax itself, to any base, with AMX alone: products of bfloat16, sums of float32, as torch's own in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from softmaxkit.kernels.attention import FEW, WIDEST, AttentionCall, are_few, check_shapes, default_scale
from softmaxkit.kernels.codes import Cached, Paged
from softmaxkit.kernels.launch import DTYPES, loaded
from softmaxkit.masks import expand_mask

SCORE_ERROR = 0.1
"""Expected error of scores by 8 bits, root mean square in nats, of the worst head, above which float32 takes over."""
VALUE_ERROR = 1 / 32
"""The same of values, as a share of their size without the largest of each column."""


class TooCoarseError(ArithmeticError):
    """8 bits would err by more than `SCORE_ERROR` or `VALUE_ERROR`."""


def too_coarse(scores: float, values: float) -> str:
    """Say why 8 bits will not do for an attention; empty where they do. The one place that decides it.

    Args:
        scores: expected root mean square error of the scores, in nats, of the head that has the largest.
        values: expected root mean square error of the values over their size, likewise.
    """
    if scores > SCORE_ERROR:
        return (
            f"8 bits would change these scores by {scores:.2g} (root mean square), which is more than {SCORE_ERROR:g}"
        )
    if values > VALUE_ERROR:
        return f"8 bits would change these values by {values:.1%} of their size, which is more than {VALUE_ERROR:.1%}"
    return ""


def attend(
    query: Tensor,
    key: Tensor | Cached,
    value: Tensor | Cached,
    call: AttentionCall,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Return attention with weights as `call` says.

    Args:
        query: float32 or bfloat16 on the CPU, (batch, heads, queries, channels).
        key: the same dtype, (batch, key heads, keys, channels); each head serves as many consecutive heads of queries.
            Or those of a cache.
        value: (batch, key heads, keys, value channels), or those of a cache of as many bits.
        call: how scores become weights.
        mask: boolean, True where attended, broadcasts to (batch, heads, queries, keys).
        is_causal: a query attends to the keys up to its own index.
        scale: factor of the scores; 1/sqrt(channels) if None.
        lengths: int64 on the CPU, (batch,), of a few queries: how many of its first keys each sequence attends to,
            which are no more than there are.

    Returns:
        (batch, heads, queries, value channels); zeros for a query that attends to nothing.

    Raises:
        RuntimeError: no kernels are built, or none for softmax itself, see `softmaxkit.kernels.backends`.
        TypeError: tensors of another kind, or a mask that is not boolean.
        ValueError: shapes that do not fit.
        FloatingPointError: a number is NaN or infinite; of softmax itself, a score or a result too.
        TooCoarseError: 8 bits would not keep scores or values apart, see `too_coarse`.
    """
    operands = _Operands(query, key, value, mask, is_causal, scale)
    if lengths is not None and (call.base or not operands.are_few):
        raise ValueError(f"lengths go with up to {FEW} queries of a head of keys; say it by a mask to more")
    if lengths is not None and lengths.shape != query.shape[:1]:
        raise ValueError(f"lengths are one for each of {query.shape[0]} sequences, not {tuple(lengths.shape)}")
    if call.base:
        return operands.softmax(call.base)
    offsets = call.offsets(query.shape[1])
    return operands.few(call, offsets, lengths) if operands.are_few else operands.many(call, offsets)


def reason_against_8_bits(
    query: Tensor,
    key: Tensor | Cached,
    value: Tensor | Cached,
    call: AttentionCall,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> str:
    """Say why `attend` would raise TooCoarseError, arguments as there; empty where it would not."""
    operands = _Operands(query, key, value, mask, is_causal, scale)
    if operands.are_few:
        return ""
    try:
        operands.many(call, call.offsets(query.shape[1]), only_pack=True)
    except TooCoarseError as error:
        return str(error)
    except FloatingPointError:
        pass  # torch runs these, for a reason that has nothing to do with 8 bits
    return ""


class _Operands:
    """The tensors, checked, and as the kernels accept them."""

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
        tensors = [x for x in (query, key, value) if isinstance(x, Tensor)]
        foreign = any(x.device.type != "cpu" or x.dtype not in DTYPES for x in tensors)
        if foreign or AttentionCall.reasons("native", query, key, value):
            raise TypeError(
                "kernels take query, key and value all in float32 or all in bfloat16 on the CPU, "
                f"up to {WIDEST['native']} channels, not {', '.join(_kind(x) for x in (query, key, value))}"
            )
        check_shapes(query, key, value)
        cached = [x for x in (key, value) if isinstance(x, Cached)]
        self.kind = f"codes{cached[0].bits}" if cached else DTYPES[query.dtype]
        self.steps = [x.steps if x.steps.stride(-1) == 1 else x.steps.contiguous() for x in cached]
        self.are_few = bool(cached) or are_few(query, key)
        self.query = query.float() if self.are_few else query
        self.query, self.key, self.value = (
            x if x.stride(-1) == 1 else x.contiguous()
            for x in (self.query, *(x.codes if isinstance(x, Cached) else x for x in (key, value)))
        )
        self.shifts = None
        if cached:
            self.shifts = _shifts(self.query, cached[0])
            self.query = cached[0].taken_up(self.query)
        self.table, self.pages = None, [0, 0]
        if isinstance(key, Paged):
            self.table = key.table.contiguous()
            self.pages = [key.table.shape[1], key.codes.shape[2]]
        self.sizes = [*query.shape[:2], key.shape[1], query.shape[2], *key.shape[2:], value.shape[3]]
        self.mask = None if mask is None else _mask(mask, query, key)
        self.dtype = query.dtype
        self.is_causal = is_causal
        self.scale = default_scale(query) if scale is None else scale

    def many(self, call: AttentionCall, offsets: Tensor | None, only_pack: bool = False) -> Tensor:
        """Run the kernel of many queries, or only bring them to 8 bits, to see whether that will do."""
        weights = call.weights
        resolutions, planes = weights.tables.shape[:2]
        native_weights = self.kernels.AttentionWeights(
            weights.step,
            resolutions,
            planes,
            weights.tables.ctypes.data,
            weights.normalised,
            _pointer(offsets),
            call.log_limit,
            weights.one,
        )
        return self._run(partial(self._attend_in_8_bits, native_weights, only_pack))

    def _attend_in_8_bits(
        self, weights: Any, only_pack: bool, shape: Any, pointers: list[int], tail: list[int]
    ) -> bool:
        packed = getattr(self.kernels, f"Attention_{DTYPES[self.dtype]}")(shape, weights, self.scale, *pointers, *tail)
        precision = packed.precision()
        if precision.finite and (reason := too_coarse(precision.scores, precision.values)):
            raise TooCoarseError(reason)
        return bool(precision.finite and (only_pack or packed.run()))

    def softmax(self, base: float) -> Tensor:
        """Run the kernel of softmax itself."""
        kernel = getattr(self.kernels, f"softmax_attention_{DTYPES[self.dtype]}", None)
        if kernel is None:
            raise RuntimeError("softmax itself has a kernel with AMX alone, which SOFTMAXKIT_KERNELS=amx asks for")
        self.query = self.query.to(self.dtype)
        return self._run(lambda shape, pointers, tail: kernel(shape, self.scale * math.log2(base), *pointers, *tail))

    def few(self, call: AttentionCall, offsets: Tensor | None, lengths: Tensor | None) -> Tensor:
        """Run the kernel of a few queries."""
        normalisation = self.kernels.Normalisation(
            call.clip, list(call.exponentials), _pointer(offsets), call.log_limit
        )
        kernel = getattr(self.kernels, f"decode_{self.kind}")
        shifts = None if self.shifts is None else (self.shifts * self.scale).contiguous()
        steps = [*(_pointer(x) for x in self.steps), *(list(x.stride()[:3]) for x in self.steps)]
        if self.steps:
            steps += [_pointer(self.table), self.pages, _pointer(shifts)]
        counts = None if lengths is None else lengths.to("cpu", torch.int64).contiguous()
        return self._run(
            lambda shape, pointers, tail: kernel(
                shape, normalisation, self.scale, *pointers, *steps, _pointer(counts), *tail
            )
        )

    def _run(self, kernel: Callable[[Any, list[int], list[int]], bool]) -> Tensor:
        query, key, value, mask = self.query, self.key, self.value, self.mask
        result = query.new_empty((*query.shape[:-1], self.sizes[-1]))
        if result.numel() == 0 or self.sizes[4] == 0:
            return result.zero_().to(self.dtype)
        shape = self.kernels.AttentionShape(
            self.sizes,
            *(list(x.stride()[:3]) for x in (query, key, value, result)),
            [0] * 4 if mask is None else list(mask.stride()),
            mask is not None,
            self.is_causal,
        )
        pointers = [x.data_ptr() for x in (query, key, value)]
        if not kernel(shape, pointers, [_pointer(mask), result.data_ptr(), torch.get_num_threads()]):
            raise FloatingPointError("query, key or value holds NaN or infinity")
        return result.to(self.dtype)


def _shifts(query: Tensor, keys: Cached) -> Tensor | None:
    """Return what the keys' centre adds to all products of a query, (batch, heads, queries)."""
    if keys.centre is None:
        return None
    return (query * keys.centre.repeat_interleave(query.shape[1] // keys.centre.shape[1], dim=1)).sum(-1)


def _pointer(values: Tensor | None) -> int:
    return 0 if values is None else values.data_ptr()


def _kind(operand: Tensor | Cached) -> str:
    if isinstance(operand, Cached):
        return f"a cache of {operand.bits} bits"
    return f"{operand.shape[-1]} of {operand.dtype} on {operand.device}"


def _mask(mask: Tensor, query: Tensor, key: Tensor | Cached) -> Tensor:
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask is boolean, True where attended, not {mask.dtype}")
    wide: Tensor = expand_mask(mask, (*query.shape[:3], key.shape[2]))
    return wide if wide.stride(-1) in (0, 1) else wide.contiguous()
