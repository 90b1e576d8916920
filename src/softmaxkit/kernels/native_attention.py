"""Attention by native kernels, without materialising the matrix of scores.

Many queries of all but softmax: 8-bit products, one stripe of queries at a time. Keys are quantised to 8 bits with a
step per channel; queries are multiplied by these steps and then quantised with a step per query. Values have a step per
column. The steps come from all keys and values that any query attends to, so other queries' keys affect a result within
the 8-bit error; keys and values that no query attends to have no effect. The distance of a score from its row's
maximum, or from where its weight saturates, indexes a table of 8-bit weights, whose rounding is dithered across panels
of keys so that errors average out. If the expected error is too large, `too_coarse` reports it, and
`fused_attention.native` has torch compute the sequence in float32: mostly before anything is multiplied, from a sample
of the queries; the error of all of them is known once they are quantised.

A few queries, as in generation: keys and values are read without conversion, numbers with float32 products, a cache as
codes. With AVX-512 all products with codes are integer products: a query is quantised to 16 bits
relative to its largest channel, and the products of weights and value steps to 16 bits relative to the largest of 128
keys.

Softmax to any base: for a few queries as above. For many with AMX by bfloat16 products and float32 sums, like torch's
own attention in bfloat16; otherwise, and for float16, by products of 16-bit integers (`native/word_operands.hpp`), with
weights of 13 bits relative to the largest of 64 keys, and `too_coarse` as for 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from softmaxkit.kernels.attention import FEW, WIDEST, AttentionCall, are_few, attention_scale, check_shapes
from softmaxkit.kernels.builds import VARIABLE
from softmaxkit.kernels.codes import Cached, Paged, batch_stride
from softmaxkit.kernels.launch import DTYPES, address, loaded, readable_mask, side_by_side, untraced


class Limits(NamedTuple):
    """The largest errors that products of integers may have; beyond them torch computes in float32.

    Attributes:
        bits: of the integers.
        scores: root mean square error of the scores, in nats, as expected for the worst head.
        values: root mean square error of the values, relative to their size without the largest of each column; for 16
            bits of the worst panel of keys.
    """

    bits: int
    scores: float
    values: float


EIGHT_BITS = Limits(8, 0.1, 1 / 32)
"""For the methods, whose own departure from exact attention is larger."""
SIXTEEN_BITS = Limits(16, 2**-9, 2**-9)
"""For softmax: about what rounding results to bfloat16 costs, 0.17% (root mean square)."""
IN_FLOAT16 = Limits(16, 2**-11, 2**-11)
"""For softmax in float16: about twice the error of torch's own attention there."""
SAMPLE = 32
"""Queries of a head from which the error of its scores is estimated before anything is multiplied."""


class TooCoarseError(ArithmeticError):
    """The expected error of products of integers exceeds their `Limits`."""


def too_coarse(scores: float, values: float, limits: Limits = EIGHT_BITS) -> str:
    """Return why products of integers are too coarse; empty if they are not. The only place that decides this.

    Args:
        scores: expected root mean square error of the scores, in nats, of the worst head.
        values: expected root mean square error of the values relative to their size, of the worst head.
        limits: what they may be.
    """
    bits = limits.bits
    if scores > limits.scores:
        most = limits.scores
        return f"{bits} bits would change these scores by {scores:.2g} (root mean square), more than {most:.2g}"
    if values > limits.values:
        return f"{bits} bits would change these values by {values:.2%} of their size, more than {limits.values:.2%}"
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
    kernels: ModuleType | None = None,
) -> Tensor:
    """Return attention whose weights are defined by `call`.

    Args:
        query: float32, bfloat16 or float16 on the CPU, (batch, heads, queries, channels).
        key: of the same dtype, (batch, key heads, keys, channels), or the keys of a cache. The number of heads is a
            multiple of the number of key heads; consecutive heads share a key head.
        value: of the same dtype, (batch, key heads, keys, value channels), or the values of a cache with as many bits.
        call: how scores become weights.
        mask: boolean on the CPU, True where attended, broadcasts to (batch, heads, queries, keys).
        is_causal: a query attends to the keys up to its own index.
        scale: factor of the scores; 1/sqrt(channels) if None.
        lengths: integers, (batch,): each sequence attends to this many of its first keys. For up to `FEW` queries only.
        kernels: the module of a build of the native kernels; the one in use if None.

    Returns:
        (batch, heads, queries, value channels), in the dtype of the query; zeros for a fully masked query.

    Raises:
        RuntimeError: no native kernels run here, or none for softmax of many queries, see
            `softmaxkit.kernels.backends`.
        TypeError: a dtype or device is not supported, or the mask is not boolean.
        ValueError: the shapes do not match, offsets or clips are those of another number of heads, or lengths are
            passed with many queries.
        FloatingPointError: an input is NaN or infinite, or, for softmax, a score or a result.
        TooCoarseError: the error of products of integers would be too large, see `too_coarse`.
    """
    operands = _Operands(query, key, value, mask, is_causal, scale, kernels or loaded())
    if lengths is not None and not operands.are_few:
        raise ValueError(f"lengths are accepted for up to {FEW} queries per key head; pass a mask for more")
    if lengths is not None and lengths.shape != query.shape[:1]:
        raise ValueError(f"lengths must be ({query.shape[0]},), one for each sequence, got {tuple(lengths.shape)}")
    if call.form == "softmax" and not operands.are_few:
        return operands.softmax(call.base)
    if len(call.clips) not in (0, 1, query.shape[1]):
        raise ValueError(f"there must be one clip, or one for each of {query.shape[1]} heads, got {len(call.clips)}")
    offsets = call.offsets(query.shape[1])
    return operands.few(call, offsets, lengths) if operands.are_few else operands.many(call, offsets)


