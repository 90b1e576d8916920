"""Attention as a call: how scores become weights, and which kinds of kernels support given tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from softmaxkit.kernels.backends import Support, interprets, is_traced, softmax_products
from softmaxkit.kernels.codes import BITS, Cached
from softmaxkit.kernels.launch import DTYPES
from softmaxkit.kernels.rows import are_exponentials, check_entries, check_offset
from softmaxkit.kernels.weights import Weights, exponential_weights, level_weights, logistic_weights

WIDEST = {"native": 2**14, "triton": 256, "flex": 256}
"""Maximum channels by kind of kernel: so that sums of 8-bit products fit 32 bits, or one GPU program holds a row."""
CACHED_BITS = {"native": {0, *BITS}, "triton": {0, *BITS}, "flex": {0}}
"""Bits of the caches that each kind of kernel can read; 0 for floating-point keys and values."""
NATIVE_SUPPORT, GPU_SUPPORT = Support(DTYPES, traceable=True), Support(DTYPES, differentiable=True)
"""What the kernels support."""
LEAST_FLEX_CHANNELS = 16
"""Minimum channels for which FlexAttention compiles."""
MOST_LEVELS = 64
"""Maximum levels: 8-bit products tell distances of half a level apart, see `weights.level_weights`."""
FEW = 12
"""Maximum queries per key head for which keys and values are not quantised: quantising them would take longer."""
LEAST_READ = {torch.float16: 1 << 18, torch.bfloat16: 1 << 19, torch.float32: 1 << 21}
"""Minimum numbers of keys, counted again for every head that shares them, for which softmax attention of a few queries
runs by a kernel: torch's own takes less time to call, but more for keys beyond the caches and for 16 bits."""
FEW_IN_16_BITS = 3
"""Maximum queries per head for which it does so in 16 bits: more make a matrix, which torch multiplies as fast."""

LEAST_QUERIES = {torch.float16: 48, torch.bfloat16: 48, torch.float32: 128}
LEAST_MULTIPLIED = {torch.float16: 1 << 23, torch.bfloat16: 1 << 23, torch.float32: 1 << 26}
"""Minimum queries of a head with keys of its own, and multiplications of queries with keys in all, for which softmax
attention of many queries runs by a kernel: before that, packing the operands takes longer than multiplying them."""
QUERIES_TO_START = 12
"""Queries whose time torch's own attention takes in addition for every head. A kernel packs keys once for all heads
that share them, so these need fewer queries."""


