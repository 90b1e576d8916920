"""Keys of a paged cache, in the frame of the first ones."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from softmaxkit.fused_attention.pool import check_encodable, heads_first, read
from softmaxkit.fused_attention.watch import LATEST, Watch
from softmaxkit.kernels.cards import is_captured
from softmaxkit.kernels.codes import Cached
from softmaxkit.kernels.encode import encode_into_slots
from softmaxkit.kernels.frame import FIRST_KEYS, frame

RARELY = 64
"""Writes from one look at the latest keys to the next, for which a GPU has to be waited for."""


class PoolKeys:
    """The keys of a pool.

    Args:
        held: their codes, with a spare page at the end.
        samples: keys that give the frame, (tokens, heads, channels); None for the first ones written.

    Attributes:
        held: their codes, in the present frame.
    """

    def __init__(self, held: Cached, samples: Tensor | None = None) -> None:
        self.held = held
        self._first: _FirstKeys | None = None
        """The first keys written, while they are few."""
        self._latest: deque[Tensor] = deque(maxlen=LATEST)
        """The slots of the latest writes in the final frame."""
        self._watch = Watch(RARELY)
        with torch.inference_mode(False):
            if samples is None:
                none = torch.zeros(0, dtype=torch.int64, device=held.device)
                self._first = _FirstKeys(none, none, none)
            else:
                self.held = self._framed(samples)

    @property
    def is_framed(self) -> bool:
        """Whether the frame is final."""
        return self._first is None

    def write(self, keys: Tensor, slots: Tensor) -> None:
        """Write keys; while the first ones are few, all of them, in the frame that all of them have.

        Args:
            keys: (tokens, heads, channels).
            slots: int64, (tokens,), on the pool's device.

        Raises:
            ValueError: as in `softmaxkit.kernels.encode.encode`; nothing is written.
        """
        with torch.inference_mode(False):
            if self._first is None:
                tokens = heads_first(keys)
                check_encodable("key", tokens, self.held)
                encode_into_slots(self.held, slots, tokens)
                if not (self._watch.has_warned or is_captured(self.held.device)):  # a graph's memory stays in it
                    self._latest.append(slots[-LATEST:].clone())  # servers reuse the memory of their slots
                return
            first = self._first.written(keys.detach(), slots)
            held = self._framed(first.keys)
            tokens = heads_first(first.keys[first.tokens])
            check_encodable("key", tokens, held)
            encode_into_slots(held, first.slots, tokens)
            self.held = held
            self._first = replace(first, keys=first.keys.clone()) if len(first) < FIRST_KEYS else None

    def look(self, written: int) -> None:
        """Take note of the number of keys just written, and now and then look whether a final frame fits them."""
        if self._latest:
            self._watch.see(written, self.held.device, self._latest_keys)

    def copied(self, sources: Tensor, targets: Tensor) -> None:
        """Take note of pages copied to others, int64, (pairs,) each."""
        if self._first is not None:
            with torch.inference_mode(False):
                self._first = self._first.copied(sources, targets, self.held.codes.shape[2])

    def _framed(self, keys: Tensor) -> Cached:
        centre, factor = frame(heads_first(keys).clone(), self.held.bits)
        return replace(self.held, centre=centre, factor=factor)

    def _latest_keys(self) -> Cached:
        slots = torch.cat(list(self._latest))[-LATEST:]
        pages, _, block_size = self.held.codes.shape[:3]
        return read(self.held, slots[slots < (pages - 1) * block_size])  # those in the spare page were skipped


@dataclass(frozen=True)
class _FirstKeys:
    """The first keys that were written to a pool, as they came.

    Attributes:
        keys: (tokens, heads, channels), overwritten ones too.
        slots: int64, (slots,), those that still hold one of them.
        tokens: int64, (slots,), the key in each slot.
    """

    keys: Tensor
    slots: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return self.keys.shape[0]

    def written(self, keys: Tensor, slots: Tensor) -> _FirstKeys:
        """Return these and further keys, in their slots."""
        is_kept = ~torch.isin(self.slots, slots)
        every = torch.cat([self.keys, keys]) if len(self) else keys
        tokens = torch.arange(len(self), every.shape[0], device=slots.device)
        return _FirstKeys(every, torch.cat([self.slots[is_kept], slots]), torch.cat([self.tokens[is_kept], tokens]))

    def copied(self, sources: Tensor, targets: Tensor, block_size: int) -> _FirstKeys:
        """Return these after pages have been copied to others."""
        blocks = self.slots // block_size
        pairs, copied = (blocks == sources[:, None]).nonzero().unbind(1)
        is_kept = ~torch.isin(blocks, targets)
        slots = targets[pairs] * block_size + self.slots[copied] % block_size
        return replace(
            self,
            slots=torch.cat([self.slots[is_kept], slots]),
            tokens=torch.cat([self.tokens[is_kept], self.tokens[copied]]),
        )
