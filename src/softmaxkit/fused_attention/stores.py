"""Codes of a key-value cache with spare capacity, and those of keys in the frame of the first ones."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from softmaxkit.fused_attention.watch import LATEST, Watch
from softmaxkit.kernels.codes import Cached, encode
from softmaxkit.kernels.frame import FIRST_KEYS, frame


class Store:
    """Codes of tokens and their steps, with spare capacity."""

    def __init__(self, none: Tensor, bits: int) -> None:
        with torch.inference_mode(False):
            self.held = encode(torch.empty_like(none), bits)

    def encoded(self, length: int, tokens: Tensor) -> Cached:
        """Return codes to put, of tokens that follow the first `length` ones; the store stays as it is."""
        return encode(tokens, self.held.bits, self.held.centre, self.held.factor)

    def put(self, codes: Cached, length: int) -> None:
        """Make these codes the last ones of `length` tokens."""
        begin = length - codes.shape[2]
        if begin == 0 or length > self.held.shape[2]:  # codes of another frame leave those that are in use alone
            self._grow(begin, 2 * length)
        self.held = replace(self.held, centre=codes.centre, factor=codes.factor)
        self.held.codes[:, :, begin:length], self.held.steps[..., begin:length] = codes.codes, codes.steps

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
        return replace(self.held, codes=self.held.codes[:, :, :length], steps=self.held.steps[..., :length])


class KeyStore(Store):
    """Codes of keys, whose frame is that of the first keys."""

    def __init__(self, none: Tensor, bits: int) -> None:
        super().__init__(none, bits)
        self._first: Tensor | None = None
        """The first keys as they came, and possibly some that were not put after them; None once they are many."""
        self._watch = Watch()

    def encoded(self, length: int, tokens: Tensor) -> Cached:
        """Return codes to put; while the first keys are few, of all of them."""
        if length == 0:
            every = tokens
        elif self._first is not None:
            every = torch.cat([self._first[:, :, :length], tokens], 2)
        else:
            return super().encoded(length, tokens)
        codes = encode(every, self.held.bits, *frame(every, self.held.bits))
        self._first = every
        return codes

    def put(self, codes: Cached, length: int) -> None:
        """Make these codes the last ones of `length` keys."""
        super().put(codes, length)
        if codes.shape[2] == length:
            self._watch = Watch()
            self._first = self._first.clone() if self._first is not None and length < FIRST_KEYS else None
        else:
            latest = slice(max(0, length - LATEST), length)
            self._watch.see(
                codes.shape[2],
                codes.device,
                lambda: replace(self.held, codes=self.held.codes[:, :, latest], steps=self.held.steps[..., latest]),
            )

    def select(self, sequences: Tensor) -> None:
        """Select sequences of the batch, as in `KeyValueCache.select`."""
        super().select(sequences)
        if self._first is not None:
            with torch.inference_mode(False):
                self._first = self._first.index_select(0, sequences.to(self._first.device))
