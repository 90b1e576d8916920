"""Codes of a key-value cache with spare capacity, and those of keys in the frame of the first ones."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from softmaxkit.fused_attention.watch import LATEST, Watch
from softmaxkit.kernels.codes import Cached, ordinary
from softmaxkit.kernels.encode import encode, encode_into
from softmaxkit.kernels.frame import FIRST_KEYS, frame


class Store:
    """Codes of tokens and their steps, with spare capacity."""

    def __init__(self, none: Tensor, bits: int) -> None:
        with torch.inference_mode(False):
            self.held = encode(torch.empty_like(none), bits)

    def encode(self, length: int, tokens: Tensor) -> None:
        """Encode tokens that follow the first `length` ones, for `put`; these stay as they are.

        Raises:
            ValueError: as `softmaxkit.kernels.encode.encode`.
        """
        if length + tokens.shape[2] > self.held.shape[2]:
            self._grow(length, 2 * (length + tokens.shape[2]))
        encode_into(self.held, length, tokens)

    def put(self, length: int, new: int) -> None:
        """Make the `new` tokens encoded last follow the first `length` ones, where they are already."""

    def _grow(self, used: int, room: int) -> None:
        codes, steps = self.held.codes, self.held.steps
        wide = codes.new_empty(*codes.shape[:2], room, codes.shape[3]), steps.new_empty(*steps.shape[:3], room)
        wide[0][:, :, :used], wide[1][..., :used] = codes[:, :, :used], steps[..., :used]
        self.held = replace(self.held, codes=wide[0], steps=wide[1])

    def select(self, sequences: Tensor) -> None:
        """Select sequences of the batch, as in `KeyValueCache.select`."""
        with torch.inference_mode(False):
            sequences = sequences.to(self.held.device)
            codes, steps = (x.index_select(0, sequences) for x in (self.held.codes, self.held.steps))
            centre, factor = (
                None if x is None else x.index_select(0, sequences) for x in (self.held.centre, self.held.factor)
            )
            self.held = replace(self.held, codes=codes, steps=steps, centre=centre, factor=factor)

    def cached(self, length: int) -> Cached:
        """Return the codes of the first `length` tokens, in the memory of the store."""
        held = self.held
        return Cached(held.codes[:, :, :length], held.steps[..., :length], held.channels, held.centre, held.factor)


class KeyStore(Store):
    """Codes of keys, whose frame is that of the first keys."""

    def __init__(self, none: Tensor, bits: int) -> None:
        super().__init__(none, bits)
        self._first: Tensor | None = None
        """The first keys as they came; None once they are many."""
        self._next: tuple[Tensor, Cached] | None = None
        """The first keys and the ones to put after them, and all of their codes."""
        self._watch = Watch()

    def encode(self, length: int, tokens: Tensor) -> None:
        """Encode keys as `Store.encode`; while the first keys are few, all of them, in the frame that all have."""
        if length == 0:
            every = ordinary(tokens)
        elif self._first is not None:
            every = torch.cat([self._first[:, :, :length], tokens], 2)
        else:
            super().encode(length, tokens)
            return
        self._next = every, encode(every, self.held.bits, *frame(every, self.held.bits))

    def put(self, length: int, new: int) -> None:
        """Make the `new` keys encoded last follow the first `length` ones."""
        end = length + new
        if self._next is not None:
            every, self.held = self._next  # codes of another frame leave those that are in use alone
            self._grow(end, 2 * end)
            self._watch, self._next = Watch(), None
            self._first = every.clone() if end < FIRST_KEYS else None
        else:
            latest = slice(max(0, end - LATEST), end)
            self._watch.see(
                new,
                self.held.device,
                lambda: replace(self.held, codes=self.held.codes[:, :, latest], steps=self.held.steps[..., latest]),
            )

    def select(self, sequences: Tensor) -> None:
        """Select sequences of the batch, as in `KeyValueCache.select`."""
        super().select(sequences)
        if self._first is not None:
            with torch.inference_mode(False):
                self._first = self._first.index_select(0, sequences.to(self._first.device))
