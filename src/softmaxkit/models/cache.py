"""The cache of keys and values in 8 or 4 bits as a cache of transformers, for `generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from softmaxkit.fused_attention.cache import KeyValueCache
from softmaxkit.kernels.attention import are_few
from softmaxkit.kernels.codes import BITS, Cached


class QuantisedCache(DynamicCache):
    """A cache for `generate` that holds keys and values in 8 or 4 bits, as `softmaxkit.KeyValueCache`.

    On the CPU in mode "fused", and on CUDA in mode "float" too, the tokens that are generated read the codes themselves
    where the method has a kernel; everything else reads what the codes stand for. The attention over the first prompt
    reads keys and values as they come, before they are rounded, as with the quantised caches of transformers. Layers
    that do not attend to all tokens, such as those with a sliding window, keep what they keep in a `DynamicCache`. With
    encoder and decoder: `EncoderDecoderCache(QuantisedCache(model.config), DynamicCache(config=model.config))`.

    Args:
        config: the model's.
        bits: 8, with a step for each token and head, or 4, with one for every 32 channels of these.

    Raises:
        TypeError: not a config of transformers; in use, keys that change their dtype or device.
        ValueError: another number of bits, or no layer of the model attends to all tokens; in use, gradients are asked
            for, or on the CPU keys or values are NaN or infinite; on CUDA who attends to these gets NaN.

    Example:
        >>> softmaxkit.set_mode(model, "fused")
        >>> cache = softmaxkit.QuantisedCache(model.config)
        >>> model.generate(**inputs, past_key_values=cache, max_new_tokens=100)
    """

    def __init__(self, config: PreTrainedConfig, bits: int = 8) -> None:
        if not isinstance(config, PreTrainedConfig):
            raise TypeError(f"QuantisedCache takes the config of a model, model.config, not {type(config).__name__}")
        if bits not in BITS:
            raise ValueError(f"QuantisedCache has {' or '.join(map(str, BITS))} bits, not {bits}")
        super().__init__(config=config)
        self.layers = [QuantisedLayer(bits) if type(layer) is DynamicLayer else layer for layer in self.layers]
        if not any(isinstance(layer, QuantisedLayer) for layer in self.layers):
            kinds = " and ".join(sorted({type(layer).__name__ for layer in self.layers})) or "none"
            raise ValueError(
                f"no layer of this {config.model_type} attends to all tokens (the caches of its layers: {kinds}), so "
                f"nothing would be held in {bits} bits; generate with a DynamicCache"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of all codes and steps, without the room that is kept for tokens to come and without other layers."""
        caches = [layer.cache for layer in self.layers if isinstance(layer, QuantisedLayer)]
        return sum(cache.nbytes for cache in caches if cache is not None)


class QuantisedLayer(DynamicLayer):
    """The keys and values of one attention layer.

    Args:
        bits: 8 or 4.

    Attributes:
        cache: where they are; None before the first tokens.
        keys: all keys, (batch, key heads, tokens, channels), a `CachedTensor`; None before the first tokens.
        values: all values, (batch, key heads, tokens, value channels), likewise.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bits = bits
        self.cache: KeyValueCache | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make an empty cache for such keys and values."""
        super().lazy_initialization(key_states, value_states)
        self.cache = KeyValueCache(key_states[:, :, :0], value_states[:, :, :0], self.bits)
        self._show(self.cache)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add tokens.

        Args:
            key_states: floating, (batch, key heads, new tokens, channels).
            value_states: the same dtype, (batch, key heads, new tokens, value channels).
            args: not used, as in every layer that grows.
            kwargs: not used, likewise.

        Returns:
            all keys and values: the first tokens as they were given, later all as `CachedTensor`s.

        Raises:
            ValueError, TypeError: as `QuantisedCache`.
        """
        if key_states.requires_grad or value_states.requires_grad:
            raise ValueError(
                "QuantisedCache has no gradients, and keys or values ask for one; run the model under torch.no_grad(), "
                "or with a DynamicCache"
            )
        if self.cache is None:
            self.lazy_initialization(key_states, value_states)
        assert self.cache is not None
        first = len(self.cache) == 0
        self.cache.append(key_states, value_states)
        every = self._show(self.cache)
        return (key_states, value_states) if first else every

    def reset(self) -> None:
        """Forget all tokens."""
        super().reset()
        self.cache = None

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens.

        Args:
            tokens_to_remove: how many, as a negative number.

        Raises:
            ValueError: it is positive.
        """
        if tokens_to_remove > 0:
            raise ValueError(
                f"crop takes the number of tokens to remove as a negative number, not {tokens_to_remove}; "
                "to keep n tokens, crop(n - cache.get_seq_length())"
            )
        if self.cache is not None:
            self.cache.crop(max(0, len(self.cache) + tokens_to_remove))
            self._show(self.cache)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give each beam the tokens of the beam that it goes on from.

        Args:
            beam_idx: int64, (batch,), which that is.
        """
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence of the batch, copies side by side."""
        if self.keys is not None:
            self.batch_select_indices(torch.arange(self.keys.shape[0]).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some sequences of the batch.

        Args:
            indices: int64, (new batch,), which they are.
        """
        if self.cache is not None:
            self.cache.select(indices)
            self._show(self.cache)

    def _show(self, cache: KeyValueCache) -> tuple[Tensor, Tensor]:
        """Let `keys` and `values` be what the cache holds now, and return them."""
        keys, values = (CachedTensor(codes, self.dtype) for codes in cache.codes)
        self.keys, self.values = keys, values
        return keys, values


class CachedTensor(Tensor):
    """Keys or values in a cache of codes: to whoever reads them a tensor of what the codes stand for.

    It has shape, dtype and device without reading a code; operations on it compute with plain tensors and return such.

    Args:
        codes: of (batch, key heads, tokens, channels).
        dtype: floating, which it reads as.

    Raises:
        TypeError: in use, an operation writes into it.
    """

    codes: Cached

    @staticmethod
    def __new__(cls, codes: Cached, dtype: torch.dtype) -> Self:
        """Make a tensor without memory of its own."""
        made: Self = Tensor._make_wrapper_subclass(cls, codes.shape, dtype=dtype, device=codes.device)
        made.codes = codes
        return made

    def decoded(self) -> Tensor:
        """Return what the codes stand for, a plain tensor."""
        return self.codes.decoded(self.dtype)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for value, argument in zip(args, func._schema.arguments, strict=False):
            if isinstance(value, cls) and argument.is_write:
                raise TypeError(
                    f"{func} would write into keys or values in a cache of codes; write into a clone of them"
                )
        plain_args, plain_kwargs = tree_map_only(cls, cls.decoded, (args, kwargs or {}))
        return func(*plain_args, **plain_kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(deepcopy(self.codes, memo), self.dtype)


def read_by(query: Tensor, tokens: Tensor) -> Tensor | Cached:
    """Return keys or values as fused attention reads them: a few queries read the codes of a cache."""
    if not isinstance(tokens, CachedTensor):
        return tokens
    return tokens.codes if are_few(query, tokens) else tokens.decoded()