@untraced
def reason_against_integers(
    query: Tensor,
    key: Tensor | Cached,
    value: Tensor | Cached,
    call: AttentionCall,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> str:
    """Return why `attend` would raise TooCoarseError for the same arguments; empty if it would not."""
    operands = _Operands(query, key, value, mask, is_causal, scale, loaded())
    if operands.are_few:
        return ""
    try:
        if call.form == "softmax":
            operands.softmax(call.base, only_pack=True)
        else:
            operands.many(call, call.offsets(query.shape[1]), only_pack=True)
    except TooCoarseError as error:
        return str(error)
    except FloatingPointError:
        pass  # torch runs such inputs, but not because of the bits
    return ""


class _Operands:
    """The checked tensors, in the layout that the kernels accept."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor | Cached,
        value: Tensor | Cached,
        mask: Tensor | None,
        is_causal: bool,
        scale: float | None,
        kernels: Any,
    ) -> None:
        self.kernels = kernels
        is_supported = query.is_cpu and query.dtype in DTYPES
        if not is_supported or AttentionCall.reasons("native", query, key, value):
            raise TypeError(
                "query, key and value must all be float32, all bfloat16 or all float16 on the CPU, with up to "
                f"{WIDEST['native']} channels, or in caches of as many bits; got "
                f"{', '.join(_kind(x) for x in (query, key, value))}"
            )
        check_shapes(query, key, value)
        batch, heads, queries, channels = query.shape
        _, key_heads, keys, value_channels = value.shape
        self.sizes = [batch, heads, key_heads, queries, keys, channels, value_channels]
        self.dtype = query.dtype
        self.mask = None if mask is None else readable_mask(mask, (batch, heads, queries, keys), query.device)
        self.is_causal = is_causal
        self.scale = attention_scale(query, scale)
        self.codes: tuple[Cached, Cached] | None = None
        if isinstance(key, Cached) and isinstance(value, Cached):
            self.codes, self.are_few = (key, value), True
            key, value = key.codes, value.codes
        else:
            self.are_few = are_few(query, key)
        assert isinstance(key, Tensor)
        assert isinstance(value, Tensor)
        self.query, self.key, self.value = side_by_side(query), side_by_side(key), side_by_side(value)

    def many(self, call: AttentionCall, offsets: Tensor | None, only_pack: bool = False) -> Tensor:
        """Run the kernel for many queries; or only quantise the operands, which raises TooCoarseError if need be."""
        weights = call.weights
        native_weights = self.kernels.AttentionWeights(
            *weights.tables.shape[:3],
            weights.tables.ctypes.data,
            weights.steps.ctypes.data,
            0 if weights.anchors is None else weights.anchors.ctypes.data,
            address(offsets),
            call.log_limit,
            weights.one,
        )
        return self._multiply("Attention", EIGHT_BITS, only_pack, native_weights, self.scale)

    def softmax(self, base: float, only_pack: bool = False) -> Tensor:
        """Run the softmax kernel for many queries; `only_pack` as in `many`."""
        if not hasattr(self.kernels, "SoftmaxAttention_float32"):
            raise RuntimeError(
                f"softmax attention of more than {FEW} queries per key head has native kernels for AVX2, AVX-512 and "
                f"AMX only; {VARIABLE} selects one of those that the processor supports"
            )
        limits = IN_FLOAT16 if self.dtype == torch.float16 else SIXTEEN_BITS
        return self._multiply("SoftmaxAttention", limits, only_pack, self.scale * math.log2(base))

    def _multiply(self, kind: str, limits: Limits, only_pack: bool, *given: Any) -> Tensor:
        """Run a kernel for many queries, unless its products are too coarse.

        `given` are its arguments between the shape and the addresses.
        """
        kernel = getattr(self.kernels, f"{kind}_{DTYPES[self.dtype]}")

        def run(shape: Any, pointers: list[int], tail: list[int]) -> bool:
            packed = kernel(shape, *given, *pointers, *tail)
            stride = 1 if only_pack else max(1, self.query.shape[2] // SAMPLE)
            expected = packed.precision(stride)
            if stride > 1 and too_coarse(expected.scores, expected.values, limits):
                expected = packed.precision(1)  # the sample may have the largest queries
            _check(expected, limits)
            if only_pack or not expected.finite:
                return bool(expected.finite)
            reached = packed.run()
            _check(reached, limits)
            return bool(reached.finite)

        return self._run(run)

    def few(self, call: AttentionCall, offsets: Tensor | None, lengths: Tensor | None) -> Tensor:
        """Run the kernel for a few queries."""
        rate = math.log2(call.base) if call.form == "softmax" else 0.0
        normalisation = self.kernels.Normalisation(
            call.clips, call.entries, address(offsets), call.log_limit, call.form == "logistic", rate
        )
        kind, more = DTYPES[self.dtype], []
        counts = None if lengths is None else lengths.to("cpu", torch.int64).contiguous()
        if self.codes is not None:
            keys, values = self.codes
            of_key, of_value = side_by_side(keys.steps), side_by_side(values.steps)
            table, pages = None, [0, 0]
            if isinstance(keys, Paged):
                table, pages = keys.table.contiguous(), [keys.table.shape[1], keys.codes.shape[2]]
            frame = [None if x is None else x.contiguous() for x in (keys.centre, keys.factor)]
            kind = f"codes{keys.bits}_{kind}"
            more = [address(of_key), address(of_value), of_key.stride()[:3], of_value.stride()[:3]]
            more += [address(table), pages, *map(address, frame), batch_stride(*frame)]
        kernel = getattr(self.kernels, f"decode_{kind}")
        return self._run(
            lambda shape, pointers, tail: kernel(
                shape, normalisation, self.scale, *pointers, *more, address(counts), *tail
            )
        )

    def _run(self, kernel: Callable[[Any, list[int], list[int]], bool]) -> Tensor:
        query, key, value, mask = self.query, self.key, self.value, self.mask
        result = query.new_empty((*query.shape[:-1], self.sizes[-1]))
        if result.numel() == 0 or self.sizes[4] == 0:
            return result.zero_()
        shape = self.kernels.AttentionShape(
            self.sizes,
            *(x.stride()[:3] for x in (query, key, value, result)),
            (0, 0, 0, 0) if mask is None else mask.stride(),
            mask is not None,
            self.is_causal,
        )
        pointers = [address(query), address(key), address(value)]
        if not kernel(shape, pointers, [address(mask), address(result), torch.get_num_threads()]):
            raise FloatingPointError("query, key or value contains NaN or infinity, or a result overflows")
        return result


def _kind(operand: Tensor | Cached) -> str:
    if isinstance(operand, Cached):
        return f"a cache of {operand.bits} bits on {operand.device}"
    return f"{operand.shape[-1]} channels of {operand.dtype} on {operand.device}"


def _check(precision: Any, limits: Limits) -> None:
    """Raise TooCoarseError if products are too coarse. Errors of inputs that are not finite mean nothing."""
    if precision.finite and (reason := too_coarse(precision.scores, precision.values, limits)):
        raise TooCoarseError(reason)
