"""A key-value cache in 8 or 4 bits, for generation."""

from __future__ import annotations

from operator import index
from typing import Any

import torch
from torch import Tensor

from softmaxkit.fused_attention.over_codes import attention_over_codes, check_queries, checked_lengths
from softmaxkit.fused_attention.stores import KeyStore, Store
from softmaxkit.kernels.attention import check_optional_tensors, check_tensors
from softmaxkit.kernels.codes import Cached, check_bits
from softmaxkit.methods.base.spec import Spec, check_spec


class KeyValueCache:
    """Keys and values of growing sequences, stored as 8-bit or 4-bit codes that attention reads directly.

    Args:
        keys: floating, (batch, key heads, tokens, channels); the first tokens, possibly none.
        values: the same dtype, (batch, key heads, tokens, value channels).
        bits: 8, with one step per token and head: about a quarter of the bytes of float32; or 4, with one step per 32
            channels of these: about a seventh. In 4 bits the mean of the first keys, which real keys have in common,
            is subtracted. Outlier channels of the first keys are divided by a power of 2, so that they do not coarsen
            the others.

    The first keys are those appended until there are 64 of them, or more if more come at once. Fewer are kept as they
    came, and encoded anew with every append. A warning says if later keys have other outlier channels; see
    `softmaxkit.fused_attention.watch.Watch`.

    Raises:
        ValueError: another number of bits; and as in `append`.
        TypeError: as in `append`.
    """

    def __init__(self, keys: Tensor, values: Tensor, bits: int = 8) -> None:
        check_bits(bits)
        check_tensors(keys=keys, values=values)
        for tokens in (keys, values):
            if tokens.ndim != 4:
                raise ValueError(
                    f"keys and values must be (batch, key heads, tokens, channels), got {tuple(tokens.shape)}"
                )
        self._dtype = keys.dtype
        self._length = 0
        self._stores = [KeyStore(keys[:, :, :0], bits), Store(values[:, :, :0], bits)]
        self.append(keys, values)

    def __len__(self) -> int:
        return self._length

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Append tokens to all sequences.

        Raises:
            ValueError: shapes do not fit; on the CPU, NaN or infinity. On a GPU these give NaN to every query that
                attends to them, see `softmaxkit.kernels.encode.encode`.
            TypeError: the dtype or the device differs from that of the first keys.
        """
        check_tensors(keys=keys, values=values)
        for store, tokens in zip(self._stores, (keys, values), strict=True):
            where = store.held.device
            if tokens.dtype != self._dtype or not tokens.is_floating_point() or tokens.device != where:
                raise TypeError(f"this cache holds {self._dtype} on {where}, got {tokens.dtype} on {tokens.device}")
            batch, heads, _, channels = store.held.shape
            if tokens.ndim != 4 or (*tokens.shape[:2], tokens.shape[3]) != (batch, heads, channels):
                raise ValueError(f"this cache holds ({batch}, {heads}, tokens, {channels}), got {tuple(tokens.shape)}")
        if keys.shape[:3] != values.shape[:3]:
            raise ValueError(
                f"keys and values must have as many tokens, got {tuple(keys.shape)} and {tuple(values.shape)}"
            )
        if keys.shape[2] == 0:
            return
        with torch.inference_mode(False):  # the cache may grow later, in any mode
            for store, tokens in zip(self._stores, (keys, values), strict=True):
                store.encode(self._length, tokens.detach())  # both first, so that a failure leaves the cache as it was
            for store in self._stores:
                store.put(self._length, keys.shape[2])
            self._length += keys.shape[2]

    def crop(self, length: int) -> None:
        """Keep the first tokens and drop the rest.

        Args:
            length: number of tokens to keep.

        Raises:
            ValueError: the cache has fewer tokens.
            TypeError: the length is not an integer.
        """
        length = index(length)  # of a tensor too, which its owner may change
        if not 0 <= length <= self._length:
            raise ValueError(f"this cache has {self._length} tokens; length must be from 0 to that, got {length}")
        self._length = length

    def select(self, sequences: Tensor) -> None:
        """Select sequences of the batch, in any order and with repetition, as beam search requires.

        Args:
            sequences: int32 or int64, (new batch,), indices into the batch.

        Raises:
            IndexError: an index is out of range; those on a GPU are not checked.
            ValueError: another shape.
            TypeError: not a tensor, or of another dtype.
        """
        check_tensors(sequences=sequences)
        if sequences.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"sequences must be int32 or int64, got {sequences.dtype}")
        if sequences.ndim != 1:
            raise ValueError(f"sequences must be (new batch,), got {tuple(sequences.shape)}")
        batch = self._stores[0].held.shape[0]
        if sequences.device.type == "cpu" and (wrong := sequences[(sequences < 0) | (sequences >= batch)]).numel():
            raise IndexError(f"sequences must be 0 to {batch - 1}, got {int(wrong[0])}")
        for store in self._stores:
            store.select(sequences)

    @property
    def codes(self) -> tuple[Cached, Cached]:
        """Keys and values as kernels read them; valid until `crop` and further tokens overwrite some of them."""
        keys, values = self._stores
        return keys.cached(self._length), values.cached(self._length)

    @property
    def keys(self) -> Tensor:
        """The dequantised keys, (batch, key heads, tokens, channels)."""
        return self.codes[0].decoded(self._dtype)

    @property
    def values(self) -> Tensor:
        """The dequantised values, (batch, key heads, tokens, value channels)."""
        return self.codes[1].decoded(self._dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and steps, without the capacity reserved for further tokens."""
        return sum(cached.nbytes for cached in self.codes)

    def attention(
        self,
        query: Tensor,
        spec: Spec,
        attn_mask: Tensor | None = None,
        scale: float | None = None,
        lengths: Tensor | None = None,
        mode: str = "float",
        **parameters: Any,
    ) -> Tensor:
        """Compute attention of queries to all tokens, like `softmaxkit.attention` with `enable_gqa`.

        A few queries read the codes directly, with every method that has an attention kernel or is softmax to some
        base. All else reads the dequantised tensors. On the CPU, kernels skip
        tokens that a mask or `lengths` hides at either end of a sequence, and any 1,024 tokens that are all hidden.

        Args:
            query: (batch, heads, queries, channels), in the dtype and on the device of the keys.
            spec: as in `attention`.
            attn_mask: as in `attention`.
            scale: as in `attention`.
            lengths: integers, (batch,): the number of first tokens that each sequence attends to; None for all. Lengths
                on a GPU are checked by the kernel: an invalid one gives NaN.
            mode: as in `attention`; "integer" reads the dequantised tensors.
            parameters: as in `attention`.

        Returns:
            (batch, heads, queries, value channels), in the dtype of the queries.

        Raises:
            ValueError, TypeError: as in `attention`; invalid lengths; queries in another dtype or on another device.
        """
        check_tensors(query=query)
        check_optional_tensors(attn_mask=attn_mask, lengths=lengths)
        check_queries(query, self._dtype, self._stores[0].held.device, "cache")
        check_spec(spec)
        spec.require(parameters, self.attention)
        if lengths is not None:
            lengths = checked_lengths(lengths, self._stores[0].held.shape[0])
        keys, values = self.codes
        return attention_over_codes(query, keys, values, self._dtype, spec, attn_mask, scale, lengths, mode, parameters)
