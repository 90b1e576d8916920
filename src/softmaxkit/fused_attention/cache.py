"""A cache of keys and values in 8 or 4 bits, for generation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from softmaxkit.fused_attention.over_codes import attention_over_codes, checked_lengths
from softmaxkit.kernels.codes import BITS, Cached, encode, frame
from softmaxkit.methods.base.spec import Spec


class KeyValueCache:
    """Keys and values of a growing sequence in 8 or 4 bits, to be read instead of float32 or bfloat16.

    Args:
        keys: floating, (batch, key heads, tokens, channels); the first tokens, or none.
        values: the same dtype, (batch, key heads, tokens, value channels).
        bits: 8, with a step for each token and head, or 4, with one for every 32 channels of these, and keys less the
            mean of the first that came, which real keys have in common: `nbytes` is about a quarter or a seventh of
            float32. Channels that are much larger than others in the keys that come first are divided by a power of 2,
            so that they do not take the others' bits.

    Raises:
        ValueError: another number of bits; and as `append`.
        TypeError: as `append`.
    """

    def __init__(self, keys: Tensor, values: Tensor, bits: int = 8) -> None:
        if bits not in BITS:
            raise ValueError(f"a cache has {' or '.join(map(str, BITS))} bits, not {bits}")
        for tokens in (keys, values):
            if tokens.ndim != 4:
                raise ValueError(f"keys and values are (batch, key heads, tokens, channels), not {tuple(tokens.shape)}")
        self._dtype = keys.dtype
        self._length = 0
        self._stores = [_Store(keys[:, :, :0], bits, framed=True), _Store(values[:, :, :0], bits)]
        self.append(keys, values)

    def __len__(self) -> int:
        return self._length

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Add tokens at the end.

        Raises:
            ValueError: shapes that do not fit, NaN or infinity; on a card these give NaN to who attends to them, see
                `softmaxkit.kernels.codes.encode`.
            TypeError: another dtype than the first keys had, or another device.
        """
        for store, tokens in zip(self._stores, (keys, values), strict=True):
            where = store.held.device
            if tokens.dtype != self._dtype or not tokens.is_floating_point() or tokens.device != where:
                raise TypeError(f"this cache takes {self._dtype} on {where}, not {tokens.dtype} on {tokens.device}")
            batch, heads, _, channels = store.held.shape
            if tokens.ndim != 4 or (*tokens.shape[:2], tokens.shape[3]) != (batch, heads, channels):
                raise ValueError(f"this cache takes ({batch}, {heads}, tokens, {channels}), not {tuple(tokens.shape)}")
        if keys.shape[:3] != values.shape[:3]:
            raise ValueError(f"as many values as keys, not {tuple(keys.shape)} and {tuple(values.shape)}")
        for store, tokens in zip(self._stores, (keys, values), strict=True):
            store.put(self._length, tokens.detach())
        self._length += keys.shape[2]  # not before both are there: codes beyond it are nobody's

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
    def codes(self) -> tuple[Cached, Cached]:
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
        return sum(cached.nbytes for cached in self.codes)

    def attention(
        self,
        query: Tensor,
        spec: Spec,
        attn_mask: Tensor | None = None,
        scale: float | None = None,
        lengths: Tensor | None = None,
        **parameters: Any,
    ) -> Tensor:
        """Compute attention of queries to all tokens; as the function `attention` with `enable_gqa`.

        A few queries of EXAQ or ConSmax, and on CUDA of all that have attention kernels or are softmax to some base,
        read the codes themselves; others what they stand for. On the CPU these few do not read what a mask, or
        `lengths`, hides at the beginning or the end of a sequence, nor any 1,024 tokens that are all hidden.

        Args:
            query: (batch, heads, queries, channels), in the dtype of the keys.
            spec: as in `attention`.
            attn_mask: as in `attention`.
            scale: as in `attention`.
            lengths: integers, (batch,): how many of its first tokens each sequence attends to, where it has fewer than
                the longest; None for all. On a card kernels look at them: a length that is none gives NaN.
            parameters: as in `attention`.

        Returns:
            (batch, heads, queries, value channels), in the dtype of the queries.

        Raises:
            ValueError, TypeError: as `attention`; or lengths that are none.
        """
        if lengths is not None:
            lengths = checked_lengths(lengths, self._stores[0].held.shape[0])
        keys, values = self.codes
        return attention_over_codes(query, keys, values, self._dtype, spec, attn_mask, scale, lengths, parameters)


class _Store:
    """Codes of tokens and their steps, with room to grow."""

    def __init__(self, none: Tensor, bits: int, framed: bool = False) -> None:
        self._framed = framed
        with torch.inference_mode(False):  # what is kept may grow later, in any mode
            self.held = encode(torch.empty_like(none), bits)

    def put(self, first: int, tokens: Tensor) -> None:
        last = first + tokens.shape[2]
        with torch.inference_mode(False):
            plain = tokens.clone() if tokens.is_inference() else tokens
            if self._framed and first == 0 < last:
                centre, factor = frame(plain, self.held.bits)
                self.held = replace(self.held, centre=centre, factor=factor)
            if last > self.held.shape[2]:
                self._grow(first, 2 * last)
            codes = encode(plain, self.held.bits, self.held.centre, self.held.factor)
            self.held.codes[:, :, first:last] = codes.codes
            self.held.steps[..., first:last] = codes.steps

    def _grow(self, used: int, room: int) -> None:
        codes, steps = self.held.codes, self.held.steps
        wide = codes.new_empty(*codes.shape[:2], room, codes.shape[3]), steps.new_empty(*steps.shape[:3], room)
        wide[0][:, :, :used], wide[1][..., :used] = codes[:, :, :used], steps[..., :used]
        self.held = replace(self.held, codes=wide[0], steps=wide[1])

    def select(self, sequences: Tensor) -> None:
        with torch.inference_mode(False):
            sequences = sequences.to(self.held.device)
            codes, steps = (x.index_select(0, sequences) for x in (self.held.codes, self.held.steps))
            centre, factor = (
                None if x is None else x.index_select(0, sequences) for x in (self.held.centre, self.held.factor)
            )
            self.held = replace(self.held, codes=codes, steps=steps, centre=centre, factor=factor)

    def cached(self, length: int) -> Cached:
        return replace(self.held, codes=self.held.codes[:, :, :length], steps=self.held.steps[..., :length])