Form = Literal["levels", "exponential", "logistic", "softmax"]
"""What weights are, as an `AttentionCall` constructs them."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """How scores become weights; constructed by `by_levels`, `by_exponential`, `by_logistic` or `by_softmax`.

    Attributes:
        form: which of these.
        clips: the lowest level, one or one per head; empty without levels.
        entries: what the levels weigh, for each of these.
        offset: () or (heads,), subtracted from the scores before the exponential or logistic function.
        limit: the largest weight of an exponential.
        base: of softmax.
        are_exponentials: whether the entries are those of the levels, of which the lowest may be 0.
    """

    form: Form
    clips: tuple[float, ...] = ()
    entries: tuple[tuple[float, ...], ...] = ()
    offset: Tensor | None = None
    limit: float = 1.0
    base: float = math.e
    are_exponentials: bool = False

    @classmethod
    def by_levels(cls, clip: float, entries: Sequence[float]) -> Self:
        """Round the scores' distances from their row's maximum to levels, look up their weights, and normalise.

        Args:
            clip: the lowest level, negative.
            entries: for each level, evenly spaced from the clip up to 0; 2 to 64 of them, not negative, the last
                positive. GPU kernels take exponentials of the levels, of which the lowest may be 0.

        Raises:
            ValueError: as `rows.check_entries`.
        """
        check_entries(clip, entries, MOST_LEVELS)
        return cls("levels", (clip,), (tuple(entries),), are_exponentials=are_exponentials(clip, entries))

    @classmethod
    def by_levels_of_heads(cls, clips: Sequence[float], entries: Sequence[Sequence[float]]) -> Self:
        """Do so with a clip and weights for each head.

        Args:
            clips: of the heads, as in `by_levels`.
            entries: of the heads, as in `by_levels`; as many for all.

        Raises:
            ValueError: as `by_levels`, or the numbers of clips or levels do not match.
        """
        if len(clips) != len(entries) or len({len(of_head) for of_head in entries}) != 1:
            raise ValueError(
                f"there must be as many levels for each of {len(clips)} clips, got {[len(x) for x in entries]}"
            )
        every = [cls.by_levels(clip, of_head) for clip, of_head in zip(clips, entries, strict=True)]
        tables = tuple(call.entries[0] for call in every)
        alike = len({of_head[0] == 0 for of_head in tables}) == 1 and all(call.are_exponentials for call in every)
        return cls("levels", tuple(clips), tables, are_exponentials=alike)

    @classmethod
    def by_exponential(cls, offset: Tensor, limit: float) -> Self:
        """Use `min(exp(score - offset), limit)` as weights, without normalisation.

        Args:
            offset: floating, () or (heads,).
            limit: the largest weight, positive and finite.

        Raises:
            ValueError: the limit is not positive and finite.
        """
        if not 0 < limit < math.inf:
            raise ValueError(f"limit, the largest weight, must be positive and finite, got {limit}")
        return cls("exponential", offset=offset, limit=limit)

    @classmethod
    def by_logistic(cls, offset: Tensor) -> Self:
        """Use `1 / (1 + exp(offset - score))` as weights, without normalisation.

        Args:
            offset: floating, () or (heads,).
        """
        return cls("logistic", offset=offset)

    @classmethod
    def by_softmax(cls, base: float) -> Self:
        """Use softmax to a base: on the CPU, and on GPUs for a few queries over a cache of codes."""
        return cls("softmax", base=base)

    kernel: ClassVar[str] = "attention"

    def support(self, kind: str) -> Support | None:
        """Return what the kernels support: gradients on GPUs only, and FlexAttention only exponentials."""
        if kind == "native":
            return NATIVE_SUPPORT
        if kind == "flex":
            return GPU_SUPPORT if self.form == "exponential" else None
        return None if self.form == "levels" and not self.are_exponentials else GPU_SUPPORT

    @staticmethod
    def reasons(kind: str, query: Tensor, key: Tensor | Cached, value: Tensor | Cached) -> list[str]:
        """Return the reasons, apart from device and dtype, why a kind of kernel does not support these tensors."""
        reasons = []
        widest, bits = WIDEST[kind], _bits(key)
        if (channels := max(query.shape[-1], 0 if kind == "native" else value.shape[-1])) > widest:
            reasons.append(f"it supports up to {widest} channels, not {channels}")
        if bits != _bits(value):
            reasons.append("keys and values must both be in caches of the same number of bits, or neither")
        elif bits not in CACHED_BITS[kind]:
            reasons.append(f"it does not support {bits}-bit caches")
        if kind == "flex" and min(query.shape[-1], value.shape[-1]) < LEAST_FLEX_CHANNELS:
            reasons.append(f"it needs {LEAST_FLEX_CHANNELS} channels or more")
        if not query.device == key.device == value.device:
            reasons.append("query, key and value are on different devices")
        for x in (key, value):
            if isinstance(x, Tensor) and x.dtype != query.dtype:
                reasons.append("query, key and value have different dtypes")
                break
        return reasons

    @property
    def log_limit(self) -> float:
        """Natural logarithm of the limit."""
        return math.log(self.limit)

    @property
    def weights(self) -> Weights:
        """The tables of 8-bit weights for many queries."""
        if self.form == "levels":
            return level_weights(self.clips, self.entries)
        return logistic_weights() if self.form == "logistic" else exponential_weights()

    def offsets(self, heads: int) -> Tensor | None:
        """Return the offset of every head, float32 on the CPU, (heads,); None without offsets.

        Raises:
            ValueError: the offset is for another number of heads.
        """
        if self.offset is None:
            return None
        check_offset(self.offset, heads)
        return self.offset.detach().to("cpu", torch.float32).expand(heads).contiguous()


def are_few(query: Tensor, keys: Tensor | Cached) -> bool:
    """Return whether there are at most `FEW` queries per key head, so that keys and values are not quantised."""
    return query.shape[1] // keys.shape[1] * query.shape[2] <= FEW


def _bits(tokens: Tensor | Cached) -> int:
    """Return the bits of the codes of keys or values; 0 without codes."""
    return tokens.bits if isinstance(tokens, Cached) else 0


def has_softmax_kernel(query: Tensor, key: Tensor | Cached) -> bool:
    """Return whether a kernel of this package could run softmax attention of these queries.

    An exported program or a trace keeps torch's own operator, which runs without this package.
    """
    if isinstance(key, Cached):
        return True
    if query.device.type != "cpu" or interprets() or torch.compiler.is_exporting() or is_traced():
        return False
    return are_few(query, key) or bool(softmax_products(query.dtype))


def reasons_against_softmax(query: Tensor, key: Tensor) -> list[str]:
    """Return the reasons why softmax attention runs as torch's own, which is as fast or more precise."""
    if are_few(query, key):
        batch, heads, queries = query.shape[:3]
        if query.dtype.itemsize == 2 and queries > FEW_IN_16_BITS:
            return [f"for more than {FEW_IN_16_BITS} queries per head in 16 bits, torch's own attention is as fast"]
        least = LEAST_READ.get(query.dtype, 0)
        keys, channels = key.shape[2:]
        if batch * heads * keys * channels < least:
            return [f"torch's own attention is faster until it reads {least:,} numbers of keys, again for every head"]
        return []
    if query.dtype == torch.float32 and float32_precision() != "medium":
        return [
            f"it multiplies float32 in {softmax_products(query.dtype)}, which "
            "torch.set_float32_matmul_precision('medium') would permit"
        ]
    batch, heads, queries, channels = query.shape
    alone = LEAST_QUERIES.get(query.dtype, 0) + QUERIES_TO_START
    if queries < (least := -(-alone // (heads // key.shape[1])) - QUERIES_TO_START):
        return [f"for fewer than {least} queries per head, torch's own attention is at least as fast"]
    if batch * heads * queries * key.shape[2] * channels < (least := LEAST_MULTIPLIED.get(query.dtype, 0)):
        return [f"for fewer than {least:,} multiplications of queries with keys, torch's own is at least as fast"]
    return []


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def float32_precision() -> str | None:
    """Return torch's precision of float32 products; None if it was set for single back ends only."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # it is not known once torch.backends.cuda.matmul.fp32_precision, for instance, was set
        return None


def attention_scale(query: Tensor, scale: float | None) -> float:
    """Return the factor of the scores: by default 1/sqrt(channels), or 1 if there are no channels.

    Raises:
        TypeError: the scale is not a number.
    """
    if scale is None:
        return float(max(query.shape[-1], 1) ** -0.5)
    if not is_number(scale):
        raise TypeError(f"scale must be a number, got {type(scale).__name__}; multiply the queries by a learned scale")
    return scale


def check_tensors(**given: object) -> None:
    """Check that arguments are torch tensors.

    Raises:
        TypeError: one is something else, such as a list.
    """
    for name, argument in given.items():
        if argument is None:
            raise TypeError(f"{name} must be a torch tensor, got None")
        if not isinstance(argument, Tensor):
            raise TypeError(f"{name} must be a torch tensor, got {type(argument).__name__}; pass torch.as_tensor of it")


def check_optional_tensors(**given: object) -> None:
    """Check that arguments are torch tensors, or None.

    Raises:
        TypeError: one is something else, such as a list.
    """
    check_tensors(**{name: argument for name, argument in given.items() if argument is not None})


def check_mask_device(name: str, mask: Tensor | None, device: torch.device) -> None:
    """Check that a mask, if there is one, is on the device of what it masks.

    An operator goes by all its tensors: with a mask on the meta device it would return memory that nothing was written
    to.

    Raises:
        ValueError: it is on another one.
    """
    if mask is not None and mask.device != device:
        raise ValueError(
            f'{name} must be on the device of what it masks, {device}, got {mask.device}; pass {name}.to("{device}")'
        )


def is_number(argument: object) -> bool:
    """Return whether an argument is a real number, which `torch.compile` may have replaced by a symbol."""
    return isinstance(argument, (float, int, Real, torch.SymFloat, torch.SymInt))  # an abstract class takes longest


def check_whole_numbers(**given: object) -> None:
    """Check that arguments are integers.

    Raises:
        TypeError: one is something else.
    """
    for name, argument in given.items():
        if isinstance(argument, bool) or not isinstance(argument, (Integral, torch.SymInt)):
            raise TypeError(f"{name} must be an integer, got {argument!r}")


def check_truth_values(**given: object) -> None:
    """Check that arguments are True or False.

    Raises:
        TypeError: one is something else, such as 1.
    """
    for name, argument in given.items():
        if not isinstance(argument, (bool, torch.SymBool)):
            raise TypeError(f"{name} must be True or False, got {argument!r}")


def check_shapes(query: Tensor, key: Tensor | Cached, value: Tensor | Cached) -> None:
    """Check that the shapes of queries, keys and values match.

    Raises:
        ValueError: they do not match.
    """
    of_query, of_key, of_value = query.shape, key.shape, value.shape
    if not len(of_query) == len(of_key) == len(of_value) == 4:
        expected = "query, key and value must be (batch, heads, tokens, channels)"
    elif of_key[:3] != of_value[:3] or of_query[0] != of_key[0] or of_query[3] != of_key[3]:
        expected = (
            "keys must have the batch and channels of the queries, and values the batch, heads and tokens of the keys"
        )
    elif of_key[1] == 0 or of_query[1] % of_key[1]:
        expected = "query heads must be a multiple of key heads"
    else:
        return
    shapes = (f"{name} {tuple(x.shape)}" for name, x in (("query", query), ("key", key), ("value", value)))
    raise ValueError(f"{expected}; got {', '.join(shapes)}")
