"""The 8-bit or 4-bit key-value cache as a transformers cache, for `generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from softmaxkit.fused_attention.cache import KeyValueCache
from softmaxkit.kernels.attention import are_few
from softmaxkit.kernels.codes import Cached, check_bits
from softmaxkit.kernels.launch import untraced


class QuantisedCache(DynamicCache):
    """A cache for `generate` that stores keys and values in 8 or 4 bits, as `softmaxkit.KeyValueCache` does.

    Generated tokens attend to the codes directly where the method has a kernel: on the CPU in mode "fused", on CUDA in
    mode "float" too. All else reads dequantised keys and values. Attention over the first prompt uses keys and values
    before they are quantised, as with transformers' own quantised caches. Layers that do not attend to all tokens, e.g.
    those with a sliding window, use the same layer cache as in a `DynamicCache`. For encoder-decoder models, use
    `EncoderDecoderCache(QuantisedCache(model.config), DynamicCache(config=model.config))`.

    Args:
        config: the model's configuration.
        bits: 8, with one step per token and head, or 4, with one step per 32 channels of these.

    Raises:
        TypeError: not a transformers configuration; in use, the dtype or device of keys changes, or the
            device is neither CPU nor CUDA.
        ValueError: another number of bits, or the model has no decoder layers that attend to all tokens; in use,
            gradients are required, cross-attention stores its keys here too, or on the CPU keys or values are NaN or
            infinite. On CUDA these give NaN where attended.

    Example:
        >>> softmaxkit.set_mode(model, "fused")
        >>> cache = softmaxkit.QuantisedCache(model.config)
        >>> model.generate(**inputs, cache=cache, max_new_tokens=100)
    """

    def __init__(self, config: PreTrainedConfig, bits: int = 8) -> None:
        if not isinstance(config, PreTrainedConfig):
            raise TypeError(
                f"QuantisedCache requires a model's configuration, model.config, got {type(config).__name__}"
            )
        check_bits(bits)
        try:
            super().__init__(config=config)
        except AttributeError as error:  # transformers reads the decoder's layers from it
            raise ValueError(
                f"this {config.model_type} has no decoder layers whose keys and values could be stored ({error}); give "
                "the configuration of the part that generates"
            ) from None
        self.layers = [QuantisedLayer(bits) if type(layer) is DynamicLayer else layer for layer in self.layers]
        if not any(isinstance(layer, QuantisedLayer) for layer in self.layers):
            kinds = " and ".join(sorted({type(layer).__name__ for layer in self.layers})) or "none"
            raise ValueError(
                f"no layer of this {config.model_type} attends to all tokens (its layer caches: {kinds}), so nothing "
                f"would be stored in {bits} bits; generate with a DynamicCache"
            )
        self._may_take_both = config.is_encoder_decoder
        self._updated = self._none_updated()

    def _none_updated(self) -> int | None:
        """Return the layer updated last where none is, -1; None in a model of one layer until a pass is known to begin.

        Such a model updates the same layer in every pass, and one that makes its own masks does not tell of passes.
        """
        return -1 if len(self.layers) > 1 else None

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return the number of keys to mask and the place of the first one; models ask for it as a pass begins."""
        self._updated = -1
        sizes: tuple[int, int] = super().get_mask_sizes(query_length, layer_idx)
        return sizes

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append tokens to a layer, as `QuantisedLayer.update` does.

        Raises:
            ValueError: the layer is updated twice in a pass, by self-attention and by cross-attention, whose keys a
                model mixes up if it is not given an `EncoderDecoderCache`; and as in `QuantisedCache`.
            TypeError: as in `QuantisedCache`.
        """
        if self._may_take_both and self._updated is not None:
            if self._updated == layer_idx:
                raise ValueError(
                    "self-attention and cross-attention store their keys in the same QuantisedCache; give the model "
                    "EncoderDecoderCache(QuantisedCache(model.config), DynamicCache(config=model.config))"
                )
            self._updated = layer_idx
        result: tuple[Tensor, Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return result

    def reset(self) -> None:
        """Drop all tokens."""
        super().reset()  # type: ignore[no-untyped-call]
        self._updated = self._none_updated()

    @property
    def nbytes(self) -> int:
        """Bytes of all codes and steps, without spare capacity and without layers of other kinds."""
        caches = [layer.cache for layer in self.layers if isinstance(layer, QuantisedLayer)]
        return sum(cache.nbytes for cache in caches if cache is not None)


class QuantisedLayer(DynamicLayer):
    """The keys and values of one attention layer.

    Args:
        bits: 8 or 4.

    Attributes:
        cache: their storage; None before the first tokens.
        keys: all keys, (batch, key heads, tokens, channels), a `CachedTensor`; None before the first tokens.
        values: all values, (batch, key heads, tokens, value channels), a `CachedTensor`; None before the first tokens.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bits = bits
        self.cache: KeyValueCache | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Create an empty cache for such keys and values.

        Raises:
            TypeError: they are neither on the CPU nor on CUDA.
        """
        if key_states.device.type not in ("cpu", "cuda"):
            raise TypeError(
                f"QuantisedCache supports models on CPU and CUDA, not on {key_states.device}; move the model, or "
                "generate with a DynamicCache"
            )
        super().lazy_initialization(key_states, value_states)
        self.dtypes = key_states.dtype, value_states.dtype
        self.cache = KeyValueCache(*_in_one_dtype(key_states[:, :, :0], value_states[:, :, :0]), self.bits)
        self._show(self.cache)

    @untraced
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append tokens.

        Args:
            key_states: floating, (batch, key heads, new tokens, channels).
            value_states: floating, (batch, key heads, new tokens, value channels); of another dtype than keys under
                autocast, which leaves rotated keys in float32.
            args: unused, as in every dynamic layer.
            kwargs: unused, as in every dynamic layer.

        Returns:
            All keys and values: those of the first call unchanged, later ones as `CachedTensor`s.

        Raises:
            ValueError, TypeError: as in `QuantisedCache`.
        """
        if key_states.requires_grad or value_states.requires_grad:
            raise ValueError(
                "QuantisedCache has no gradients, but keys or values require one; run the model under torch.no_grad(), "
                "or with a DynamicCache"
            )
        if self.cache is None:
            self.lazy_initialization(key_states, value_states)
        assert self.cache is not None
        first = len(self.cache) == 0
        self.cache.append(*_in_one_dtype(key_states, value_states))
        every = self._show(self.cache)
        return (key_states, value_states) if first else every

    def reset(self) -> None:
        """Drop all tokens."""
        super().reset()
        self.cache = None

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens.

        Args:
            tokens_to_remove: their number, negated.

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
        """Reorder the sequences for beam search.

        Args:
            beam_idx: int64, (batch,), the beam that each beam continues.
        """
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence of the batch, copies side by side."""
        if self.keys is not None:
            self.batch_select_indices(torch.arange(self.keys.shape[0]).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Select sequences of the batch.

        Args:
            indices: int64, (new batch,), indices into the batch.
        """
        if self.cache is not None:
            self.cache.select(indices)
            self._show(self.cache)

    def _show(self, cache: KeyValueCache) -> tuple[Tensor, Tensor]:
        """Update `keys` and `values` to the present content of the cache, and return them."""
        keys, values = (CachedTensor(codes, dtype) for codes, dtype in zip(cache.codes, self.dtypes, strict=True))
        self.keys, self.values = keys, values
        return keys, values


