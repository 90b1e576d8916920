"""An 8-bit cache of keys and values, for generation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softmaxkit.fused_attention.call import attention, choose, fused, module_for
from softmaxkit.kernels import attention as kernels
from softmaxkit.methods.base.spec import Spec, check_spec


class KeyValueCache:
    """Keys and values of a growing sequence in 8 bits, a step for each token and head: a quarter of float32 to read.

    Args:
        keys: floating, (batch, key heads, tokens, channels); the first tokens, or none.
        values: the same dtype, (batch, key heads, tokens, value channels).

    Raises:
        ValueError, TypeError: as `append`.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._dtype = keys.dtype
        self._length = 0
        self._stores = [_Store(keys), _Store(values)]
        self.append(keys, values)

    def __len__(self) -> int:
        return self._length

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Add tokens at the end.

        Raises:
            ValueError: shapes that do not fit, NaN or infinity.
            TypeError: another dtype than the first keys had, or another device.
        """
        for store, tokens in zip(self._stores, (keys, values), strict=True):
            where = store.codes.device
            if tokens.dtype != self._dtype or not tokens.is_floating_point() or tokens.device != where:
                raise TypeError(f"this cache takes {self._dtype} on {where}, not {tokens.dtype} on {tokens.device}")
            if tokens.ndim != 4 or tokens.shape[:2] != store.codes.shape[:2] or tokens.shape[3] != store.codes.shape[3]:
                batch, heads, _, channels = store.codes.shape
                raise ValueError(f"this cache takes ({batch}, {heads}, tokens, {channels}), not {tuple(tokens.shape)}")
            if not tokens.float().isfinite().all():
                raise ValueError("keys and values are finite in float32; 8 bits hold neither NaN nor infinity")
        if keys.shape[:3] != values.shape[:3]:
            raise ValueError(f"as many values as keys, not {tuple(keys.shape)} and {tuple(values.shape)}")
        for store, tokens in zip(self._stores, (keys, values), strict=True):
            store.put(self._length, tokens.detach())
        self._length += keys.shape[2]

    def crop(self, length: int) -> None:
        """Keep the first tokens; those after them are gone.

        Args:
            length: how many stay.

        Raises:
            ValueError: the cache has fewer.
        """
        if not 0 <= length <= self._length:
            raise ValueError(f"this cache has {self._length} tokens, of which it can keep 0 or more, not {length}")
        self._length = length

    def select(self, sequences: Tensor) -> None:
        """Keep some sequences of the batch, in a new order and any number of times, as beam search asks.

        Args:
            sequences: int64, (new batch,), which they are.

        Raises:
            IndexError: there is no such sequence.
        """
        for store in self._stores:
            store.select(sequences)

    @property
    def codes(self) -> tuple[kernels.Cached, kernels.Cached]:
        """Keys and values as kernels read them, also after further tokens, until `crop` lets these write over some."""
        keys, values = self._stores
        return keys.cached(self._length), values.cached(self._length)

    @property
    def keys(self) -> Tensor:
        """The keys that the codes stand for, (batch, key heads, tokens, channels)."""
        return self.codes[0].decoded(self._dtype)

    @property
    def values(self) -> Tensor:
        """The values that the codes stand for, (batch, key heads, tokens, value channels)."""
        return self.codes[1].decoded(self._dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and steps, without the room that is kept for tokens to come."""
        return sum(tensor.nbytes for cached in self.codes for tensor in (cached.codes, cached.steps))

    def attention(
        self, query: Tensor, spec: Spec, attn_mask: Tensor | None = None, scale: float | None = None, **parameters: Any
    ) -> Tensor:
        """Compute attention of queries to all tokens; as the function `attention` with `enable_gqa`.

        A few queries of EXAQ or ConSmax, and on CUDA of all that have attention kernels or are softmax to some base,
        read the codes themselves; others what they stand for.

        Args:
            query: (batch, heads, queries, channels), in the dtype of the keys.
            spec: as in `attention`.
            attn_mask: as in `attention`.
            scale: as in `attention`.
            parameters: as in `attention`.

        Returns:
            (batch, heads, queries, value channels), in the dtype of the queries.

        Raises:
            ValueError, TypeError: as `attention`.
        """
        check_spec(spec)
        spec.require(parameters)
        keys, values = self.codes
        kernels.check_shapes(query, keys.codes, values.codes)
        if kernels.are_few(query, keys.codes) and (attn_mask is None or attn_mask.dtype == torch.bool):
            module = module_for(spec, "float", query.shape[1], self._length, parameters, query.device)
            factor = kernels.default_scale(query) if scale is None else scale
            call, choice = choose(module, query, keys, values, scale=factor)
            if call is not None and choice.kernel:
                result = fused(call, choice, query, keys, values, attn_mask, False, factor)
                if result is not None:
                    return result
        return attention(query, self.keys, self.values, spec, attn_mask, scale=scale, enable_gqa=True, **parameters)


class _Store:
    """Codes of tokens and their steps, with room to grow."""

    def __init__(self, like: Tensor) -> None:
        if like.ndim != 4:
            raise ValueError(f"keys and values are (batch, key heads, tokens, channels), not {tuple(like.shape)}")
        with torch.inference_mode(False):
            self.codes = torch.empty((*like.shape[:2], 0, like.shape[3]), dtype=torch.int8, device=like.device)
            self.steps = torch.empty((*like.shape[:2], 0), dtype=torch.float32, device=like.device)

    def put(self, first: int, tokens: Tensor) -> None:
        last = first + tokens.shape[2]
        with torch.inference_mode(False):  # what is kept may grow later, in any mode
            if last > self.codes.shape[2]:
                self._grow(first, 2 * last)
            wide = tokens.detach().float().clone() if tokens.is_inference() else tokens.detach().float()
            step = wide.abs().amax(dim=-1) / 127 if wide.shape[3] else wide.new_zeros(wide.shape[:3])
            inverse = torch.where(step > 1e-30, 1 / step, 0.0)
            self.codes[:, :, first:last] = (wide * inverse[..., None]).round().to(torch.int8)
            self.steps[:, :, first:last] = step

    def _grow(self, used: int, room: int) -> None:
        batch, heads, _, channels = self.codes.shape
        codes, steps = self.codes, self.steps
        self.codes = codes.new_empty(batch, heads, room, channels)
        self.steps = steps.new_empty(batch, heads, room)
        self.codes[:, :, :used], self.steps[:, :, :used] = codes[:, :, :used], steps[:, :, :used]

    def select(self, sequences: Tensor) -> None:
        with torch.inference_mode(False):
            self.codes, self.steps = (x.index_select(0, sequences) for x in (self.codes, self.steps))

    def cached(self, length: int) -> kernels.Cached:
        return kernels.Cached(self.codes[:, :, :length], self.steps[:, :, :length])
