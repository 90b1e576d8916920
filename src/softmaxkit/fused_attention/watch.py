"""A look, now and then, at the latest keys of a cache: whether the frame that its first keys gave fits them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from softmaxkit.kernels.cards import is_captured
from softmaxkit.kernels.codes import Cached
from softmaxkit.kernels.frame import FIRST_KEYS, OUTGROWN, is_outgrown
from softmaxkit.warning import warn

LATEST = 64
"""Keys looked at."""
COST = {8: "2% of their spread", 4: "a third of their spread"}
"""What an outgrown frame costs scores, root mean square, if keys are as large as `OUTGROWN` there and normal else."""


class Watch:
    """Warns once if the frame of a cache does not fit its later keys.

    It looks at the latest 64 keys whenever there are as many new ones: at every 64th generated token, and at once at a
    long second prompt. The frame itself stays: codes that are written, in pages that sequences may share, keep their
    meaning, and no result depends on what is written later.

    Args:
        most_writes: the number of writes from one look to the next grows up to this number: 1, 2, 4, ...
    """

    def __init__(self, most_writes: int = 1) -> None:
        self._most = most_writes
        self._keys = self._writes = 0
        self._wait: int | None = 1  # None after the warning

    @property
    def has_warned(self) -> bool:
        """Whether it has warned, and looks at no further keys."""
        return self._wait is None

    def see(self, keys: int, device: torch.device, latest: Callable[[], Cached]) -> None:
        """Take note of a write; not of one that is captured in a CUDA graph.

        Args:
            keys: number of keys written.
            device: where the keys are.
            latest: returns the latest `LATEST` keys of the cache.
        """
        if self._wait is None or is_captured(device):
            return
        self._keys += keys
        self._writes += 1
        if self._keys < LATEST or self._writes < self._wait:
            return
        self._keys = self._writes = 0
        self._wait = min(2 * self._wait, self._most)
        codes = latest()
        if is_outgrown(codes):
            self._wait = None
            more_bits = "" if codes.bits == 8 else "take bits=8, "
            warn(
                f"keys of this cache have outlier channels that its first keys did not have, {OUTGROWN[codes.bits]} "
                f"times as large as a head's median channel or more, and the factors of channels are those of the "
                f"first keys ({FIRST_KEYS}, or more if they came together): with {codes.bits} bits, scores err by "
                f"about {COST[codes.bits]} or more. Start with keys like the later ones (a longer prompt, without "
                f"padding; sample_keys= of PagedKeyValueCache), {more_bits}or generate with a "
                "DynamicCache"
            )