def _in_one_dtype(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values in the wider dtype of both."""
    if keys.dtype == values.dtype:
        return keys, values
    wide = torch.promote_types(keys.dtype, values.dtype)
    return keys.to(wide), values.to(wide)


class CachedTensor(Tensor):
    """Quantised keys or values that act as the tensor of their dequantised values.

    Shape, dtype and device are known without decoding; any other operation dequantises first and returns plain tensors.

    Args:
        codes: codes of (batch, key heads, tokens, channels).
        dtype: floating dtype to dequantise to.

    Raises:
        TypeError: in use, an operation writes to it.
    """

    codes: Cached

    @staticmethod
    def __new__(cls, codes: Cached, dtype: torch.dtype) -> Self:
        """Create a tensor without storage of its own."""
        made: Self = Tensor._make_wrapper_subclass(cls, codes.shape, dtype=dtype, device=codes.device)
        made.codes = codes
        return made

    def decoded(self) -> Tensor:
        """Return the dequantised values as a plain tensor."""
        return self.codes.decoded(self.dtype)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        arguments = func._schema.arguments
        given = dict(zip((argument.name for argument in arguments), args, strict=False)) | dict(kwargs or {})
        written = [given.get(argument.name) for argument in arguments if argument.is_write]
        if any(isinstance(value, cls) for value in tree_leaves(written)):
            raise TypeError(f"{func} would write to quantised keys or values of a cache; write to a clone of them")
        plain_args, plain_kwargs = tree_map_only(cls, cls.decoded, (args, kwargs or {}))
        return func(*plain_args, **plain_kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(deepcopy(self.codes, memo), self.dtype)


def codes_or_tensor(query: Tensor, tokens: Tensor) -> Tensor | Cached:
    """Return keys or values as fused attention reads them: codes for a few queries, else dequantised tensors."""
    if not isinstance(tokens, CachedTensor):
        return tokens
    return tokens.codes if are_few(query, tokens) else tokens.decoded()
