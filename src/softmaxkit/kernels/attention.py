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
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softmaxkit.kernels import native
from softmaxkit.kernels.rows import DTYPES

CODES = 128
"""Distances that a table of weights tells apart."""
RESOLUTIONS = 8
"""Tables of ever coarser distances, for rows whose scores are spread too widely for the finest."""
VARIANTS = 16
"""Roundings of a table, of which consecutive panels of 64 keys take one each."""
LARGEST = 255
LEVEL_ERROR = 0.05
"""Relative error of EXAQ's smallest weights above which they take two bytes."""
FEW = 12
"""Queries of one key head up to which keys and values are read as they come: to bring them to 8 bits takes longer."""
CONSMAX_STEP = 1 / 16
"""Distance of a score to the next in ConSmax; 127 of them are exp(-7.9)."""


@dataclass(frozen=True)
class Weights:
    """How distances below a row's largest score become weights.

    Attributes:
        step: of the finest table, as a difference of scores.
        tables: uint8, (resolutions, planes, variants, codes), planes from high to low.
        one: the weight that stands for 1.
        normalised: are weights divided by their sum?
    """

    step: float
    tables: NDArray[np.uint8]
    one: float
    normalised: bool


@lru_cache(maxsize=256)
def exaq_weights(clip: float, levels: int) -> Weights:
    """Return the weights of EXAQ, exp of each level, in one byte if that holds the smallest well enough, or in two."""
    level = -clip / (levels - 1)
    # Levels end half-way between two: there a distance's code ends too.
    step = level / 2 / 2 ** int(math.log2(CODES / (2 * levels - 1)))
    exponentials = np.exp(-level * np.arange(levels))
    tops = np.arange(LARGEST // 2 + 1, LARGEST + 1)
    exact = np.outer(tops, exponentials)
    errors = np.abs(np.round(exact) / exact - 1).max(axis=1)
    best = int(errors.argmin())
    one, planes = (int(tops[best]), 1) if errors[best] <= LEVEL_ERROR else (2**16 - 1, 2)

    def weight(distance: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(one * exponentials[np.minimum(np.rint(distance / level).astype(int), levels - 1)])

    middles = (np.arange(CODES) + 0.5) * step
    return Weights(step, _tables([weight(middles * 2**k) for k in range(RESOLUTIONS)], planes), one, True)


@lru_cache(maxsize=1)
def consmax_weights() -> Weights:
    """Return the weights of ConSmax: exp at distances rounded to `CONSMAX_STEP`."""
    distances = np.arange(CODES) * CONSMAX_STEP
    exact = []
    for factor in 2.0 ** np.arange(RESOLUTIONS):
        half = factor * CONSMAX_STEP / 2
        mean = np.exp(-distances * factor) * math.sinh(half) / half  # over all that is rounded to a distance
        mean[0] = 1.0  # the largest score itself
        exact.append(LARGEST * mean)
    return Weights(CONSMAX_STEP, _tables(exact, 1), LARGEST, False)


def _tables(exact: list[NDArray[np.float64]], planes: int) -> NDArray[np.uint8]:
    """Round weights, each variant at another place: from the middle outwards, so that few panels are even too."""
    below = [7, 3, 5, 1, 6, 2, 4, 0]
    places = (np.array([[place, VARIANTS - 1 - place] for place in below]).ravel() + 0.5) / VARIANTS
    whole = np.floor(np.stack(exact)[:, None, :] + places[:, None]).astype(np.int64)
    split = np.stack([whole >> 8 * plane & 255 for plane in reversed(range(planes))], axis=1)
    return np.ascontiguousarray(split.astype(np.uint8))


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
    if native() is None or query.dtype not in DTYPES:
        return False
    if isinstance(key, Cached) and isinstance(value, Cached):
        return query.device.type == key.codes.device.type == value.codes.device.type == "cpu"
    return all(isinstance(x, Tensor) and x.device.type == "cpu" and x.dtype == query.dtype for x in (query, key, value))


def exaq(
    query: Tensor,
    key: Tensor | Cached,
    value: Tensor | Cached,
    clip: float,
    levels: int,
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
        levels: 4, 8 or 16, evenly from the clip to 0.
        mask: boolean, True where attended, broadcasts to (batch, heads, queries, keys).
        is_causal: a query attends to the keys up to its own index.
        scale: factor of the scores; 1/sqrt(channels) if None.

    Returns:
        (batch, heads, queries, value channels); zeros for a query that attends to nothing.

    Raises:
        RuntimeError: no kernels are built, see `can_run`.
        TypeError: tensors of another kind, or a mask that is not boolean.
        ValueError: shapes that do not fit, or another number of levels.
        FloatingPointError: a number is NaN or infinite.
    """
    if levels not in (4, 8, 16) or not (math.isfinite(clip) and clip < 0):
        raise ValueError(f"EXAQ has 4, 8 or 16 levels and a negative clip, not {levels} and {clip}")
    call = _Call(query, key, value, mask, is_causal, scale)
    if not call.few:
        return call.many(exaq_weights(clip, levels))
    values = np.linspace(clip, 0.0, levels)
    return call.decode(((values[1:] + values[:-1]) / 2).tolist(), np.exp(values).tolist())


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
    return call.decode([], [], offsets, math.log(ceiling))


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
        kernels = native()
        if kernels is None:
            raise RuntimeError("softmaxkit was installed without its native kernels; torch does the same, slower")
        if not can_run(query, key, value):
            raise TypeError(
                "kernels take query, key and value all in float32 or all in bfloat16 on the CPU, not "
                f"{', '.join(_kind(x) for x in (query, key, value))}"
            )
        keys, values = (x.codes if isinstance(x, Cached) else x for x in (key, value))
        check_shapes(query, keys, values)
        self.kernels: Any = kernels
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
        self, thresholds: list[float], exponentials: list[float], offsets: Tensor | None = None, limit: float = 0.0
    ) -> Tensor:
        """Run the kernel of a few queries."""
        how = self.kernels.Normalisation(thresholds, exponentials, _pointer(offsets), limit)
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
    return "an 8-bit cache" if isinstance(given, Cached) else f"{given.dtype} on {given.device}"


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


def broadcast_mask(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a mask in the shape of the scores.

    Raises:
        ValueError: it does not fit.
    """
    try:
        return mask.broadcast_to(shape)
    except RuntimeError:
        raise ValueError(f"a mask broadcasts to the scores, {shape}; it is {tuple(mask.shape)}") from None
